"""What makes the model smaller or faster on one CPU core, and what it costs: a table for docs/compression.md.

Every variant is timed poster by poster, in turns with all others, so that whatever else the machine does hits all of
them; quality is measured on the test posters, at the bundle's thresholds. Nothing is trained again.

    python benchmarks/compression.py outputs/starter/best.ckpt --bundle starter --out docs/compression.md
"""

from __future__ import annotations

import argparse
import copy
import gzip
import io
import re
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import torch
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization import QuantType, quantize_dynamic
from torch.nn.utils import prune

from onesheet.bundle import Bundle, load_bundle
from onesheet.contract import INPUT, OUTPUTS
from onesheet.data.manifest import MANIFEST_FILE, Manifest, read_manifest
from onesheet.evaluation.metrics import multilabel_metrics
from onesheet.export.graph import BundleGraph, to_onnx
from onesheet.export.quantize import CALIBRATION_POSTERS, quantize
from onesheet.predictor import map_batches, open_session
from onesheet.training.checkpoint import load_checkpoint

ROUNDS = 60
BASE = "ONNX Runtime, fp32"

Run = Callable[[NDArray[np.uint8]], NDArray[np.float32]]


@dataclass(frozen=True)
class Variant:
    """A way to run the model, and what it weighs."""

    name: str
    megabytes: float
    run: Run


def main() -> None:
    arguments = parse()
    torch.set_num_threads(1)
    bundle = load_bundle(arguments.bundle)
    manifest = read_manifest(arguments.processed / MANIFEST_FILE, arguments.raw)
    test = pixels(manifest.split("test"), bundle)
    calibration = pixels(manifest.split("train"), bundle)[:CALIBRATION_POSTERS]
    network = load_checkpoint(arguments.checkpoint).network
    graph = BundleGraph(network, bundle.metadata.calibration).eval()
    variants = [*torch_variants(graph), *onnx_variants(graph, bundle, calibration), *pruned(graph, bundle)]
    table = measure(variants, test, manifest.split("test").targets(), bundle)
    print(table)
    if arguments.out:
        page = arguments.out.read_text()
        arguments.out.write_text(re.sub(r"(?s)(<!-- table -->\n).*(<!-- end -->)", rf"\1{table}\n\2", page))


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--bundle", default="starter", help="exported from it")
    parser.add_argument("--raw", type=Path, default=Path("data/raw"))
    parser.add_argument("--processed", type=Path, default=Path("data/processed"))
    parser.add_argument("--out", type=Path, help="page whose table is written anew")
    return parser.parse_args()


def pixels(posters: Manifest, bundle: Bundle) -> NDArray[np.uint8]:
    spec = bundle.metadata.preprocess
    return np.stack(list(map_batches(lambda batch: [posters.load(e, spec).pixels for e in batch], posters.entries, 2)))


def torch_variants(graph: BundleGraph) -> list[Variant]:
    weights = io.BytesIO()
    torch.save(graph.state_dict(), weights)
    size = weights.tell() / 1e6
    compiled = copy.deepcopy(graph)
    compiled.compile(dynamic=True)
    return [Variant("torch", size, in_torch(graph)), Variant("torch.compile", size, in_torch(compiled))]


def onnx_variants(graph: BundleGraph, bundle: Bundle, calibration: NDArray[np.uint8]) -> list[Variant]:
    exact = to_onnx(graph, bundle.metadata.preprocess)
    int8 = quantize(exact, calibration)
    half = with_half_weights(exact)
    dynamic = quantized_dynamically(exact)
    return [
        Variant("ONNX Runtime, fp32, graph optimisation off", len(exact) / 1e6, unoptimised(exact)),
        Variant(BASE, len(exact) / 1e6, in_onnx(exact)),
        Variant("… weights stored in fp16", len(half) / 1e6, in_onnx(half)),
        Variant("… int8, dynamic", len(dynamic) / 1e6, in_onnx(dynamic)),
        Variant("… int8, static (`model.int8.onnx`)", len(int8) / 1e6, in_onnx(int8)),
    ]


