"""Which posters a report shows, and what it says of them."""

from __future__ import annotations

import base64
import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from onesheet.evaluation.evaluate import Scored
from onesheet.evaluation.posters import best_and_worst, cross_entropy, thumbnail


def _scored(probabilities: list[list[float]], targets: list[list[int]], threshold: float = 0.5) -> Scored:
    given = np.array(probabilities, np.float32)
    ids = tuple(f"tt{i}" for i in range(len(given)))
    paths = tuple(Path(f"{film}.jpg") for film in ids)
    genres = ("A", "B", "C", "D")[: given.shape[1]]
    thresholds = np.full(len(genres), threshold, np.float32)
    return Scored(ids, paths, genres, thresholds, np.array(targets, bool), given, given >= threshold)


def test_cross_entropy_by_hand():
    losses = cross_entropy(np.array([[0.5, 0.5], [0.9, 0.2], [0.0, 1.0]]), np.array([[1, 0], [1, 0], [1, 1]], bool))
    assert losses[:2] == pytest.approx([np.log(2), -(np.log(0.9) + np.log(0.8)) / 2])
    assert np.isfinite(losses[2])
    assert losses[2] > 5


def test_best_and_worst_do_not_overlap_and_the_extremes_come_first():
    confidence = [0.9, 0.1, 0.6, 0.4, 0.5]
    shown = best_and_worst(_scored([[p] for p in confidence], [[1]] * 5))
    assert [card["id"] for card in shown["best"]] == ["tt0", "tt2"]
    assert [card["id"] for card in shown["worst"]] == ["tt1", "tt3"]
    many = best_and_worst(_scored([[0.5]] * 100, [[1]] * 100))
    assert len({card["id"] for cards in many.values() for card in cards}) == 24


def test_an_answer_lists_what_was_said_or_else_what_is_nearest():
    shown = best_and_worst(_scored([[0.9, 0.6, 0.1, 0.2], [0.1, 0.4, 0.3, 0.2]], [[1, 0, 0, 0], [1, 0, 1, 0]]))
    (said,), (unsaid,) = shown["best"], shown["worst"]
    assert [(answer["label"], answer["said"], answer["right"]) for answer in said["answer"]] == [
        ("A", True, True),
        ("B", True, False),
    ]
    assert [(answer["label"], answer["said"]) for answer in unsaid["answer"]] == [
        ("B", False),
        ("C", False),
        ("D", False),
    ]
    assert unsaid["true"] == ["A", "C"]


def test_a_thumbnail_is_a_small_jpeg_of_the_same_shape(make_poster, tmp_path):
    (tmp_path / "large.png").write_bytes(make_poster("red", (1000, 1500), "PNG"))
    encoded = base64.b64decode(thumbnail(tmp_path / "large.png").removeprefix("data:image/jpeg;base64,"))
    with Image.open(io.BytesIO(encoded)) as picture:
        assert (picture.format, picture.size) == ("JPEG", (100, 150))
        assert np.asarray(picture, float)[50, 50] == pytest.approx([254, 0, 0], abs=3)
    assert len(encoded) < 10_000
