"""Posters of a manifest as batches for Lightning."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import lightning as L
import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from onesheet.data.augmentation import train_transform
from onesheet.image import PreprocessSpec
from onesheet.predictor import map_batches, usable_cores

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor
    from torchvision.transforms import v2

    from onesheet.data.manifest import Manifest
    from onesheet.training.config import AugmentConfig, DataConfig

# Training posters are read this much larger than the network's input, so that crops keep detail.
_CROP_MARGIN = 1.25


class PosterDataset(Dataset[tuple["Tensor", "Tensor"]]):
    """Posters as `(uint8 [H, W, 3], float32 [G])`.

    Args:
        manifest: The films, all of them readable.
        spec: How pictures are read: by the same function as in serving.
        transform: Random changes of uint8 `[3, H, W]`; for training only.
        cache: Decode all posters now and keep them in memory.
    """

    def __init__(
        self, manifest: Manifest, spec: PreprocessSpec, transform: v2.Transform | None, *, cache: bool
    ) -> None:
        self._manifest = manifest
        self._targets = torch.from_numpy(manifest.targets().astype(np.float32))
        self._spec = spec
        self._transform = transform
        self._cache = self._read_all() if cache else None

    def __len__(self) -> int:
        return len(self._manifest.entries)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        pixels = torch.from_numpy(self._read(index) if self._cache is None else self._cache[index])
        if self._transform is not None:
            pixels = self._transform(pixels.permute(2, 0, 1)).permute(1, 2, 0).contiguous()
        return pixels, self._targets[index]

    def _read(self, index: int) -> NDArray[np.uint8]:
        return self._manifest.load(self._manifest.entries[index], self._spec).pixels.copy()

    def _read_all(self) -> NDArray[np.uint8]:
        images = map_batches(lambda batch: [self._read(index) for index in batch], range(len(self)), usable_cores())
        cache = np.empty((len(self), self._spec.height, self._spec.width, 3), np.uint8)
        for index, image in enumerate(images):
            cache[index] = image
        return cache


class PosterDataModule(L.LightningDataModule):
    """Training and validation posters.

    Args:
        manifest: All films.
        config: Batch size, workers, cache, limit.
        augment: What may happen to training posters.
        spec: The network's input.
    """

    def __init__(self, manifest: Manifest, config: DataConfig, augment: AugmentConfig, spec: PreprocessSpec) -> None:
        super().__init__()
        self._manifest = manifest
        self._config = config
        self._augment = augment
        self._spec = spec

    def setup(self, stage: str) -> None:  # noqa: ARG002  Lightning's signature
        """Open both splits."""
        roomy = replace(
            self._spec,
            height=round(self._spec.height * _CROP_MARGIN),
            width=round(self._spec.width * _CROP_MARGIN),
        )
        transform = train_transform(self._augment, self._spec.height, self._spec.width)
        self.train = PosterDataset(self._split("train"), roomy, transform, cache=self._config.cache)
        self.validation = PosterDataset(self._split("validation"), self._spec, None, cache=self._config.cache)

    def train_dataloader(self) -> DataLoader[Any]:
        """Shuffled; the last, smaller batch is left out, as batch normalisation wants it."""
        drop_last = len(self.train) > self._config.batch_size
        return self._loader(self.train, shuffle=True, drop_last=drop_last)

    def val_dataloader(self) -> DataLoader[Any]:
        """In order, complete."""
        return self._loader(self.validation, shuffle=False, drop_last=False)

    def _split(self, name: str) -> Manifest:
        split = self._manifest.split(name)
        limit = self._config.limit
        return replace(split, entries=split.entries[:limit]) if limit else split

    def _loader(self, dataset: PosterDataset, *, shuffle: bool, drop_last: bool) -> DataLoader[Any]:
        return DataLoader(
            dataset,
            batch_size=self._config.batch_size,
            shuffle=shuffle,
            drop_last=drop_last,
            num_workers=self._config.workers,
            persistent_workers=self._config.workers > 0,
            pin_memory=torch.cuda.is_available(),
        )
