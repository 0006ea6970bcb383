"""Targets that several trained networks teach to a new one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np
import torch

from onesheet.bundle import load_bundle
from onesheet.errors import ConfigError
from onesheet.image import PreprocessSpec
from onesheet.predictor import Predictor, map_batches, usable_cores
from onesheet.training.checkpoint import load_checkpoint

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from onesheet.data.dataset import OnPoster
    from onesheet.data.manifest import Manifest
    from onesheet.training.config import LossConfig

_BATCH: Final = 64


@dataclass(frozen=True, slots=True)
class _Teacher:
    """A checkpoint or a bundle.

    Attributes:
        genres: In the order of its answers.
        fingerprint: Of the manifest that it was trained with.
        spec: How it wants its posters.
        answer: uint8 `[N, H, W, 3]` to probabilities, float32 `[N, G]`.
    """

    genres: tuple[str, ...]
    fingerprint: str
    spec: PreprocessSpec
    answer: Callable[[NDArray[np.uint8]], NDArray[np.float32]]


def taught_targets(
    manifest: Manifest, config: LossConfig, fingerprint: str, on_poster: OnPoster | None = None
) -> NDArray[np.float32]:
    """The truth, moved towards what the teachers see in the posters (Hinton et al., 2015).

    Args:
        manifest: The training posters.
        config: Names the teachers, checkpoints or bundles, and how much they count.
        fingerprint: Of the whole manifest. Teachers of another split would have seen validation posters.
        on_poster: Called with (done, total), once for each batch and teacher.

    Returns:
        float32 `[N, G]`: `(1 - weight) * truth + weight * mean of the teachers' probabilities`.

    Raises:
        CheckpointError: A teacher is missing or damaged.
        BundleError: Likewise, for a bundle.
        ConfigError: A teacher was trained on another split.
    """
    teachers = [_from_checkpoint(ref) if ref.endswith(".ckpt") else _from_bundle(ref) for ref in config.teachers]
    for ref, teacher in zip(config.teachers, teachers, strict=True):
        if (teacher.fingerprint, teacher.genres) != (fingerprint, tuple(manifest.genres)):
            raise ConfigError(f"loss.teachers: {ref} was trained on another split, so it may know validation posters")
    truth = manifest.targets().astype(np.float32)
    taught = np.zeros_like(truth)
    done, total = 0, len(teachers) * len(truth)
    for teacher in teachers:
        for start in range(0, len(truth), _BATCH):
            rows = range(start, min(start + _BATCH, len(truth)))
            taught[rows.start : rows.stop] += _seen(teacher, manifest, rows) / len(teachers)
            done += len(rows)
            if on_poster:
                on_poster(done, total)
    weight = config.teacher_weight
    return ((1 - weight) * truth + weight * taught).astype(np.float32)


def _from_checkpoint(ref: str) -> _Teacher:
    checkpoint = load_checkpoint(Path(ref))

    def answer(images: NDArray[np.uint8]) -> NDArray[np.float32]:
        with torch.inference_mode():
            probabilities: NDArray[np.float32] = torch.sigmoid(checkpoint.network(torch.from_numpy(images))[0]).numpy()
        return probabilities

    provenance = checkpoint.provenance
    spec = PreprocessSpec(checkpoint.model.height, checkpoint.model.width)
    return _Teacher(tuple(provenance["genres"]), provenance["fingerprint"], spec, answer)


def _from_bundle(ref: str) -> _Teacher:
    predictor = Predictor(load_bundle(ref))
    metadata = predictor.metadata
    return _Teacher(
        metadata.genres, metadata.data.fingerprint, metadata.preprocess, lambda images: predictor.run(images)[0]
    )


def _seen(teacher: _Teacher, manifest: Manifest, rows: range) -> NDArray[np.float32]:
    """What a teacher sees in some posters and their mirror images: `[N, G]`, 0-1."""
    entries = manifest.entries[rows.start : rows.stop]
    pixels = map_batches(
        lambda batch: [manifest.load(entry, teacher.spec).pixels for entry in batch], entries, usable_cores()
    )
    images = np.stack(list(pixels))
    views = np.stack([teacher.answer(view) for view in (images, np.ascontiguousarray(images[:, :, ::-1]))])
    mean: NDArray[np.float32] = views.mean(axis=0, dtype=np.float32)
    return mean
