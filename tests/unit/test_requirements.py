"""What training and export need of a manifest."""

from __future__ import annotations

from pathlib import Path

import pytest

from onesheet.data.manifest import Entry, Manifest
from onesheet.errors import TrainingError
from onesheet.training.requirements import check_trainable, export_obstacles, training_notes

GENRES = ("Comedy", "Drama")


def manifest(genres: tuple[str, ...] = ("Comedy",), **splits: int) -> Manifest:
    """So many films of each split; in `quarantine` are those that can be read and have no genre."""
    rest = dict.fromkeys(("phash", "group", "sha256", "width", "height", "mode"), "0")
    entries = [
        Entry(
            **rest,  # type: ignore[arg-type]
            id=f"{split}{number}",
            path="",
            genres=() if split == "quarantine" else GENRES if split == "train" else genres,
            split=None if split == "quarantine" else split,
            problems=(),
        )
        for split, count in splits.items()
        for number in range(count)
    ]
    return Manifest(tuple(entries), GENRES, 0, Path())


def test_posters_of_every_split_and_of_none_count_for_parity():
    assert export_obstacles(manifest(train=50, validation=4, test=4, quarantine=6)) == []
    assert export_obstacles(manifest(train=50, validation=4, test=4, quarantine=5)) == [
        "the comparison of torch and ONNX needs 64 readable posters of any split, the manifest has 63"
    ]


@pytest.mark.parametrize(
    ("films", "obstacle"),
    [
        (manifest(train=80, validation=8), "the test split has no posters to measure the model on"),
        (manifest(train=80, test=8), "the validation split has no posters to choose calibration and thresholds on"),
        (
            manifest(GENRES, train=80, validation=8, test=8),
            "calibration needs genres that some validation posters have and others have not, all 8 have every genre",
        ),
    ],
)
def test_what_export_lacks_is_told_before_training(films, obstacle):
    assert export_obstacles(films) == [obstacle]
    assert training_notes(films)[0] == f"`onesheet export` will refuse this model: {obstacle}"


def test_genres_without_posters_are_told_before_training():
    assert training_notes(manifest(train=80, validation=8, test=8)) == [
        "genres without a validation poster are calibrated by the others: Drama",
        "genres without a test poster are not measured: Drama",
    ]


@pytest.mark.parametrize("splits", [{"train": 1, "validation": 5}, {"train": 60}, {"validation": 5}, {}])
def test_what_cannot_be_trained_is_refused(splits):
    with pytest.raises(TrainingError, match="at least 2 posters in the train split and 1 in the validation split, the"):
        check_trainable(manifest(**splits))
    check_trainable(manifest(train=2, validation=1))
