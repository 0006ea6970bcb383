"""How good probabilities and decisions are, as numbers that say how many posters stand behind them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from sklearn.metrics import average_precision_score, precision_score, recall_score, roc_auc_score

if TYPE_CHECKING:
    from numpy.typing import NDArray

# Of the expected calibration error; equally wide.
CALIBRATION_BINS: Final = 15


def multilabel_metrics(
    probabilities: NDArray[np.floating],
    targets: NDArray[np.bool_],
    predicted: NDArray[np.bool_],
    genres: Sequence[str],
) -> dict[str, Any]:
    """Every metric of the contract.

    F1 of a genre without any poster counts 0 in `f1_macro` (over all genres). Ranking metrics are undefined for such
    a genre, so `map_macro` and `auroc_macro` are over the genres that have both kinds of poster; `support` says how
    many posters and genres each figure rests on.

    Args:
        probabilities: `[N, G]`, 0-1.
        targets: bool `[N, G]`, the truth.
        predicted: bool `[N, G]`, the decisions.
        genres: G names.
    """
    posters = len(targets)
    positives = targets.sum(axis=0)
    rankable = (positives > 0) & (positives < posters)
    ranked = {"posters": posters, "genres": int(rankable.sum())}
    decided = {"posters": posters, "genres": len(genres)}
    wrong = targets != predicted
    return {
        "n": posters,
        "hamming_loss": float(wrong.mean()),
        "exact_match": float((~wrong).all(axis=1).mean()),
        "f1_macro": float(f1(targets, predicted, axis=0).mean()),
        "f1_micro": float(f1(targets, predicted, axis=None)),
        "f1_samples": float(f1(targets, predicted, axis=1).mean()),
        "map_macro": mean_average_precision(probabilities, targets),
        "auroc_macro": (
            float(roc_auc_score(targets[:, rankable], probabilities[:, rankable], average="macro"))
            if rankable.any()
            else None
        ),
        "ece": expected_calibration_error(probabilities, targets),
        "support": {
            **dict.fromkeys(("hamming_loss", "exact_match", "f1_macro", "f1_micro", "f1_samples", "ece"), decided),
            **dict.fromkeys(("map_macro", "auroc_macro"), ranked),
        },
        "per_genre": {
            genre: _genre_metrics(probabilities[:, i], targets[:, i], predicted[:, i]) for i, genre in enumerate(genres)
        },
    }


def f1(targets: NDArray[np.bool_], predicted: NDArray[np.bool_], axis: int | None) -> NDArray[np.float64]:
    """F1 along an axis (0: of each genre, 1: of each poster, None: of all pairs); 0 where nothing is true or said."""
    hits = (targets & predicted).sum(axis)
    named = targets.sum(axis) + predicted.sum(axis)
    return np.asarray(2 * hits / np.maximum(named, 1))


def mean_average_precision(probabilities: NDArray[np.floating], targets: NDArray[np.bool_]) -> float | None:
    """Average precision, averaged over the genres that have a poster; None when none has."""
    known = targets.any(axis=0)
    if not known.any():
        return None
    return float(average_precision_score(targets[:, known], probabilities[:, known], average="macro"))


def expected_calibration_error(probabilities: NDArray[np.floating], targets: NDArray[np.bool_]) -> float:
    """Expected calibration error over all (poster, genre) pairs, in equal-width bins (Guo et al., 2017)."""
    _, probability, true = _sums_of_bins(probabilities, targets)
    return float(np.abs(probability - true).sum() / targets.size)


def reliability_bins(probabilities: NDArray[np.floating], targets: NDArray[np.bool_]) -> list[dict[str, Any]]:
    """The bins of the expected calibration error: how many pairs, their mean probability, and the share that is true.

    Returns:
        `count`, `probability` and `frequency` of each; the last two are None in an empty bin.
    """
    sums = (column.tolist() for column in _sums_of_bins(probabilities, targets))
    return [
        {
            "count": int(count),
            "probability": probability / count if count else None,
            "frequency": true / count if count else None,
        }
        for count, probability, true in zip(*sums, strict=True)
    ]


def _sums_of_bins(probabilities: NDArray[np.floating], targets: NDArray[np.bool_]) -> list[NDArray[np.float64]]:
    """Number of pairs, sum of their probabilities, and number that are true, of each bin."""
    exact = probabilities.ravel().astype(np.float64)
    bin_of = np.minimum((exact * CALIBRATION_BINS).astype(int), CALIBRATION_BINS - 1)
    columns = (np.ones_like(exact), exact, targets.ravel())
    return [np.bincount(bin_of, column, CALIBRATION_BINS).astype(np.float64) for column in columns]


def _genre_metrics(
    probabilities: NDArray[np.floating], targets: NDArray[np.bool_], predicted: NDArray[np.bool_]
) -> dict[str, Any]:
    positives = int(targets.sum())
    rankable = 0 < positives < len(targets)
    return {
        "n": len(targets),
        "positives": positives,
        "predicted": int(predicted.sum()),
        "precision": float(precision_score(targets, predicted, zero_division=0)),
        "recall": float(recall_score(targets, predicted, zero_division=0)),
        "f1": float(f1(targets, predicted, axis=0)),
        "average_precision": float(average_precision_score(targets, probabilities)) if positives else None,
        "auroc": float(roc_auc_score(targets, probabilities)) if rankable else None,
    }
