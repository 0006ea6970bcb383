"""How sure a figure is: the percentile bootstrap over posters (Efron, 1979), all resamples at once.

A resample is a column of counts: how often each poster was drawn. Scores are sorted once for each genre, and the counts
are cumulated along that order, so that a thousand resamples cost about as much as a few sorts.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from onesheet.evaluation.metrics import CALIBRATION_BINS, f1

if TYPE_CHECKING:
    from numpy.typing import NDArray

RESAMPLES: Final = 1000
SEED: Final = 0
LEVEL: Final = 0.95

# Counts held at a time: posters x resamples.
_BLOCK: Final = 1_000_000


@dataclass(frozen=True, slots=True)
class Resampled:
    """Metrics on each of B resamples; NaN where a resample leaves one undefined.

    Attributes:
        metrics: float64 `[B]` for each metric of the contract.
        f1: float64 `[B, G]`, of each genre.
        average_precision: float64 `[B, G]`, of each genre.
    """

    metrics: dict[str, NDArray[np.float64]]
    f1: NDArray[np.float64]
    average_precision: NDArray[np.float64]


def bootstrap(
    probabilities: NDArray[np.floating],
    targets: NDArray[np.bool_],
    predicted: NDArray[np.bool_],
    resamples: int = RESAMPLES,
    seed: int = SEED,
) -> Resampled:
    """Metrics on posters drawn with replacement.

    The same number of posters and the same seed always draw the same posters, so differences between two predictors
    are paired.

    Args:
        probabilities: `[N, G]`, 0-1.
        targets: bool `[N, G]`, the truth.
        predicted: bool `[N, G]`, the decisions.
        resamples: How many, B.
        seed: Of the drawing.
    """
    blocks = [
        _measure(probabilities, targets, predicted, counts) for counts in draw_counts(len(targets), resamples, seed)
    ]
    return Resampled(
        metrics={name: np.concatenate([block.metrics[name] for block in blocks]) for name in blocks[0].metrics},
        f1=np.concatenate([block.f1 for block in blocks]),
        average_precision=np.concatenate([block.average_precision for block in blocks]),
    )


def interval(values: NDArray[np.float64], level: float = LEVEL) -> tuple[float, float] | None:
    """Percentile interval of a metric on resamples `[B]`; None where it was defined on none of them."""
    defined = values[~np.isnan(values)]
    if not defined.size:
        return None
    low, high = np.quantile(defined, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def draw_counts(posters: int, resamples: int, seed: int) -> Iterator[NDArray[np.float64]]:
    """How often each poster is drawn: blocks `[posters, b]` of whole numbers, together `resamples` columns."""
    random = np.random.default_rng(seed)
    at_once = max(1, _BLOCK // posters)
    for start in range(0, resamples, at_once):
        columns = min(at_once, resamples - start)
        drawn = random.integers(0, posters, (posters, columns))
        cells = np.bincount((drawn * columns + np.arange(columns)).ravel(), minlength=posters * columns)
        yield cells.reshape(posters, columns).astype(np.float64)


def ranking_metrics(
    scores: NDArray[np.floating], targets: NDArray[np.bool_], counts: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Average precision and AUROC of one genre; posters of equal score share a threshold, as in scikit-learn.

    Args:
        scores: `[N]`.
        targets: bool `[N]`.
        counts: `[N, B]`, how often each poster is drawn.

    Returns:
        float64 `[B]` each: sum of (recall gained x precision) over the thresholds; share of (positive, negative) pairs
        in the right order, a tie counting half (Mann-Whitney). NaN without positives, or for AUROC without negatives.
    """
    order = np.argsort(-scores, kind="stable")
    last_of_ties = np.append(np.flatnonzero(np.diff(scores[order])), len(scores) - 1)
    drawn = counts[order]
    reached = np.cumsum(drawn, axis=0)[last_of_ties]
    hits = np.cumsum(drawn * targets[order, None], axis=0)[last_of_ties]
    false_alarms = reached - hits
    new_hits = np.diff(hits, axis=0, prepend=0)
    new_false_alarms = np.diff(false_alarms, axis=0, prepend=0)
    positives, negatives = hits[-1], false_alarms[-1]
    precision = hits / np.maximum(reached, 1)
    in_order = new_hits * (negatives - false_alarms + new_false_alarms / 2)
    return (
        _ratio((new_hits * precision).sum(axis=0), positives),
        _ratio(in_order.sum(axis=0), positives * negatives),
    )


def _measure(
    probabilities: NDArray[np.floating],
    targets: NDArray[np.bool_],
    predicted: NDArray[np.bool_],
    counts: NDArray[np.float64],
) -> Resampled:
    """Every metric on the resamples of one block of counts `[N, b]`."""
    posters, genres = targets.shape
    drawn = counts.T
    wrong = targets != predicted
    hits = drawn @ (targets & predicted)
    named = drawn @ (targets.astype(float) + predicted)
    genre_f1 = 2 * hits / np.maximum(named, 1)
    ranked = [ranking_metrics(probabilities[:, genre], targets[:, genre], counts) for genre in range(genres)]
    average_precision = np.stack([column[0] for column in ranked], axis=1)
    auroc = np.stack([column[1] for column in ranked], axis=1)
    metrics = {
        "hamming_loss": drawn @ wrong.mean(axis=1) / posters,
        "exact_match": drawn @ ~wrong.any(axis=1) / posters,
        "f1_macro": genre_f1.mean(axis=1),
        "f1_micro": 2 * hits.sum(axis=1) / np.maximum(named.sum(axis=1), 1),
        "f1_samples": drawn @ f1(targets, predicted, axis=1) / posters,
        "map_macro": _mean_where_defined(average_precision),
        "auroc_macro": _mean_where_defined(auroc),
        "ece": np.abs(drawn @ _calibration_gaps(probabilities, targets)).sum(axis=1) / (posters * genres),
    }
    return Resampled(metrics, genre_f1, average_precision)


def _calibration_gaps(probabilities: NDArray[np.floating], targets: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Sum of (probability - truth) of each poster in each bin of probability: `[N, bins]`."""
    posters = len(targets)
    exact = probabilities.astype(np.float64)
    bin_of = np.minimum((exact * CALIBRATION_BINS).astype(int), CALIBRATION_BINS - 1)
    cell = bin_of + CALIBRATION_BINS * np.arange(posters)[:, None]
    gaps = np.bincount(cell.ravel(), (exact - targets).ravel(), posters * CALIBRATION_BINS).astype(np.float64)
    return gaps.reshape(posters, CALIBRATION_BINS)


def _mean_where_defined(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Mean over the genres that are defined: `[B, G]` to `[B]`."""
    return _ratio(np.nansum(values, axis=1), (~np.isnan(values)).sum(axis=1))


def _ratio(numerator: NDArray[np.float64], denominator: NDArray[np.number]) -> NDArray[np.float64]:
    """NaN where the denominator is 0."""
    quotient = np.full(numerator.shape, np.nan)
    np.divide(numerator, denominator, out=quotient, where=denominator > 0)
    return quotient
