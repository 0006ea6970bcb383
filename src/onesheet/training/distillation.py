"""Targets that several trained networks teach to a new one."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from onesheet.errors import ConfigError
from onesheet.image import PreprocessSpec
from onesheet.predictor import map_batches, usable_cores
from onesheet.training.checkpoint import Checkpoint, load_checkpoint

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from onesheet.data.datamodule import OnPoster
    from onesheet.data.manifest import Manifest
    from onesheet.training.config import LossConfig

_BATCH = 64


def taught_targets(
    manifest: Manifest, config: LossConfig, fingerprint: str, on_poster: OnPoster | None = None
) -> NDArray[np.float32]:
    """The truth, moved towards what the teachers see in the posters (Hinton et al., 2015).

    Args:
        manifest: The training posters.
        config: Names the teachers' checkpoints, and how much they count.
        fingerprint: Of the whole manifest. Teachers of another split would have seen validation posters.
        on_poster: Called with (done, total), once for each batch and teacher.

    Returns:
        float32 `[N, G]`: `(1 - weight) * truth + weight * mean of the teachers' probabilities`.

    Raises:
        CheckpointError: A teacher is missing or damaged.
        ConfigError: A teacher was trained on another split.
    """
    teachers = [load_checkpoint(Path(path)) for path in config.teachers]
    for path, teacher in zip(config.teachers, teachers, strict=True):
        if teacher.provenance["fingerprint"] != fingerprint:
            raise ConfigError(f"loss.teachers: {path} was trained on another split, so it may know validation posters")
    truth = manifest.targets().astype(np.float32)
    taught = np.zeros_like(truth)
    done, total = 0, len(teachers) * len(truth)
    for teacher in teachers:
        for start in range(0, len(truth), _BATCH):
            rows = range(start, min(start + _BATCH, len(truth)))
            taught[rows.start : rows.stop] += _probabilities(teacher, manifest, rows) / len(teachers)
            done += len(rows)
            if on_poster:
                on_poster(done, total)
    weight = config.teacher_weight
    return ((1 - weight) * truth + weight * taught).astype(np.float32)


def _probabilities(teacher: Checkpoint, manifest: Manifest, rows: range) -> NDArray[np.float32]:
    """What a teacher sees in some posters and their mirror images: `[N, G]`, 0-1."""
    spec = PreprocessSpec(teacher.model.height, teacher.model.width)
    entries = manifest.entries[rows.start : rows.stop]
    pixels = map_batches(lambda batch: [manifest.load(entry, spec).pixels for entry in batch], entries, usable_cores())
    images = torch.from_numpy(np.stack(list(pixels)))
    with torch.inference_mode():
        straight, mirrored = (torch.sigmoid(teacher.network(view)[0]) for view in (images, images.flip(2)))
    mean: NDArray[np.float32] = ((straight + mirrored) / 2).numpy()
    return mean
