"""The shipped model is what its card says."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

import numpy as np
import pytest
from PIL import Image

from onesheet import load_predictor
from onesheet.bundle import load_bundle
from onesheet.data.prepare import prepare
from onesheet.evaluation.evaluate import evaluate

if TYPE_CHECKING:
    from pathlib import Path

    from onesheet.bundle import Bundle

LARGEST = 15e6  # bytes


@pytest.fixture(scope="module")
def starter() -> Bundle:
    return load_bundle()


def test_it_knows_the_24_genres_and_fits_the_package(starter):
    assert len(starter.metadata.genres) == 24
    assert "N/A" not in starter.metadata.genres
    assert sum(map(len, starter.files.values())) < LARGEST


def test_its_card_shows_that_it_beats_the_training_frequencies(starter):
    test, floors = starter.metadata.metrics["test"], starter.metadata.metrics["baselines"]
    for name in ("map_macro", "auroc_macro", "f1_macro", "f1_micro", "f1_samples"):
        assert test[name] > max(floor[name] for floor in floors.values()), name
    assert test["map_macro"] > 2 * floors["training_frequencies"]["map_macro"]
    assert test["ece"] < 0.03


@pytest.mark.posters
@pytest.mark.slow
def test_its_figures_can_be_measured_again(starter, posters: Path, tmp_path):
    """From the real posters, by the same seed: the same split, and on its test side the same figures."""
    data = starter.metadata.data
    manifest = prepare(posters, tmp_path, data.seed)
    assert manifest.fingerprint == data.fingerprint
    films = {entry.id for entry in manifest.split("test").entries}
    evaluation = evaluate(starter, posters / "train.csv", posters / "Images", only=films)
    assert evaluation.seen == 0
    for name, value in starter.metadata.metrics["test"].items():
        if isinstance(value, float):
            assert evaluation.metrics[name] == pytest.approx(value, abs=2e-3), name


@pytest.mark.posters
def test_small_changes_of_a_poster_change_little(posters: Path):
    """Compressed anew or a little brighter, a poster keeps its genres."""
    predictor = load_predictor()
    paths = sorted((posters / "Images").glob("*.jpg"))[:64]
    originals = predictor.predict(paths)
    compressed, brighter = [], []
    for path in paths:
        with Image.open(path) as poster:
            buffer = io.BytesIO()
            poster.save(buffer, "JPEG", quality=75)
            compressed.append(buffer.getvalue())
            brighter.append(poster.convert("RGB").point(lambda value: min(255, value + 4)))
    for changed in (compressed, brighter):
        differences = [
            np.abs(before.probabilities - after.probabilities).mean()
            for before, after in zip(originals, predictor.predict(changed), strict=True)
        ]
        assert np.mean(differences) < 0.01
