"""The gate: torch and ONNX must agree on the same real posters, or there is no bundle."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np
import torch

from onesheet.contract import INPUT, OUTPUTS
from onesheet.errors import ExportError, ParityError
from onesheet.predictor import open_session
from onesheet.training.requirements import PARITY_POSTERS

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from onesheet.export.graph import BundleGraph

MAX_DIFFERENCE: Final = 1e-4


def check_parity(graph: BundleGraph, model: bytes, pixels: NDArray[np.uint8]) -> float:
    """Compare torch and ONNX poster by poster, at batch 1 and at batch N.

    Args:
        graph: The network in torch.
        model: The same as ONNX.
        pixels: uint8 `[N, H, W, 3]` of at least 64 real posters.

    Returns:
        The largest difference of a probability.

    Raises:
        ParityError: It is larger than 1e-4.
        ExportError: There are too few posters to tell.
    """
    if len(pixels) < PARITY_POSTERS:
        raise ExportError(f"comparing torch and ONNX needs {PARITY_POSTERS} posters, got {len(pixels)}")
    with torch.inference_mode():
        expected = graph(torch.from_numpy(pixels))[0].numpy()
    session = open_session(model)
    together = session.run(OUTPUTS[:1], {INPUT: pixels})[0]
    alone = np.concatenate([session.run(OUTPUTS[:1], {INPUT: image[None]})[0] for image in pixels])
    difference = float(max(np.abs(together - expected).max(), np.abs(alone - expected).max()))
    if not difference <= MAX_DIFFERENCE:  # also catches NaN
        raise ParityError(f"probabilities of torch and ONNX differ by {difference:.2g}, at most 1e-4 is allowed")
    return difference
