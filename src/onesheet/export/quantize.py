"""The same graph in 8-bit integers, when that pays."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from onnxruntime.quantization import (
    CalibrationDataReader,
    QuantFormat,
    QuantType,
    quantize_static,
)
from onnxruntime.quantization.shape_inference import quant_pre_process

from onesheet.contract import INPUT, OUTPUTS
from onesheet.errors import ExportError, reason
from onesheet.predictor import open_session

if TYPE_CHECKING:
    from numpy.typing import NDArray

CALIBRATION_POSTERS: Final = 256
MIN_SPEEDUP: Final = 1.2
MAX_LOSS: Final = 0.005

_BATCH: Final = 16
_ROUNDS: Final = 40
# What comes before and after the network (normalisation, calibration) stays exact; it costs next to nothing.
_QUANTIZED: Final = ("Conv", "Gemm", "MatMul", "Add", "MaxPool", "AveragePool", "GlobalAveragePool")


def quantize(model: bytes, pixels: NDArray[np.uint8]) -> bytes:
    """Static quantization with ranges from real posters: 8-bit activations, weights scaled for each channel.

    Weights use 7 of their 8 bits: on x86 processors without VNNI the sums of full ones overflow.

    Args:
        model: ONNX graph of a bundle.
        pixels: uint8 `[N, H, W, 3]`, training posters.

    Raises:
        ExportError: ONNX Runtime cannot quantize this graph.
    """
    with tempfile.TemporaryDirectory() as scratch:
        original, prepared, quantized = (Path(scratch, f"{name}.onnx") for name in ("original", "prepared", "int8"))
        original.write_bytes(model)
        try:
            quant_pre_process(str(original), str(prepared))
            quantize_static(
                str(prepared),
                str(quantized),
                _Posters(pixels),
                quant_format=QuantFormat.QDQ,
                op_types_to_quantize=list(_QUANTIZED),
                per_channel=True,
                reduce_range=True,
                activation_type=QuantType.QUInt8,
                weight_type=QuantType.QInt8,
            )
        except Exception as error:  # onnx, protobuf and numpy each have errors of their own here
            raise ExportError(f"this network cannot be quantized: {reason(error)}") from error
        return quantized.read_bytes()


def speedup(model: bytes, quantized: bytes, pixels: NDArray[np.uint8]) -> float:
    """How many times faster the quantized graph answers one poster on one core; medians, taken in turns."""
    times: dict[Any, list[float]] = {open_session(graph): [] for graph in (model, quantized)}
    for turn in range(_ROUNDS):
        poster = pixels[turn % len(pixels)][None]
        for session, taken in times.items():
            start = time.perf_counter()
            session.run(OUTPUTS, {INPUT: poster})
            taken.append(time.perf_counter() - start)
    slow, fast = (float(np.median(taken)) for taken in times.values())
    return slow / fast


class _Posters(CalibrationDataReader):  # type: ignore[misc]  # ONNX Runtime has no types
    """Batches of posters, in the way that ONNX Runtime asks for them."""

    def __init__(self, pixels: NDArray[np.uint8]) -> None:
        starts = range(0, len(pixels), _BATCH)
        self._batches: Iterator[NDArray[np.uint8]] = (pixels[start : start + _BATCH] for start in starts)

    def get_next(self) -> dict[str, NDArray[np.uint8]] | None:
        batch = next(self._batches, None)
        return None if batch is None else {INPUT: batch}
