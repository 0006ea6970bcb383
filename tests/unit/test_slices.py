"""Slices of posters: every poster in one slice of each kind, and no figure where there are too few."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from onesheet.evaluation.evaluate import Scored
from onesheet.evaluation.metrics import multilabel_metrics
from onesheet.evaluation.slices import SMALLEST, cut_slices, poster_facts, slice_metrics
from onesheet.image import PreprocessSpec


def test_facts_are_of_the_original_and_say_grey_from_colour(make_poster, tmp_path):
    kinds = {"a.jpg": ("red", (60, 90)), "b.jpg": ("#777", (90, 90)), "c.jpg": ("#222", (40, 90))}
    for name, (colour, size) in kinds.items():
        (tmp_path / name).write_bytes(make_poster(colour, size))
    paths = [tmp_path / name for name in kinds]
    facts = poster_facts(paths, PreprocessSpec(height=30, width=20), 2, lambda *_: None)
    assert facts["width"].tolist() == [60, 90, 40]
    assert facts["aspect"] == pytest.approx([2 / 3, 1, 4 / 9])
    members = {(part.by, part.name): np.flatnonzero(part.posters).tolist() for part in cut_slices(facts)}
    assert members["colour", "greyscale or nearly"] == [1, 2]
    assert members["colour", "in colour"] == [0]
    assert members["aspect", "narrow"] == [2]
    assert members["aspect", "usual"] == [0]
    assert members["aspect", "wide"] == [1]
    assert members["brightness", "dark"] == [2]
    assert members["size", "large"] == [1]


def test_every_poster_is_in_one_slice_of_each_kind():
    random = np.random.default_rng(0)
    facts = {name: random.random(100) for name in ("colourfulness", "brightness", "aspect", "height")}
    facts["width"] = np.full(100, 300.0)
    facts["height"] = np.where(np.arange(100) < 80, 450.0, 300.0)  # many of one size: they stay together
    slices = cut_slices(facts)
    for kind in ("colour", "brightness", "aspect", "size"):
        assert (sum(part.posters.astype(int) for part in slices if part.by == kind) == 1).all(), kind
    thirds = [int(part.posters.sum()) for part in slices if part.by == "brightness"]
    assert all(32 <= count <= 35 for count in thirds)


def test_metrics_of_a_slice_are_those_of_its_posters():
    random = np.random.default_rng(1)
    targets = random.random((100, 3)) < [0.5, 0.3, 0.2]
    probabilities = np.clip(0.3 * targets + 0.7 * random.random((100, 3)), 0, 1).astype(np.float32)
    decisions = probabilities >= 0.5
    paths = tuple(Path(f"{i}.jpg") for i in range(100))
    ids = tuple(path.stem for path in paths)
    scored = Scored(ids, paths, ("A", "B", "C"), np.full(3, 0.5, np.float32), targets, probabilities, decisions)
    colourful = np.arange(100) >= SMALLEST - 1
    facts = {name: random.random(100) for name in ("brightness", "aspect", "width", "height")}
    slices = slice_metrics(scored, cut_slices({**facts, "colourfulness": 20.0 * colourful}))
    small, large = slices[0], slices[1]
    assert (small["n"], small["map_macro"], small["intervals"]["ece"]) == (SMALLEST - 1, None, None)
    expected = multilabel_metrics(probabilities[colourful], targets[colourful], decisions[colourful], "ABC")
    for name in ("map_macro", "f1_macro", "f1_micro", "ece"):
        assert large[name] == pytest.approx(expected[name])
    low, high = large["intervals"]["f1_micro"]
    assert low < large["f1_micro"] < high
