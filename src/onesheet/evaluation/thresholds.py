"""From which probability on a genre is said, chosen on validation posters and never on test posters."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np
from scipy.stats import beta

if TYPE_CHECKING:
    from numpy.typing import NDArray

# How many posters the model's own probabilities weigh as much as, and how sure a precision must be.
_PRIOR_POSTERS: Final = 20
_CONFIDENCE: Final = 0.8


def thresholds_for_f1(probabilities: NDArray[np.floating]) -> NDArray[np.float64]:
    """Per-genre thresholds with the highest F1 that calibrated probabilities expect, and so the highest macro-F1.

    A threshold fitted to the truth of a rare genre's handful of posters is mostly noise. If `k` posters are said to
    have a genre, their probabilities `p` expect `2 * sum of the k highest p / (k + sum of all p)` for its F1; the
    best `k` gives the threshold, which is half of that F1 (Lipton, Elkan and Narayanaswamy, 2014).

    Args:
        probabilities: `[N, G]` of posters that the model was not trained on, calibrated.

    Returns:
        `[G]`, 0-1.
    """
    ranked = -np.sort(-probabilities.astype(np.float64), axis=0)
    said = np.arange(1, len(ranked) + 1)[:, np.newaxis]
    expected = 2 * np.cumsum(ranked, axis=0) / (said + ranked.sum(axis=0))
    thresholds: NDArray[np.float64] = expected.max(axis=0) / 2
    return thresholds


def thresholds_for_precision(
    probabilities: NDArray[np.floating], targets: NDArray[np.bool_], precision: float
) -> NDArray[np.float64]:
    """The lowest threshold of each genre from which on it is right often enough, with 80 % confidence.

    How often a genre was right on the validation posters is joined with how often its calibrated probabilities
    expect it to be, as a Beta distribution.

    Args:
        probabilities: `[N, G]` of validation posters, calibrated.
        targets: bool `[N, G]`.
        precision: To reach, 0-1.

    Returns:
        `[G]`, 0-1; 1, which is never reached, where no threshold will do.
    """
    columns = zip(probabilities.T, targets.T, strict=True)
    return np.array([_precise_from(scores, truth, precision) for scores, truth in columns])


def _precise_from(scores: NDArray[np.floating], truth: NDArray[np.bool_], precision: float) -> float:
    order = np.argsort(-scores, kind="stable")
    ranked = scores[order].astype(np.float64)
    said = np.arange(1, len(ranked) + 1)
    right = np.cumsum(truth[order])
    expected = _PRIOR_POSTERS * np.cumsum(ranked) / said
    sure = beta.ppf(1 - _CONFIDENCE, right + expected, said - right + _PRIOR_POSTERS - expected) >= precision
    apart = np.append(ranked[1:] < ranked[:-1], True)  # equal scores are said together
    enough = np.flatnonzero(sure & apart)
    return float(ranked[enough[-1]]) if len(enough) else 1.0
