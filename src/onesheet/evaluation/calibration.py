"""Logits to honest probabilities, learned on validation posters."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from sklearn.linear_model import LogisticRegression

from onesheet.bundle import Calibration

if TYPE_CHECKING:
    from numpy.typing import NDArray


def fit_platt(logits: NDArray[np.floating], targets: NDArray[np.bool_]) -> Calibration:
    """One scale and one shift for all genres (Platt, 1999), by maximum likelihood over all (poster, genre) pairs.

    Shared, because most genres have too few validation posters for two parameters of their own.

    Args:
        logits: `[N, G]` of validation posters.
        targets: bool `[N, G]`.
    """
    model = LogisticRegression(C=np.inf).fit(logits.reshape(-1, 1), targets.ravel())
    genres = logits.shape[1]
    scale, shift = float(model.coef_[0, 0]), float(model.intercept_[0])
    return Calibration(method="platt", scale=(scale,) * genres, shift=(shift,) * genres)


def calibrated(calibration: Calibration, logits: NDArray[np.floating]) -> NDArray[np.float64]:
    """Probabilities `[N, G]` of logits `[N, G]`."""
    scaled = np.array(calibration.scale) * logits + np.array(calibration.shift)
    probabilities: NDArray[np.float64] = 1 / (1 + np.exp(-scaled))
    return probabilities
