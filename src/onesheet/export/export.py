"""`onesheet export`: a checkpoint to a bundle, or a reason why not."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from onesheet.acceptance import accept_bundle
from onesheet.bundle import CARD_FILE, INT8_FILE, MODEL_FILE, REFERENCE_FILE, Bundle, Calibration, write_bundle
from onesheet.contract import INPUT, OUTPUTS
from onesheet.data.manifest import MANIFEST_FILE, Manifest, read_manifest
from onesheet.errors import ExportError
from onesheet.evaluation.baselines import baselines
from onesheet.evaluation.calibration import calibrated, fit_platt
from onesheet.evaluation.metrics import multilabel_metrics, reliability_bins
from onesheet.evaluation.thresholds import thresholds_for_f1, thresholds_for_precision
from onesheet.export.card import model_card
from onesheet.export.graph import BundleGraph, to_onnx
from onesheet.export.parity import check_parity
from onesheet.export.quantize import CALIBRATION_POSTERS, MAX_LOSS, MIN_SPEEDUP, quantize, speedup
from onesheet.export.reference import reference_table
from onesheet.image import Picture, PreprocessSpec
from onesheet.predictor import map_batches, open_session, usable_cores
from onesheet.training.checkpoint import Checkpoint, load_checkpoint
from onesheet.training.requirements import PARITY_POSTERS, export_obstacles

if TYPE_CHECKING:
    from numpy.typing import NDArray

_BATCH = 32


@dataclass(frozen=True, slots=True)
class _Posters:
    """Some posters of the manifest, as the network sees them."""

    manifest: Manifest
    pictures: list[Picture]

    @property
    def pixels(self) -> NDArray[np.uint8]:
        """uint8 `[N, H, W, 3]`."""
        return np.stack([picture.pixels for picture in self.pictures])


@dataclass(frozen=True, slots=True)
class _Decision:
    """What the validation posters decided."""

    calibration: Calibration
    thresholds: NDArray[np.float64]
    aim: str


def export(
    checkpoint_path: Path,
    out: Path,
    *,
    name: str | None = None,
    version: str | None = None,
    raw: Path | None = None,
    processed: Path | None = None,
    min_precision: float | None = None,
    min_speedup: float = MIN_SPEEDUP,
    on_step: Callable[[str], None] | None = None,
) -> Bundle:
    """Turn a checkpoint into a bundle.

    Calibration and thresholds are chosen on the validation posters; the test posters are only measured.

    Args:
        checkpoint_path: Of `onesheet train`.
        out: Folder of the bundle; `<out>.tar.gz` is written beside it.
        name: Of the model; default: that of its configuration.
        version: Default: the date and time of the export.
        raw: Folder of the raw posters; default: where training found them.
        processed: Folder of the manifest; default: where training found it.
        min_precision: How often a genre that is said shall be right, 0-1; default: thresholds aim at macro-F1.
        min_speedup: How many times faster an int8 graph has to be to travel along; it must not cost more than 0.005
            mAP either. Infinity does not even try.
        on_step: Called with a sentence as each step begins.

    Raises:
        DataError: The posters or their manifest are gone.
        CheckpointError: The checkpoint is none of ours.
        ExportError: The posters are not those it was trained with, or too few for the checks.
        ParityError: Torch and ONNX disagree; nothing is written.
        BundleError: The bundle would not work; nothing is written.
    """
    begin = on_step or (lambda _: None)
    begin("Reading checkpoint and posters")
    checkpoint = load_checkpoint(checkpoint_path)
    manifest = _training_manifest(checkpoint, raw, processed)
    spec = PreprocessSpec(checkpoint.model.height, checkpoint.model.width)
    validation = _read(manifest.split("validation"), spec)
    test = _read(manifest.split("test"), spec)

    begin("Choosing calibration and thresholds on the validation posters")
    decision = _decide(checkpoint, validation, min_precision)

    begin("Exporting to ONNX, and comparing it with torch on real posters")
    model, parity = _convert(checkpoint, decision, manifest, spec)

    begin("Measuring on the test posters")
    probabilities, embeddings = _run(model, validation.pixels)
    metrics = {
        "validation": _measure(probabilities, validation.manifest, decision.thresholds),
        "test": _measure(_run(model, test.pixels)[0], test.manifest, decision.thresholds),
        "baselines": baselines(_frequencies(checkpoint, manifest), test.manifest.targets(), manifest.genres),
        "parity": parity,
    }
    files = {
        MODEL_FILE: model,
        REFERENCE_FILE: reference_table(validation.manifest.entries, validation.pictures, probabilities, embeddings),
    }
    if min_speedup < np.inf:
        begin("Quantizing, and measuring what that saves and costs")
        calibrating = _read(_first(manifest.split("train"), CALIBRATION_POSTERS), spec)
        metrics["int8"], quantized = _try_int8(
            model, calibrating, validation, test, decision, metrics["validation"], min_speedup
        )
        if quantized is not None:
            files[INT8_FILE] = quantized

    metadata = _metadata(checkpoint, manifest, spec, decision, metrics)
    metadata |= {"name": name or metadata["name"], "version": version or metadata["version"]}
    files[CARD_FILE] = model_card(metadata, {name: len(content) for name, content in files.items()}).encode()
    return write_bundle(metadata, files, out, accept_bundle)


def _training_manifest(checkpoint: Checkpoint, raw: Path | None, processed: Path | None) -> Manifest:
    trained_on = {name: Path(folder) for name, folder in checkpoint.provenance["data"].items()}
    named = {name: folder for name, folder in (("raw", raw), ("processed", processed)) if folder}
    folders = trained_on | named
    for name, folder in folders.items():
        if name not in named and not folder.is_dir():
            raise ExportError(f"{folder}, where this checkpoint was trained, is not there: say --{name} DIR")
    manifest = read_manifest(folders["processed"] / MANIFEST_FILE, folders["raw"])
    if manifest.fingerprint != checkpoint.provenance["fingerprint"]:
        raise ExportError(
            "the manifest is not the one that this checkpoint was trained with; "
            "its validation and test posters may have been trained on"
        )
    if obstacles := export_obstacles(manifest):
        raise ExportError(f"{'; '.join(obstacles)}: prepare more posters and train again")
    return manifest


def _frequencies(checkpoint: Checkpoint, manifest: Manifest) -> NDArray[np.float64]:
    """`[G]`, share of the training posters with each genre."""
    counts = checkpoint.provenance["genre_counts"]
    frequencies: NDArray[np.float64] = (
        np.array([counts[genre] for genre in manifest.genres]) / manifest.counts()["train"]
    )
    return frequencies


def _first(manifest: Manifest, count: int) -> Manifest:
    return replace(manifest, entries=manifest.entries[:count])


def _readable(manifest: Manifest) -> Manifest:
    """All posters that can be read: of every split, and of none as they have no genre, which come last."""
    readable = (entry for entry in manifest.entries if entry.phash is not None)
    return replace(manifest, entries=tuple(sorted(readable, key=lambda entry: entry.split is None)))


def _read(manifest: Manifest, spec: PreprocessSpec) -> _Posters:
    pictures = map_batches(
        lambda batch: [manifest.load(entry, spec) for entry in batch], manifest.entries, usable_cores()
    )
    return _Posters(manifest, list(pictures))


def _decide(checkpoint: Checkpoint, validation: _Posters, min_precision: float | None) -> _Decision:
    with torch.inference_mode():
        batches = torch.split(torch.from_numpy(validation.pixels), _BATCH)
        logits = torch.cat([checkpoint.network(batch)[0] for batch in batches]).numpy()
    targets = validation.manifest.targets()
    calibration = fit_platt(logits, targets)
    probabilities = calibrated(calibration, logits)
    if min_precision is None:
        aim, thresholds = "macro-F1", thresholds_for_f1(probabilities)
    else:
        aim = f"precision of at least {min_precision:g}"
        thresholds = thresholds_for_precision(probabilities, targets, min_precision)
    return _Decision(calibration, thresholds, aim)


def _convert(
    checkpoint: Checkpoint, decision: _Decision, manifest: Manifest, spec: PreprocessSpec
) -> tuple[bytes, dict[str, Any]]:
    """The network as ONNX, and how near it is to torch."""
    graph = BundleGraph(checkpoint.network, decision.calibration)
    model = to_onnx(graph, spec)
    posters = _read(_first(_readable(manifest), 2 * PARITY_POSTERS), spec)
    return model, {"max_difference": check_parity(graph, model, posters.pixels), "posters": len(posters.pictures)}


def _run(model: bytes, pixels: NDArray[np.uint8]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Probabilities and embeddings of the finished graph, as production will see them."""
    session = open_session(model)

    def run(batch: Sequence[NDArray[np.uint8]]) -> list[tuple[NDArray[np.float32], NDArray[np.float32]]]:
        return list(zip(*session.run(OUTPUTS, {INPUT: np.stack(batch)}), strict=True))

    outputs = list(map_batches(run, pixels, usable_cores(), _BATCH))
    return np.stack([row[0] for row in outputs]), np.stack([row[1] for row in outputs])


