"""Metrics against numbers worked out by hand, and against what they must mean."""

from __future__ import annotations

import numpy as np
import pytest

from onesheet.evaluation.baselines import baselines
from onesheet.evaluation.metrics import expected_calibration_error, multilabel_metrics

TARGETS = np.array([[1, 0, 0], [1, 1, 0], [0, 1, 0], [0, 0, 0]], bool)
PROBABILITIES = np.array([[0.9, 0.2, 0.1], [0.8, 0.7, 0.1], [0.3, 0.4, 0.6], [0.1, 0.5, 0.1]])


def _metrics() -> dict:
    return multilabel_metrics(PROBABILITIES, TARGETS, PROBABILITIES >= 0.5, ("A", "B", "C"))


def test_by_hand():
    metrics = _metrics()
    assert metrics["n"] == 4
    assert metrics["hamming_loss"] == pytest.approx(3 / 12)  # B missed once, said once too often; C said wrongly
    assert metrics["exact_match"] == pytest.approx(2 / 4)
    assert metrics["f1_macro"] == pytest.approx((1 + 0.5 + 0) / 3)
    assert metrics["f1_micro"] == pytest.approx(2 * 3 / (2 * 3 + 2 + 1))
    assert metrics["f1_samples"] == pytest.approx((1 + 1 + 0 + 0) / 4)
    assert metrics["map_macro"] == pytest.approx((1 + (1 + 2 / 3) / 2) / 2)  # C has no poster
    assert metrics["auroc_macro"] == pytest.approx((1 + 3 / 4) / 2)


def test_support_says_how_many_posters_and_genres_stand_behind_a_figure():
    support = _metrics()["support"]
    assert support["f1_macro"] == {"posters": 4, "genres": 3}
    assert support["map_macro"] == support["auroc_macro"] == {"posters": 4, "genres": 2}


def test_a_genre_without_posters_has_no_ranking_metrics():
    scores = _metrics()["per_genre"]["C"]
    assert scores == {
        "n": 4,
        "positives": 0,
        "predicted": 1,
        "precision": 0.0,
        "recall": 0.0,
        "f1": 0.0,
        "average_precision": None,
        "auroc": None,
    }


def test_nothing_to_rank():
    metrics = multilabel_metrics(np.full((2, 1), 0.5), np.zeros((2, 1), bool), np.zeros((2, 1), bool), ("A",))
    assert metrics["map_macro"] is None
    assert metrics["auroc_macro"] is None


def test_calibration_error():
    targets = np.array([[True], [False], [False], [False]])
    assert expected_calibration_error(np.full((4, 1), 0.25), targets) == pytest.approx(0)
    assert expected_calibration_error(np.full((4, 1), 1.0), targets) == pytest.approx(0.75)


def test_floors_never_look_at_the_poster():
    floors = baselines(np.array([0.5, 0.4, 0.1]), TARGETS, ("A", "B", "C"))
    frequencies, every = floors["training_frequencies"], floors["every_genre"]
    assert frequencies["map_macro"] == every["map_macro"] == pytest.approx(0.5)
    assert frequencies["auroc_macro"] == 0.5
    assert frequencies["f1_macro"] == pytest.approx((2 / 3 + 2 / 3 + 0) / 3)
    assert every["hamming_loss"] == pytest.approx(8 / 12)
