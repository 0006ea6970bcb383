"""From logits to decisions: calibration and thresholds hold on posters that they were not fitted to."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("sklearn")

from sklearn.linear_model import LogisticRegression

from onesheet.evaluation.calibration import calibrated, fit_platt
from onesheet.evaluation.metrics import expected_calibration_error, multilabel_metrics
from onesheet.evaluation.thresholds import thresholds_for_f1, thresholds_for_precision

FREQUENCIES = np.array([0.5, 0.2, 0.05, 0.01])


def sample(random: np.random.Generator, posters: int) -> tuple[np.ndarray, np.ndarray]:
    """Honest probabilities `[N, 4]` of genres of very different frequency, and a truth drawn from them."""
    logits = np.log(FREQUENCIES / (1 - FREQUENCIES)) + random.normal(size=(posters, 4))
    probabilities = 1 / (1 + np.exp(-logits))
    return probabilities, random.random(probabilities.shape) < probabilities


def logit(probabilities: np.ndarray) -> np.ndarray:
    return np.log(probabilities / (1 - probabilities))


def test_platt_repairs_overconfidence():
    random = np.random.default_rng(0)
    probabilities, targets = sample(random, 5000)
    overconfident = 3 * logit(probabilities) + 2
    calibration = fit_platt(overconfident, targets)
    assert calibration.scale == pytest.approx((1 / 3,) * 4, abs=0.06)
    before = expected_calibration_error(1 / (1 + np.exp(-overconfident)), targets)
    after = expected_calibration_error(calibrated(calibration, overconfident), targets)
    assert after < 0.02 < before


def test_a_genre_with_a_mistake_of_its_own_gets_a_calibration_of_its_own():
    random = np.random.default_rng(0)
    probabilities, targets = sample(random, 3000)
    logits = logit(probabilities) + np.array([2.0, 0, 0, 0])
    calibration = fit_platt(logits, targets)
    assert calibration.shift[0] == pytest.approx(-2, abs=0.3)
    assert calibration.shift[1] == pytest.approx(0, abs=0.3)
    unseen, truth = sample(random, 5000)
    found = calibrated(calibration, logit(unseen) + np.array([2.0, 0, 0, 0]))
    assert found[:, 0].mean() == pytest.approx(truth[:, 0].mean(), abs=0.03)


def test_few_posters_do_not_lead_a_genre_astray():
    """Where each genre on its own would be fitted to chance, what all share holds it."""
    random = np.random.default_rng(0)
    held, alone = [], []
    for _ in range(10):
        probabilities, targets = sample(random, 200)
        targets[:2] = [[True] * 4, [False] * 4]  # so that each can be fitted alone
        unseen, truth = sample(random, 4000)
        held.append(_log_loss(calibrated(fit_platt(logit(probabilities), targets), logit(unseen)), truth))
        each = [_fitted_alone(logit(probabilities)[:, [g]], targets[:, g], logit(unseen)[:, [g]]) for g in range(4)]
        alone.append(_log_loss(np.stack(each, axis=1), truth))
    assert np.mean(held) < np.mean(alone)
    assert np.mean(held) < 1.02 * _log_loss(unseen, truth)


def _fitted_alone(logits: np.ndarray, targets: np.ndarray, unseen: np.ndarray) -> np.ndarray:
    return LogisticRegression(C=np.inf).fit(logits, targets).predict_proba(unseen)[:, 1]


def _log_loss(probabilities: np.ndarray, truth: np.ndarray) -> float:
    return float(-np.log(np.where(truth, probabilities, 1 - probabilities)).mean())


def test_a_genre_that_no_validation_poster_has_stays_improbable():
    random = np.random.default_rng(0)
    probabilities, targets = sample(random, 300)
    targets[:, 3] = False
    calibration = fit_platt(logit(probabilities), targets)
    assert all(scale > 0 for scale in calibration.scale)
    assert calibrated(calibration, logit(probabilities))[:, 3].max() < 0.3


@pytest.mark.parametrize("posters", [1, 2, 3])
def test_a_handful_of_validation_posters_is_enough_to_go_on(posters: int):
    """They share one calibration; left out, some would leave nothing to fit."""
    targets = np.zeros((posters, 4), bool)
    targets[0, 1] = True
    calibration = fit_platt(np.linspace(-2, 1, 4 * posters).reshape(posters, 4), targets)
    assert np.isfinite([calibration.scale, calibration.shift]).all()


def test_thresholds_beat_a_flat_one_half_on_new_posters():
    random = np.random.default_rng(1)
    thresholds = thresholds_for_f1(sample(random, 600)[0])
    assert thresholds.shape == (4,)
    assert ((thresholds > 0) & (thresholds < 1)).all()
    probabilities, targets = sample(random, 4000)
    chosen = multilabel_metrics(probabilities, targets, probabilities >= thresholds, "ABCD")
    flat = multilabel_metrics(probabilities, targets, probabilities >= 0.5, "ABCD")
    assert chosen["f1_macro"] > flat["f1_macro"] + 0.05
    assert chosen["f1_micro"] > flat["f1_micro"]


def test_thresholds_for_f1_hold_up_better_than_one_fitted_to_each_genre():
    random = np.random.default_rng(2)
    smooth, fitted = [], []
    for _ in range(10):
        validation, truth = sample(random, 300)
        probabilities, targets = sample(random, 4000)
        own = np.array([_best_for_f1(scores, true) for scores, true in zip(validation.T, truth.T, strict=True)])
        for thresholds, scores in ((thresholds_for_f1(validation), smooth), (own, fitted)):
            scores.append(multilabel_metrics(probabilities, targets, probabilities >= thresholds, "ABCD")["f1_macro"])
    assert np.mean(smooth) > np.mean(fitted)


def test_a_threshold_for_f1_is_the_best_of_all_where_probabilities_are_honest():
    probabilities, targets = sample(np.random.default_rng(5), 200_000)
    chosen = thresholds_for_f1(probabilities)
    best = [_best_for_f1(scores, truth) for scores, truth in zip(probabilities.T, targets.T, strict=True)]
    assert chosen == pytest.approx(best, abs=0.02)


def test_equal_probabilities_have_a_threshold_that_says_the_genre():
    probabilities = np.full((50, 4), 0.2)
    assert (probabilities >= thresholds_for_f1(probabilities)).all()


def _best_for_f1(scores: np.ndarray, truth: np.ndarray) -> float:
    def f1(threshold: float) -> float:
        said = scores >= threshold
        return 2 * (said & truth).sum() / max(1, said.sum() + truth.sum())

    return max(np.quantile(scores, np.linspace(0.01, 0.999, 300)), key=f1)


@pytest.mark.parametrize("precision", [0.5, 0.7])
def test_a_precision_that_is_asked_for_is_kept_on_new_posters(precision):
    random = np.random.default_rng(3)
    hits, said = np.zeros(4), np.zeros(4)
    for _ in range(10):
        validation, truth = sample(random, 600)
        thresholds = thresholds_for_precision(validation, truth, precision)
        probabilities, targets = sample(random, 2000)
        hits += (targets & (probabilities >= thresholds)).sum(axis=0)
        said += (probabilities >= thresholds).sum(axis=0)
    assert said[0] > 1000
    assert (hits[said > 100] / said[said > 100] >= precision).all()


def test_a_genre_that_is_never_sure_enough_is_never_said():
    random = np.random.default_rng(4)
    validation, truth = sample(random, 600)
    assert thresholds_for_precision(validation, truth, 0.9)[3] == 1


def test_posters_of_equal_probability_are_said_together():
    scores = np.repeat([[0.9], [0.6]], 50, axis=0)
    truth = np.repeat([[True], [False]], 50, axis=0)
    truth[50:55] = True  # of the second half one in ten
    assert thresholds_for_precision(scores, truth, 0.8) == pytest.approx(0.9)