def pruned(graph: BundleGraph, bundle: Bundle) -> list[Variant]:
    """The smallest weights set to 0, over all layers together; what they save shows in the packed file only."""
    variants = []
    for share in (0.3, 0.5, 0.7):
        thin = copy.deepcopy(graph)
        parts = [
            (module, "weight") for module in thin.modules() if isinstance(module, (torch.nn.Conv2d, torch.nn.Linear))
        ]
        prune.global_unstructured(parts, pruning_method=prune.L1Unstructured, amount=share)
        for module, name in parts:
            prune.remove(module, name)
        model = to_onnx(thin, bundle.metadata.preprocess)
        packed = len(gzip.compress(model)) / 1e6
        variants.append(Variant(f"… {share:.0%} of the weights pruned (gzip)", packed, in_onnx(model)))
    return variants


def in_torch(graph: BundleGraph) -> Run:
    def run(images: NDArray[np.uint8]) -> NDArray[np.float32]:
        with torch.inference_mode():
            return graph(torch.from_numpy(images))[0].numpy()

    return run


def in_onnx(model: bytes) -> Run:
    session = open_session(model)
    return lambda images: session.run(OUTPUTS[:1], {INPUT: images})[0]


def unoptimised(model: bytes) -> Run:
    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(model, options)
    return lambda images: session.run(OUTPUTS[:1], {INPUT: images})[0]


def quantized_dynamically(model: bytes) -> bytes:
    with tempfile.TemporaryDirectory() as scratch:
        before, after = Path(scratch, "before.onnx"), Path(scratch, "after.onnx")
        before.write_bytes(model)
        # Only unsigned weights have a kernel for convolutions here.
        quantize_dynamic(str(before), str(after), weight_type=QuantType.QUInt8)
        return after.read_bytes()


def with_half_weights(model: bytes) -> bytes:
    """Half the file; ONNX Runtime widens the weights once, when it loads them."""
    proto = onnx.load_from_string(model)
    casts = []
    for tensor in proto.graph.initializer:
        if tensor.data_type == TensorProto.FLOAT and len(tensor.dims) > 1:
            name, values = tensor.name, numpy_helper.to_array(tensor)
            tensor.CopyFrom(numpy_helper.from_array(values.astype(np.float16), f"{name}_half"))
            casts.append(helper.make_node("Cast", [f"{name}_half"], [name], to=TensorProto.FLOAT))
    nodes = [*casts, *proto.graph.node]
    del proto.graph.node[:]
    proto.graph.node.extend(nodes)
    return bytes(proto.SerializeToString())


def measure(variants: list[Variant], test: NDArray[np.uint8], truth: NDArray[np.bool_], bundle: Bundle) -> str:
    genres = bundle.metadata.genres
    thresholds = np.array([bundle.metadata.thresholds[genre] for genre in genres], np.float32)
    times: dict[str, list[float]] = {variant.name: [] for variant in variants}
    for turn in range(-5, ROUNDS):  # the first are for warming up
        for variant in variants:
            began = time.perf_counter()
            variant.run(test[turn % len(test)][None])
            if turn >= 0:
                times[variant.name].append(time.perf_counter() - began)
    median = {name: statistics.median(taken) for name, taken in times.items()}
    lines = [
        "| | MB | images/s | against fp32 | mAP | F1 macro | F1 micro | ECE |",
        "|---|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for variant in variants:
        answers = np.concatenate([variant.run(test[start : start + 4]) for start in range(0, len(test), 4)])
        quality = multilabel_metrics(answers, truth, answers >= thresholds, genres)
        figures = " | ".join(f"{quality[name]:.3f}" for name in ("map_macro", "f1_macro", "f1_micro", "ece"))
        seconds = median[variant.name]
        speed = f"{1 / seconds:.0f} | {median[BASE] / seconds:.2f} x"
        lines.append(f"| {variant.name} | {variant.megabytes:.1f} | {speed} | {figures} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
