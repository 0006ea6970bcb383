"""Logits to honest probabilities, learned on validation posters."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np
from scipy.optimize import minimize
from scipy.special import expit
from sklearn.linear_model import LogisticRegression

from onesheet.bundle import Calibration

if TYPE_CHECKING:
    from numpy.typing import NDArray

# How strongly a genre is held to what all genres share; the last leaves it nothing of its own.
_STRENGTHS: Final = (1.0, 3.0, 10.0, 30.0, 100.0, 300.0, 1000.0, np.inf)
_FOLDS: Final = 5
# A genre's probability never falls as its logit rises.
_SMALLEST_SCALE: Final = 0.01


def fit_platt(logits: NDArray[np.floating], targets: NDArray[np.bool_], seed: int = 0) -> Calibration:
    """A scale and a shift for each genre (Platt, 1999), held to those that all genres share.

    Most genres have too few validation posters for two parameters of their own. So both are shrunk towards the fit
    over all (poster, genre) pairs, by a quadratic penalty whose strength cross-validation chooses.

    Args:
        logits: `[N, G]` of validation posters.
        targets: bool `[N, G]`.
        seed: Of the folds.
    """
    exact = logits.astype(np.float64)
    scale, shift = _fit(exact, targets, _choose_strength(exact, targets, seed))
    return Calibration(method="platt", scale=tuple(scale.tolist()), shift=tuple(shift.tolist()))


def calibrated(calibration: Calibration, logits: NDArray[np.floating]) -> NDArray[np.float64]:
    """Probabilities `[N, G]` of logits `[N, G]`."""
    probabilities: NDArray[np.float64] = expit(np.array(calibration.scale) * logits + np.array(calibration.shift))
    return probabilities


def _choose_strength(logits: NDArray[np.float64], targets: NDArray[np.bool_], seed: int) -> float:
    """The strength with the smallest loss on posters that were left out."""
    folds = np.array_split(np.random.default_rng(seed).permutation(len(logits)), min(_FOLDS, len(logits)))
    losses = np.zeros(len(_STRENGTHS))
    for fold in folds:
        fitted = np.setdiff1d(np.arange(len(logits)), fold)
        if targets[fitted].all() or not targets[fitted].any():
            continue  # there is nothing to learn from
        for i, strength in enumerate(_STRENGTHS):
            scale, shift = _fit(logits[fitted], targets[fitted], strength)
            losses[i] += _loss(scale * logits[fold] + shift, targets[fold])
    if not losses.any():
        return np.inf
    return _STRENGTHS[int(losses.argmin())]


def _fit(
    logits: NDArray[np.float64], targets: NDArray[np.bool_], strength: float
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Scale and shift `[G]` at a strength of the penalty."""
    genres = logits.shape[1]
    shared = LogisticRegression(C=np.inf).fit(logits.reshape(-1, 1), targets.ravel())
    scale, shift = np.full(genres, shared.coef_[0, 0]), np.full(genres, shared.intercept_[0])
    if np.isinf(strength):
        return scale, shift
    # Around a genre's mean logit its scale and its shift are two questions, not one.
    mean = logits.mean(axis=0)
    centred = logits - mean
    start = np.concatenate([scale, shift + scale * mean])

    def penalised(parameters: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        scores = parameters[:genres] * centred + parameters[genres:]
        residual = expit(scores) - targets
        away = parameters - start
        gradient = np.concatenate([(residual * centred).sum(axis=0), residual.sum(axis=0)])
        return _loss(scores, targets) + strength * float(away @ away), gradient + 2 * strength * away

    bounds = [(_SMALLEST_SCALE, None)] * genres + [(None, None)] * genres
    fitted = minimize(penalised, start, jac=True, method="L-BFGS-B", bounds=bounds).x
    return fitted[:genres], fitted[genres:] - fitted[:genres] * mean


def _loss(scores: NDArray[np.float64], targets: NDArray[np.bool_]) -> float:
    """Binary cross-entropy, summed."""
    return float((np.logaddexp(0, scores) - targets * scores).sum())
