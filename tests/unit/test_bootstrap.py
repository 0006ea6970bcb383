"""The bootstrap against scikit-learn on the same resamples, written out poster by poster."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, roc_auc_score

from onesheet.evaluation import bootstrap as module
from onesheet.evaluation.bootstrap import bootstrap, draw_counts, interval, ranking_metrics
from onesheet.evaluation.metrics import multilabel_metrics

GENRES = "ABCDE"


def _posters(posters: int = 60, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Probabilities with many ties, as float32; of the genres one has no poster, one has two, one has all."""
    random = np.random.default_rng(seed)
    targets = random.random((posters, 5)) < [0.5, 0.2, 0, 0, 1]
    targets[:2, 3] = True
    probabilities = np.clip(0.3 * targets + random.random((posters, 5)) * 0.7, 0, 1).round(1).astype(np.float32)
    return probabilities, targets, probabilities >= 0.5


def _resamples(posters: int, resamples: int, seed: int = 0) -> list[np.ndarray]:
    """Each as indices of posters, one as often as it was drawn."""
    counts = np.concatenate(list(draw_counts(posters, resamples, seed)), axis=1)
    return [np.repeat(np.arange(posters), column.astype(int)) for column in counts.T]


def test_every_metric_is_that_of_the_resample():
    probabilities, targets, predicted = _posters()
    resampled = bootstrap(probabilities, targets, predicted, resamples=40)
    for i, drawn in enumerate(_resamples(60, 40)):
        expected = multilabel_metrics(probabilities[drawn], targets[drawn], predicted[drawn], GENRES)
        for name, values in resampled.metrics.items():
            assert values[i] == pytest.approx(expected[name], abs=1e-12), name
        for genre, scores in enumerate(expected["per_genre"].values()):
            assert resampled.f1[i, genre] == pytest.approx(scores["f1"])
            precision = scores["average_precision"]
            assert resampled.average_precision[i, genre] == pytest.approx(
                np.nan if precision is None else precision, nan_ok=True
            )
    contract = multilabel_metrics(probabilities, targets, predicted, GENRES)
    assert set(resampled.metrics) == set(contract) - {"n", "support", "per_genre"}


@pytest.mark.parametrize("digits", [0, 1, 2, 7])
def test_ranking_with_ties_is_that_of_scikit_learn(digits):
    random = np.random.default_rng(digits)
    targets = random.random(200) < 0.15
    scores = (0.4 * targets + 0.6 * random.random(200)).round(digits)
    counts = np.concatenate(list(draw_counts(200, 50, seed=3)), axis=1)
    precision, auroc = ranking_metrics(scores, targets, counts)
    for i, drawn in enumerate(_resamples(200, 50, seed=3)):
        assert precision[i] == pytest.approx(average_precision_score(targets[drawn], scores[drawn]))
        assert auroc[i] == pytest.approx(roc_auc_score(targets[drawn], scores[drawn]))


def test_without_positives_there_is_no_ranking_and_no_warning():
    probabilities, targets, predicted = _posters()
    resampled = bootstrap(probabilities, targets, predicted, resamples=20)
    assert interval(resampled.average_precision[:, 2]) is None
    assert interval(resampled.average_precision[:, 0]) is not None
    nothing = bootstrap(probabilities, np.zeros_like(targets), predicted, resamples=20)
    assert interval(nothing.metrics["map_macro"]) is None
    assert interval(nothing.metrics["f1_micro"]) == (0, 0)


def test_a_rare_genre_counts_only_where_it_was_drawn():
    """Two posters have it: about (1 - 2/60)^60 = 13 % of the resamples have neither."""
    probabilities, targets, predicted = _posters()
    undefined = np.isnan(bootstrap(probabilities, targets, predicted).average_precision[:, 3])
    assert 0.08 < undefined.mean() < 0.19


def test_the_interval_covers_the_truth_as_often_as_it_says():
    """The share of posters with every genre right is 0.4; of 200 studies of 80 posters, about 95 % must cover it."""
    random = np.random.default_rng(5)
    covered = 0
    for study in range(200):
        targets = np.ones((80, 1), bool)
        predicted = random.random((80, 1)) < 0.4
        matched = bootstrap(np.full((80, 1), 0.5), targets, predicted, resamples=300, seed=study).metrics["exact_match"]
        low, high = interval(matched)
        covered += low <= 0.4 <= high
    assert 180 <= covered <= 199


def test_a_level_is_the_share_of_resamples_inside():
    low, high = interval(np.linspace(0, 1, 1001), level=0.9)
    assert (low, high) == pytest.approx((0.05, 0.95))


def test_two_predictors_meet_the_same_posters():
    """So a predictor that is better on every poster is better on every resample."""
    _, targets, _ = _posters()
    wrong = targets ^ (np.random.default_rng(1).random(targets.shape) < 0.3)
    worse = bootstrap(wrong.astype(float), targets, wrong, resamples=50)
    right = bootstrap(targets.astype(float), targets, targets, resamples=50)
    assert (right.metrics["hamming_loss"] == 0).all()
    again = bootstrap(wrong.astype(float), targets, wrong, resamples=50)
    np.testing.assert_array_equal(worse.metrics["f1_micro"], again.metrics["f1_micro"])
    other = bootstrap(wrong.astype(float), targets, wrong, resamples=50, seed=1)
    assert (worse.metrics["f1_micro"] != other.metrics["f1_micro"]).any()


def test_in_blocks_every_resample_has_as_many_posters(monkeypatch):
    monkeypatch.setattr(module, "_BLOCK", 500)
    blocks = list(draw_counts(60, 30, seed=0))
    assert [block.shape for block in blocks] == [(60, 8), (60, 8), (60, 8), (60, 6)]
    counts = np.concatenate(blocks, axis=1)
    assert (counts.sum(axis=0) == 60).all()
    assert len(np.unique(counts, axis=1).T) == 30
