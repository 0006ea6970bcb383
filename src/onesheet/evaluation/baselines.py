"""What knows nothing already reaches: the floors that stand beside every result."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from onesheet.evaluation.metrics import multilabel_metrics

if TYPE_CHECKING:
    from numpy.typing import NDArray

# Of the genres a poster has; the frequency baseline names as many.
_GENRES_NAMED = 2


def baselines(
    frequencies: NDArray[np.floating], targets: NDArray[np.bool_], genres: Sequence[str]
) -> dict[str, dict[str, Any]]:
    """Metrics of predictors that never look at the poster.

    Args:
        frequencies: `[G]`, share of training posters with the genre.
        targets: bool `[N, G]`.
        genres: G names.

    Returns:
        `training_frequencies`: each genre's training frequency as its probability, the two most frequent genres said;
        `every_genre`: likewise, but every genre said.
    """
    probabilities = np.broadcast_to(frequencies, targets.shape)
    frequent = np.zeros_like(targets)
    frequent[:, np.argsort(-frequencies)[:_GENRES_NAMED]] = True
    decisions = {"training_frequencies": frequent, "every_genre": np.ones_like(targets)}
    metrics = {
        name: multilabel_metrics(probabilities, targets, predicted, genres) for name, predicted in decisions.items()
    }
    return {
        name: {key: value for key, value in values.items() if key not in ("per_genre", "support")}
        for name, values in metrics.items()
    }
