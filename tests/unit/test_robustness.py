"""Corruptions do what they say, gradedly and repeatably; and their figures mean what they should."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from PIL import Image

from onesheet.evaluation import robustness as module
from onesheet.evaluation.evaluate import Scored
from onesheet.evaluation.robustness import CORRUPTIONS, corrupt, robustness

if TYPE_CHECKING:
    from collections.abc import Callable

    from onesheet.predictor import Predictor

GRADED = [name for name in CORRUPTIONS if name != "greyscale"]


@pytest.fixture(scope="module")
def poster() -> Image.Image:
    """Colours and edges of every size, 120 x 180 pixels."""
    random = np.random.default_rng(0)
    samples = np.zeros((180, 120, 3))
    for size in (3, 12, 45, 180):
        layer = Image.fromarray(random.integers(0, 256, (180 // size + 1, 120 // size + 1, 3), np.uint8))
        samples += np.asarray(layer.resize((120, 180), Image.Resampling.NEAREST)) / 4
    return Image.fromarray(samples.astype(np.uint8))


def _pixels(image: Image.Image) -> np.ndarray:
    return np.asarray(image, float)


def _distance(one: Image.Image, other: Image.Image) -> float:
    return float(np.abs(_pixels(one) - _pixels(other)).mean())


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_same_size_and_mode_same_every_time_and_the_original_stays(name, poster):
    before = _pixels(poster)
    once, again = corrupt(poster, name, 1, seed=7), corrupt(poster, name, 1, seed=7)
    assert (once.size, once.mode) == (poster.size, "RGB")
    np.testing.assert_array_equal(_pixels(once), _pixels(again))
    np.testing.assert_array_equal(_pixels(poster), before)


@pytest.mark.parametrize("name", GRADED)
def test_each_severity_is_farther_from_the_original(name, poster):
    distances = [0.0, *(_distance(poster, corrupt(poster, name, severity, seed=7)) for severity in range(1, 6))]
    assert (np.diff(distances) > 0).all(), distances
    assert len(CORRUPTIONS[name].amounts) == 5


def test_noise_differs_from_poster_to_poster_and_keeps_the_mean(poster):
    one, other = (corrupt(poster, "noise", 1, seed) for seed in (1, 2))
    assert _distance(one, other) > 5
    assert _pixels(one).mean() == pytest.approx(_pixels(poster).mean(), abs=1)
    assert (_pixels(one) - _pixels(poster)).std() == pytest.approx(255 * 0.04, rel=0.1)


def test_darker_and_lighter(poster):
    darker, lighter = (_pixels(corrupt(poster, name, 2, seed=0)).mean() for name in ("darker", "lighter"))
    assert darker == pytest.approx(0.7 * _pixels(poster).mean(), rel=0.01)
    assert lighter > 1.2 * _pixels(poster).mean()


def test_greyscale_has_no_colour_and_keeps_brightness(poster):
    grey = corrupt(poster, "greyscale", 1, seed=0)
    red, green, blue = np.moveaxis(_pixels(grey), -1, 0)
    np.testing.assert_array_equal(red, green)
    np.testing.assert_array_equal(green, blue)
    np.testing.assert_allclose(red, _pixels(poster.convert("L")), atol=1)


def test_contrast_brings_samples_together_and_keeps_brightness(poster):
    flat = corrupt(poster, "contrast", 5, seed=0)
    assert _pixels(flat).std() < 0.25 * _pixels(poster).std()
    assert _pixels(flat.convert("L")).mean() == pytest.approx(_pixels(poster.convert("L")).mean(), abs=1)


def test_blur_removes_edges(poster):
    edges = [np.abs(np.diff(_pixels(image), axis=1)).mean() for image in (poster, corrupt(poster, "blur", 5, seed=0))]
    assert edges[1] < 0.4 * edges[0]


def test_crop_shows_the_middle_larger():
    framed = Image.new("RGB", (100, 150), "white")
    framed.paste("black", (20, 30, 80, 120))
    assert _pixels(corrupt(framed, "crop", 5, seed=0)).max() < 130  # 20 % of each edge: the frame is gone
    assert _pixels(corrupt(framed, "crop", 2, seed=0)).max() == 255


def test_rotation_turns_and_fills_corners_with_the_mean_colour():
    split = Image.new("RGB", (100, 100), "red")
    split.paste("blue", (0, 0, 50, 100))
    turned = _pixels(corrupt(split, "rotation", 5, seed=0))
    assert turned[0, 0] == pytest.approx([128, 0, 128], abs=2)
    assert turned[20, 60] != pytest.approx(turned[80, 60])  # the edge stands aslant


@pytest.fixture
def scored(predictor: Predictor, make_poster: Callable[..., bytes], tmp_path: Path) -> Scored:
    """Posters of one colour, of which the tiny bundle is right in every genre: on them it has nothing to lose."""
    colours = ("white", "blue", "black", "red", "#ffe0e0", "#2020ff", "#101010", "#e01010")
    paths = []
    for i, colour in enumerate(colours):
        path = tmp_path / f"{i}.png"
        path.write_bytes(make_poster(colour, (300, 450), "PNG"))
        paths.append(path)
    answers = predictor.predict(paths)
    thresholds = np.array([predictor.metadata.thresholds[genre] for genre in predictor.genres], np.float32)
    probabilities = np.stack([answer.probabilities for answer in answers])
    said = probabilities >= thresholds
    ids = tuple(path.stem for path in paths)
    return Scored(ids, tuple(paths), predictor.genres, thresholds, said, probabilities, said)


def test_robustness_measures_every_severity_against_the_untouched(predictor, scored):
    seen = []
    result = robustness(predictor, scored, lambda done, total: seen.append((done, total)))
    assert seen == [(i, 8) for i in range(1, 9)]
    assert result["untouched"]["map_macro"] == result["untouched"]["f1_micro"] == 1
    rows = {(row["corruption"], row["severity"]): row for row in result["corrupted"]}
    assert set(rows) == {(name, i) for name, kind in CORRUPTIONS.items() for i in range(1, 1 + len(kind.amounts))}
    for name in ("blur", "crop", "rotation"):  # posters of one colour stay what they are
        assert all(rows[name, severity]["f1_micro"] == 1 for severity in range(1, 6)), name
    assert rows["darker", 5]["f1_micro"] < rows["darker", 1]["f1_micro"] <= 1  # in the dark, all is Horror
    assert rows["greyscale", 1]["map_macro"] < 1  # without colour there is no Romance
    assert result["worst"]["map_macro"] == min(row["map_macro"] for row in rows.values())
    assert result["worst_mild"]["severity"] == 1
    assert result["worst_mild"]["corruption"] in GRADED


def test_the_thresholds_of_the_bundle_decide(predictor, scored):
    silent = replace(scored, thresholds=np.full(4, 1.1, np.float32))
    rows = robustness(predictor, silent, lambda *_: None)["corrupted"]
    assert all(row["f1_micro"] == 0 for row in rows)


def test_robustness_is_repeatable_and_does_not_depend_on_the_order_of_posters(predictor, scored):
    backwards = list(range(len(scored.ids)))[::-1]
    reversed_ = replace(
        scored,
        ids=scored.ids[::-1],
        paths=scored.paths[::-1],
        targets=scored.targets[backwards],
        probabilities=scored.probabilities[backwards],
        decisions=scored.decisions[backwards],
    )
    results = [robustness(predictor, posters, lambda *_: None) for posters in (scored, reversed_)]
    for one, other in zip(results[0]["corrupted"], results[1]["corrupted"], strict=True):
        assert one == pytest.approx(other)


def test_each_film_has_noise_of_its_own(predictor, scored, monkeypatch):
    """Else every poster of an evaluation would carry the same pattern."""
    seeds = set()

    def spy(image: Image.Image, name: str, severity: int, seed: int) -> Image.Image:
        seeds.add(seed)
        return image

    monkeypatch.setattr(module, "corrupt", spy)
    robustness(predictor, scored, lambda *_: None)
    assert len(seeds) == len(scored.ids)
