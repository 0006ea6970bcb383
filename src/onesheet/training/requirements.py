"""What training and export need of a manifest, checked before hours of training and not after them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from onesheet.data.posters import name_some
from onesheet.errors import TrainingError

if TYPE_CHECKING:
    from onesheet.data.manifest import Manifest

PARITY_POSTERS: Final = 64
"""Posters on which torch and ONNX have to agree, from any split."""
_MIN_TRAINING: Final = 2  # batch normalisation needs another one
_WITHOUT_POSTERS: Final = {
    "train": "cannot be learned",
    "validation": "are calibrated by the others",
    "test": "are not measured",
}


def check_trainable(manifest: Manifest) -> None:
    """Refuse a manifest that no model can be trained and validated with.

    Raises:
        TrainingError: With the number of posters that there are.
    """
    counts = manifest.counts()
    if counts["train"] < _MIN_TRAINING or not counts["validation"]:
        raise TrainingError(
            f"training needs at least {_MIN_TRAINING} posters in the train split and 1 in the validation split, "
            f"the manifest has {counts['train']} and {counts['validation']}: prepare more posters"
        )


def export_obstacles(manifest: Manifest) -> list[str]:
    """Why `onesheet export` would refuse a model of this manifest, a sentence each; empty if it would not."""
    counts, readable = manifest.counts(), sum(entry.phash is not None for entry in manifest.entries)
    obstacles = []
    if readable < PARITY_POSTERS:
        obstacles.append(
            f"the comparison of torch and ONNX needs {PARITY_POSTERS} readable posters of any split, "
            f"the manifest has {readable}"
        )
    targets = manifest.split("validation").targets()
    if not counts["validation"]:
        obstacles.append("the validation split has no posters to choose calibration and thresholds on")
    elif targets.all() or not targets.any():
        obstacles.append(
            "calibration needs genres that some validation posters have and others have not, "
            f"all {counts['validation']} have {'every genre' if targets.any() else 'none'}"
        )
    if not counts["test"]:
        obstacles.append("the test split has no posters to measure the model on")
    return obstacles


def training_notes(manifest: Manifest) -> list[str]:
    """What to know before a run begins: why its export would be refused, and which genres lack posters."""
    notes = [f"`onesheet export` will refuse this model: {obstacle}" for obstacle in export_obstacles(manifest)]
    for split, consequence in _WITHOUT_POSTERS.items():
        films = manifest.split(split)
        missing = [genre for genre in films.genres if not any(genre in e.genres for e in films.entries)]
        if films.entries and missing:
            notes.append(f"genres without a {split} poster {consequence}: {name_some(missing)}")
    return notes
