"""Which parts of a poster speak for a genre."""

from __future__ import annotations

import numpy as np
import pytest

from onesheet import load_predictor
from onesheet.explanation import explain
from onesheet.ui.samples import SAMPLES, encoded


class Corners:
    """The first genre lives in the top left corner, the second is kept away by what is at the bottom right."""

    calls = 0

    def run(self, pixels):
        self.calls += len(pixels)
        bright = pixels.astype(np.float32).mean(axis=3) / 255
        height, width = bright.shape[1:]
        first = bright[:, : height // 3, : width // 3].mean(axis=(1, 2))
        second = 1 - bright[:, -height // 3 :, -width // 3 :].mean(axis=(1, 2))
        return np.stack([first, second], axis=1), np.zeros((len(pixels), 1))


@pytest.fixture
def picture():
    pixels = np.full((168, 112, 3), 60, np.uint8)
    pixels[:50, :30] = 220
    pixels[-50:, -30:] = 220
    return pixels


def test_the_part_that_speaks_for_a_genre_stands_out(picture):
    found = explain(Corners(), picture)

    assert found.effects.shape == (2, 12, 8)
    first, second = found.effects
    assert np.unravel_index(first.argmax(), first.shape) <= (3, 2)
    assert first.max() > 0
    assert np.abs(first[6:, 4:]).max() < first.max() / 100
    row, column = np.unravel_index(second.argmin(), second.shape)
    assert (row >= 8, column >= 5) == (True, True)
    assert second.min() < 0


@pytest.mark.parametrize(("height", "width", "parts"), [(112, 168, (8, 12)), (100, 100, (12, 12)), (400, 20, (12, 1))])
def test_parts_are_about_square(height, width, parts):
    found = explain(Corners(), np.zeros((height, width, 3), np.uint8))
    assert found.effects.shape == (2, *parts)
    assert np.isfinite(found.effects).all()


def test_it_costs_one_answer_for_each_part_and_one_for_the_whole(picture):
    model = Corners()
    before = picture.copy()
    explain(model, picture)
    assert model.calls == 12 * 8 + 1
    assert (picture == before).all()


def test_a_real_model_is_explained(predictor):
    starter = load_predictor()
    poster = starter.read(encoded(SAMPLES[4]))
    found = explain(starter, poster.pixels)
    assert found.effects.shape == (len(starter.genres), 12, 8)
    assert np.allclose(found.probabilities, starter.predict(encoded(SAMPLES[4])).probabilities, atol=1e-6)
    assert np.ptp(found.effects, axis=(1, 2)).min() > 0
