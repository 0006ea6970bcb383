"""The page's own posters: proper JPEG files, always the same, and six different pictures."""

from __future__ import annotations

import io
from itertools import combinations

import numpy as np
import pytest
from PIL import Image

from onesheet import load_predictor
from onesheet.ui.samples import SAMPLES, SIZE, Sample, encoded

each_sample = pytest.mark.parametrize("sample", SAMPLES, ids=lambda sample: sample.name)


def thumbnail(sample: Sample) -> np.ndarray:
    """Coarse enough that neither grain nor lettering counts."""
    return np.asarray(Image.open(io.BytesIO(encoded(sample))).resize((8, 12)), np.float32)


def test_samples_are_told_apart_by_all_that_names_them():
    for names in zip(*((sample.name, sample.title, sample.description) for sample in SAMPLES), strict=True):
        assert len(set(names)) == len(SAMPLES) == 6


@each_sample
def test_names_are_fit_for_a_file_and_descriptions_are_one_sentence(sample):
    assert sample.name.replace("-", "").isalnum()
    assert sample.name == sample.name.lower()
    assert sample.description.endswith(".")
    assert sample.description.count(".") == 1


@each_sample
def test_a_sample_is_a_small_jpeg_of_the_stated_size(sample):
    data = encoded(sample)
    assert len(data) < 120_000
    image = Image.open(io.BytesIO(data))
    image.load()
    assert (image.format, image.mode, image.size) == ("JPEG", "RGB", SIZE)


@each_sample
def test_drawing_again_gives_the_same_bytes(sample):
    assert encoded.__wrapped__(sample) == encoded(sample)


@pytest.mark.parametrize(("one", "other"), list(combinations(SAMPLES, 2)), ids=lambda sample: sample.name)
def test_no_two_samples_look_alike(one, other):
    assert np.abs(thumbnail(one) - thumbnail(other)).mean() > 25


@each_sample
def test_the_starter_model_answers(sample):
    prediction = load_predictor("starter").predict(encoded(sample))
    assert prediction.predicted
