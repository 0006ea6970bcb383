"""The colour-histogram baseline: its histogram by hand, and what it says of genres that it has never seen."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from onesheet.data.manifest import MANIFEST_FILE, Entry, Manifest, write_manifest
from onesheet.errors import DataError
from onesheet.evaluation.colour import ColourBaseline, colour_baseline, colour_histogram
from onesheet.evaluation.evaluate import Scored


def test_histogram_by_hand():
    pixels = np.zeros((2, 2, 3), np.uint8)
    pixels[0, 0] = (255, 0, 0)  # the fourth step of red, the first of green and blue
    pixels[0, 1] = (63, 64, 128)  # first, second, third
    pixels[1] = (10, 20, 30)
    histogram = colour_histogram(pixels)
    expected = np.zeros(64)
    expected[[3 * 16, 1 * 4 + 2, 0]] = np.sqrt([1 / 4, 1 / 4, 2 / 4])
    np.testing.assert_allclose(histogram, expected)


def _entry(raw: Path, number: int, split: str) -> Entry:
    """Red posters are Romance, blue ones Sci-Fi."""
    red = number % 2 == 0
    tone = 150 + 5 * (number % 20)
    Image.new("RGB", (30, 45), (tone, 20, 20) if red else (20, 20, tone)).save(raw / f"{number}.png")
    genres = ("Romance",) if red else ("Sci-Fi",)
    return Entry(str(number), f"{number}.png", genres, split, None, None, None, 30, 45, "RGB", ())


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    """40 training, 20 validation and 10 test posters, and their manifest."""
    splits = ["train"] * 40 + ["validation"] * 20 + ["test"] * 10
    entries = tuple(_entry(tmp_path, number, split) for number, split in enumerate(splits))
    write_manifest(Manifest(entries, ("Romance", "Sci-Fi"), 1, tmp_path), tmp_path / MANIFEST_FILE)
    return tmp_path


def _answer(raw: Path, numbers: range, genres: tuple[str, ...]) -> ColourBaseline:
    paths = tuple(raw / f"{number}.png" for number in numbers)
    shape = (len(paths), len(genres))
    nothing = np.zeros(shape, bool)
    unused = np.zeros(shape, np.float32)
    scored = Scored(tuple(path.stem for path in paths), paths, genres, unused[0], nothing, unused, nothing)
    return colour_baseline(scored, raw, raw, 2, lambda *_: None)


def test_it_tells_red_from_blue_in_the_order_of_the_bundles_genres(raw):
    answer = _answer(raw, range(60, 70), ("Sci-Fi", "Western", "Romance"))
    red = np.arange(60, 70) % 2 == 0
    np.testing.assert_array_equal(answer.decisions[:, 2], red)
    np.testing.assert_array_equal(answer.decisions[:, 0], ~red)
    assert not answer.decisions[:, 1].any()  # no training poster is a Western
    assert (answer.probabilities[:, 1] == 0).all()
    assert (answer.train, answer.validation, answer.seen) == (40, 20, 0)


def test_it_counts_the_posters_that_it_was_made_with(raw):
    assert _answer(raw, range(30, 70), ("Romance", "Sci-Fi")).seen == 30


def test_a_missing_poster_is_named(raw):
    (raw / "5.png").unlink()
    with pytest.raises(DataError, match=r"5\.png: no such file"):
        _answer(raw, range(60, 70), ("Romance", "Sci-Fi"))
