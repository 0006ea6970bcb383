"""Do two samples come from the same distribution? Tests whose rate of false alarms is known."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np
from scipy import stats

if TYPE_CHECKING:
    from numpy.typing import NDArray

_PERMUTATIONS: Final = 999
# More would take longer and tell no more: the smaller sample decides.
_MOST: Final = 1500
# Of the average direction's own weight. There are hardly more vectors than directions: with less shrinkage the
# classifier learns the accidents of the sample, and finds a changed mix of genres a third as often.
_SHRINKAGE: Final = 100


def kolmogorov_smirnov(reference: NDArray[np.floating], current: NDArray[np.floating]) -> tuple[float, float]:
    """Of one number each.

    Returns:
        The greatest distance between the two cumulative distributions (0: the same, 1: no value in common), and its
        asymptotic p-value, which is too careful where values repeat.
    """
    found = stats.ks_2samp(reference, current, method="asymp")
    return float(found.statistic), float(found.pvalue)


def false_discovery_rates(p_values: list[float]) -> list[float]:
    """Of many tests (Benjamini and Hochberg 1995): called moved up to a rate, at most such a share was not moved.

    Where nothing has moved at all, anything is called so with at most that probability, as the tests here are
    positively dependent (Benjamini and Yekutieli 2001).
    """
    return [float(rate) for rate in stats.false_discovery_control(p_values, method="bh")]


@dataclass(frozen=True, slots=True)
class Separation:
    """How well a classifier tells two samples apart.

    Attributes:
        area: Under the ROC curve, of the vectors left out (0.5: by chance, 1: always).
        p_value: How likely that area or more is by chance.
        reference: float64 `[N]`, how much each vector looks like the other sample; NaN where it was not looked at.
        current: The same of the other sample, `[M]`.
    """

    area: float
    p_value: float
    reference: NDArray[np.float64]
    current: NDArray[np.float64]


def domain_classifier(reference: NDArray[np.float32], current: NDArray[np.float32]) -> Separation:
    """Can a linear classifier tell which sample a vector is from?

    A classifier two-sample test (Lopez-Paz and Oquab 2017). The classifier is a ridge regression of which every vector
    is left out in turn: that needs one decomposition and no loop, and the same one serves all permutations, which make
    the p-value exact.

    Args:
        reference: `[N, D]`.
        current: `[M, D]`.
    """
    rng = np.random.default_rng(0)
    places = _at_most(len(reference), rng), _at_most(len(current), rng)
    vectors = np.concatenate([reference[places[0]], current[places[1]]]).astype(np.float64)
    is_current = np.arange(len(vectors)) >= len(places[0])
    hat = _hat(vectors)
    target = np.where(is_current, 1 / is_current.sum(), -1 / (~is_current).sum())
    marks = np.column_stack([target, *(rng.permutation(target) for _ in range(_PERMUTATIONS))])
    own = np.diag(hat)[:, None]
    scores = (hat @ marks - own * marks) / (1 - own)
    ranks = stats.rankdata(scores, axis=0)
    positives = marks > 0
    count = positives[:, 0].sum()
    areas = ((ranks * positives).sum(axis=0) - count * (count + 1) / 2) / (count * (len(vectors) - count))
    found = np.full(len(reference), np.nan), np.full(len(current), np.nan)
    found[0][places[0]], found[1][places[1]] = scores[~is_current, 0], scores[is_current, 0]
    return Separation(float(areas[0]), float((areas >= areas[0]).mean()), *found)


def _hat(vectors: NDArray[np.float64]) -> NDArray[np.float64]:
    """`[N, N]`: what a ridge regression makes of its targets; directions along which they vary little count little."""
    spread = vectors.std(axis=0)
    scaled = (vectors - vectors.mean(axis=0)) / np.where(spread > 0, spread, 1)
    left, values, _ = np.linalg.svd(scaled, full_matrices=False)
    squares = values**2
    return np.asarray((left * (squares / (squares + _SHRINKAGE * squares.mean()))) @ left.T)


def _at_most(count: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """Places of so many vectors as are looked at, in order."""
    return np.arange(count) if count <= _MOST else np.sort(rng.choice(count, _MOST, replace=False))
