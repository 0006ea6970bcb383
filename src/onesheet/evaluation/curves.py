"""Curves of a multi-label model: ROC, precision against recall, reliability."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

import numpy as np
from matplotlib.figure import Figure
from PIL import Image
from sklearn.metrics import precision_recall_curve, roc_curve

from onesheet.evaluation.metrics import expected_calibration_error

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from numpy.typing import NDArray

_ACCENT: Final = "#33658a"
_GENRE: Final = "#b8c4cf"
_BINS: Final = 15


def roc_figure(probabilities: NDArray[np.floating], targets: NDArray[np.bool_], genres: Sequence[str]) -> Figure:
    """One thin line a genre, one thick over all (poster, genre) pairs.

    Args:
        probabilities: `[N, G]`, 0-1.
        targets: bool `[N, G]`.
        genres: G names.
    """
    figure, axis = _square("false positive rate", "true positive rate", "ROC")
    axis.plot([0, 1], [0, 1], color="grey", linewidth=0.8, linestyle=":")
    for index in _rankable(targets, genres):
        false, true, _ = roc_curve(targets[:, index], probabilities[:, index])
        axis.plot(false, true, color=_GENRE, linewidth=0.8)
    if 0 < targets.sum() < targets.size:
        false, true, _ = roc_curve(targets.ravel(), probabilities.ravel())
        axis.plot(false, true, color=_ACCENT, linewidth=2, label="all pairs")
    axis.legend(loc="lower right")
    return figure


def pr_figure(probabilities: NDArray[np.floating], targets: NDArray[np.bool_], genres: Sequence[str]) -> Figure:
    """As `roc_figure`, precision against recall."""
    figure, axis = _square("recall", "precision", "Precision and recall")
    for index in _rankable(targets, genres):
        precision, recall, _ = precision_recall_curve(targets[:, index], probabilities[:, index])
        axis.plot(recall, precision, color=_GENRE, linewidth=0.8)
    if targets.any():
        precision, recall, _ = precision_recall_curve(targets.ravel(), probabilities.ravel())
        axis.plot(recall, precision, color=_ACCENT, linewidth=2, label="all pairs")
    axis.legend(loc="upper right")
    return figure


def reliability_figure(probabilities: NDArray[np.floating], targets: NDArray[np.bool_]) -> Figure:
    """How often genres are right that were given a probability, and how many pairs stand behind each point."""
    ece = expected_calibration_error(probabilities, targets)
    figure, axis = _square("probability", "share that is true", f"Reliability: ECE {ece:.3f}")
    flat, truth = probabilities.ravel(), targets.ravel()
    bin_of = np.minimum((flat * _BINS).astype(int), _BINS - 1)
    counts = np.bincount(bin_of, minlength=_BINS)
    filled = counts > 0
    mean = np.bincount(bin_of, flat, _BINS)[filled] / counts[filled]
    true = np.bincount(bin_of, truth, _BINS)[filled] / counts[filled]
    axis.plot([0, 1], [0, 1], color="grey", linewidth=0.8, linestyle=":")
    axis.plot(mean, true, color=_ACCENT, linewidth=1)
    axis.scatter(mean, true, s=6 + 60 * np.sqrt(counts[filled] / counts.max()), color=_ACCENT)
    for x, y, count in zip(mean, true, counts[filled], strict=True):
        axis.annotate(f"{count}", (x, y), textcoords="offset points", xytext=(6, -8), fontsize=6)
    return figure


def to_image(figure: Figure) -> Image.Image:
    """A figure as a picture in memory."""
    encoded = io.BytesIO()
    figure.savefig(encoded, format="png", dpi=100)
    return Image.open(encoded)


def _square(x: str, y: str, title: str) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(5, 5), layout="constrained")
    axis = figure.subplots()
    axis.set(xlim=(0, 1), ylim=(0, 1.02), xlabel=x, ylabel=y, title=title)
    axis.spines[["top", "right"]].set_visible(False)
    return figure, axis


def _rankable(targets: NDArray[np.bool_], genres: Sequence[str]) -> list[int]:
    positives = targets.sum(axis=0)
    return [index for index in range(len(genres)) if 0 < positives[index] < len(targets)]
