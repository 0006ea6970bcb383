"""From which probability on a genre is said, chosen on validation posters and never on test posters."""

from __future__ import annotations

from itertools import product
from typing import TYPE_CHECKING, Final

import numpy as np
from scipy.stats import beta

from onesheet.evaluation.metrics import f1

if TYPE_CHECKING:
    from numpy.typing import NDArray

_FACTORS: Final = np.geomspace(0.3, 3.0, 25)
_EXPONENTS: Final = np.linspace(0.6, 1.2, 13)
# Micro-F1 counts for half, so that the frequent genres are not given away for the rare ones.
_MICRO_WEIGHT: Final = 0.5
# The very best candidate owes its place to chance; this share of them is averaged.
_BEST: Final = 0.2

# How many posters the model's own probabilities weigh as much as, and how sure a precision must be.
_PRIOR_POSTERS: Final = 20
_CONFIDENCE: Final = 0.8


def thresholds_for_f1(
    probabilities: NDArray[np.floating], targets: NDArray[np.bool_], frequencies: NDArray[np.floating]
) -> NDArray[np.float64]:
    """Per-genre thresholds for a high macro-F1 that hold up: two numbers are fitted, not one for each genre.

    A threshold fitted to the handful of validation posters of a rare genre is mostly noise. Here each genre is said
    for a share `factor * frequency ** exponent` of the posters, where frequency is its share of the training
    posters. Candidates are ranked by macro-F1 and half of micro-F1, and the best fifth is averaged.

    Args:
        probabilities: `[N, G]` of validation posters.
        targets: bool `[N, G]`.
        frequencies: `[G]`, share of training posters with the genre.

    Returns:
        `[G]`, 0-1.
    """
    candidates = np.array(
        [_at_rates(probabilities, factor * frequencies**exponent) for factor, exponent in product(_FACTORS, _EXPONENTS)]
    )
    scores = []
    for thresholds in candidates:
        predicted = probabilities >= thresholds
        scores.append(f1(targets, predicted, axis=0).mean() + _MICRO_WEIGHT * f1(targets, predicted, axis=None))
    best = np.argsort(scores)[-round(_BEST * len(scores)) :]
    averaged: NDArray[np.float64] = np.exp(np.log(np.maximum(candidates[best], 1e-6)).mean(axis=0))
    return averaged


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


def _at_rates(probabilities: NDArray[np.floating], rates: NDArray[np.floating]) -> NDArray[np.float64]:
    """The thresholds that the given share of posters reaches."""
    quantiles = 1 - np.clip(rates, 0, 1)
    columns = zip(probabilities.T, quantiles, strict=True)
    return np.array([np.quantile(column, quantile) for column, quantile in columns], dtype=np.float64)


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