def _try_int8(
    model: bytes,
    calibrating: _Posters,
    validation: _Posters,
    test: _Posters,
    decision: _Decision,
    exact: dict[str, Any],
    min_speedup: float,
) -> tuple[dict[str, Any], bytes | None]:
    """What the int8 graph saves and costs, and in `left_out` why it does not pay; validation posters decide.

    Returns:
        That, and the graph if it pays.
    """
    try:
        quantized = quantize(model, calibrating.pixels)
    except ExportError as error:
        return {"left_out": error.message}, None
    gained = speedup(model, quantized, validation.pixels)
    on_validation, on_test = (
        _measure(_run(quantized, posters.pixels)[0], posters.manifest, decision.thresholds)
        for posters in (validation, test)
    )
    lost = (exact["map_macro"] or 0) - (on_validation["map_macro"] or 0)
    left_out = None
    if gained < min_speedup:
        left_out = f"{gained:.2f} times as fast, {min_speedup:g} are asked for"
    elif lost > MAX_LOSS:
        left_out = f"mAP falls by {lost:.3f} on the validation posters, {MAX_LOSS:g} are allowed"
    saving = {"left_out": left_out, "speedup": gained, "validation": on_validation, "test": on_test}
    return saving, None if left_out else quantized


def _measure(probabilities: NDArray[np.float32], manifest: Manifest, thresholds: NDArray[np.float64]) -> dict[str, Any]:
    decisions = probabilities >= thresholds.astype(np.float32)
    targets = manifest.targets()
    return {
        **multilabel_metrics(probabilities, targets, decisions, manifest.genres),
        "reliability": reliability_bins(probabilities, targets),
    }


def _metadata(
    checkpoint: Checkpoint,
    manifest: Manifest,
    spec: PreprocessSpec,
    decision: _Decision,
    metrics: dict[str, Any],
) -> dict[str, Any]:
    created = datetime.now(UTC)
    return {
        "name": checkpoint.provenance["name"],
        "version": f"{created:%Y%m%d.%H%M%S}",
        "created": created,
        "git_commit": checkpoint.provenance["git_commit"],
        "architecture": checkpoint.model.backbone,
        "data": {
            "fingerprint": manifest.fingerprint,
            "seed": manifest.seed,
            "posters": manifest.counts(),
            "genre_counts": checkpoint.provenance["genre_counts"],
        },
        "genres": manifest.genres,
        "preprocess": asdict(spec),
        "threshold_aim": decision.aim,
        "thresholds": dict(zip(manifest.genres, decision.thresholds.tolist(), strict=True)),
        "calibration": decision.calibration.model_dump(),
        "metrics": metrics,
    }
