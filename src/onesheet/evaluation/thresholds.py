"""From which probability on a genre is said, chosen on validation posters and never on test posters."""

from __future__ import annotations

from itertools import product
from typing import TYPE_CHECKING, Final

import numpy as np

from onesheet.evaluation.metrics import f1

if TYPE_CHECKING:
    from numpy.typing import NDArray

_FACTORS: Final = np.geomspace(0.3, 3.0, 25)
_EXPONENTS: Final = np.linspace(0.6, 1.2, 13)


def choose_thresholds(
    probabilities: NDArray[np.floating], targets: NDArray[np.bool_], frequencies: NDArray[np.floating]
) -> NDArray[np.float64]:
    """Per-genre thresholds that hold up: two numbers are fitted, not one for each genre.

    A threshold fitted to the handful of validation posters of a rare genre is mostly noise. Here each genre is said
    for a share `factor * frequency ** exponent` of the posters, where frequency is its share of the training
    posters; factor and exponent are those with the best sum of macro- and micro-F1.

    Args:
        probabilities: `[N, G]` of validation posters.
        targets: bool `[N, G]`.
        frequencies: `[G]`, share of training posters with the genre.

    Returns:
        `[G]`, 0-1.
    """

    def score(thresholds: NDArray[np.float64]) -> float:
        predicted = probabilities >= thresholds
        return float(f1(targets, predicted, axis=0).mean() + f1(targets, predicted, axis=None))

    candidates = [
        _at_rates(probabilities, factor * frequencies**exponent) for factor, exponent in product(_FACTORS, _EXPONENTS)
    ]
    return max(candidates, key=score)


def _at_rates(probabilities: NDArray[np.floating], rates: NDArray[np.floating]) -> NDArray[np.float64]:
    """The thresholds that the given share of posters reaches."""
    quantiles = 1 - np.clip(rates, 0, 1)
    columns = zip(probabilities.T, quantiles, strict=True)
    return np.array([np.quantile(column, quantile) for column, quantile in columns], dtype=np.float64)
