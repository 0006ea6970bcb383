"""Torch to ONNX: one self-contained graph from uint8 pixels to calibrated probabilities."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor, nn

from onesheet.contract import INPUT, OUTPUTS
from onesheet.errors import ExportError, reason

if TYPE_CHECKING:
    import onnx

    from onesheet.bundle import Calibration
    from onesheet.image import PreprocessSpec


class BundleGraph(nn.Module):
    """A network with its calibration: uint8 `[N, H, W, 3]` to `(probabilities [N, G], embedding [N, D])`."""

    def __init__(self, network: nn.Module, calibration: Calibration) -> None:
        super().__init__()
        self.network = network
        self.register_buffer("scale", torch.tensor(calibration.scale))
        self.register_buffer("shift", torch.tensor(calibration.shift))
        self.scale: Tensor
        self.shift: Tensor

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Calibrated probabilities and embedding."""
        logits, embedding = self.network(images)
        return torch.sigmoid(self.scale * logits + self.shift), embedding


def to_onnx(graph: BundleGraph, spec: PreprocessSpec) -> bytes:
    """Export with a free batch size and the weights inside.

    Raises:
        ExportError: torch cannot express the network in ONNX.
    """
    # Two, because a batch of one would be taken for a constant.
    example = torch.zeros((2, spec.height, spec.width, 3), dtype=torch.uint8)
    with _quiet():
        try:
            program = torch.onnx.export(
                graph.eval(),
                (example,),
                input_names=[INPUT],
                output_names=list(OUTPUTS),
                dynamic_shapes=({0: torch.export.Dim("batch")},),
                dynamo=True,
                verbose=False,
            )
        except (torch.onnx.errors.OnnxExporterError, RuntimeError) as error:
            raise ExportError(f"torch cannot export this network: {reason(error)}") from error
    model: onnx.ModelProto = cast("torch.onnx.ONNXProgram", program).model_proto
    _forget_its_making(model)
    return bytes(model.SerializeToString())


def _forget_its_making(model: onnx.ModelProto) -> None:
    """Drop the exporter's notes, which hold stack traces with paths of the machine that it ran on."""
    graph = model.graph
    for part in (model, graph, *graph.node, *graph.input, *graph.output, *graph.initializer, *graph.value_info):
        part.ClearField("metadata_props")
        part.ClearField("doc_string")


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """The exporter prints and warns about its own insides."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
