"""Posters of a manifest as batches for Lightning."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

import lightning as L
import torch
from torch.utils.data import DataLoader

from onesheet.data.dataset import PosterDataset, as_it_is
from onesheet.data.sampling import ShardSampler
from onesheet.errors import ConfigError, DataError

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy as np
    from numpy.typing import NDArray
    from torch.utils.data import Dataset, Sampler

    from onesheet.data.dataset import Batch, OnPoster
    from onesheet.data.manifest import Manifest
    from onesheet.image import PreprocessSpec
    from onesheet.training.config import DataConfig

# Training posters are read this much larger than the network's input, so that crops keep detail.
_CROP_MARGIN: Final = 1.25


class PosterDataModule(L.LightningDataModule):
    """Training and validation posters.

    Args:
        manifest: All films.
        config: Batch size, workers, cache, limit; or where shards lie, which are streamed instead of reading files.
        spec: The network's input. Training posters come larger, for the crops.
        seed: Of the training order.
        targets: float32 `[N, G]` for the training posters, in the manifest's order; default: their genres.
        on_poster: Called with (done, total) while posters are read into memory.

    Raises:
        ConfigError: The batch size cannot be shared by the processes, or shards shall be limited.
        DataError: There are no shards, or those of another manifest.
    """

    def __init__(
        self,
        manifest: Manifest,
        config: DataConfig,
        spec: PreprocessSpec,
        *,
        seed: int = 0,
        targets: NDArray[np.float32] | None = None,
        on_poster: OnPoster | None = None,
    ) -> None:
        super().__init__()
        self._config = config
        self._spec = spec
        self._seed = seed
        self._targets = targets
        self._on_poster = on_poster
        self._train = limited(manifest.split("train"), config.limit)
        self._validation = limited(manifest.split("validation"), config.limit)
        if config.shards:
            from onesheet.data.shard_store import open_store
            from onesheet.data.shards import read_index

            if config.limit:
                raise ConfigError("data.limit: shards are streamed as a whole: say data.limit=0")
            self._store = open_store(config.shards)
            self._shards = read_index(self._store, manifest).splits

    def setup(self, stage: str) -> None:  # noqa: ARG002  Lightning's signature
        """Open both splits, where they are files."""
        if self._config.shards:
            return
        cache, on_poster = self._config.cache, self._on_poster
        self.train = PosterDataset(self._train, self._roomy, targets=self._targets, cache=cache, on_poster=on_poster)
        self.validation = PosterDataset(self._validation, self._spec, cache=cache)

    def train_dataloader(self) -> DataLoader[Any]:
        """Shuffled; the last, smaller batch is left out, as batch normalisation wants it."""
        if self._config.shards:
            return self._streamed("train", self._train, self._roomy, self._targets, shuffle=True)
        sampler = ShardSampler(len(self.train), rank=self._rank, world=self._world, shuffle=True, seed=self._seed)
        drop_last = len(sampler) > self._batch_size
        return self._loader(self.train, sampler, batch_size=self._batch_size, drop_last=drop_last)

    def val_dataloader(self) -> DataLoader[Any]:
        """In order, complete."""
        if self._config.shards:
            return self._streamed("validation", self._validation, self._spec, None, shuffle=False)
        sampler = ShardSampler(len(self.validation), rank=self._rank, world=self._world, shuffle=False)
        return self._loader(self.validation, sampler, batch_size=self._batch_size)

    @property
    def _roomy(self) -> PreprocessSpec:
        """How training posters are read."""
        height, width = (round(side * _CROP_MARGIN) for side in (self._spec.height, self._spec.width))
        return replace(self._spec, height=height, width=width)

    @property
    def _rank(self) -> int:
        return self.trainer.global_rank if self.trainer else 0

    @property
    def _world(self) -> int:
        return self.trainer.world_size if self.trainer else 1

    @property
    def _batch_size(self) -> int:
        """Of this process."""
        if self._config.batch_size % self._world:
            raise ConfigError(f"data.batch_size: {self._config.batch_size} cannot be shared by {self._world} processes")
        return self._config.batch_size // self._world

    def _streamed(
        self, split: str, films: Manifest, spec: PreprocessSpec, targets: NDArray[np.float32] | None, *, shuffle: bool
    ) -> DataLoader[Any]:
        from onesheet.data.shard_stream import ShardStream, Share, StreamSampler

        share = Share(self._shards[split], self._batch_size, self._rank, self._world, shuffle, self._seed)
        sampler = StreamSampler(len(share.batches()))
        return self._loader(ShardStream(self._store, share, films, spec, targets), sampler, batch_size=None)

    def _loader(
        self, dataset: Dataset[Batch], sampler: Sampler[Any], *, batch_size: int | None, drop_last: bool = False
    ) -> DataLoader[Any]:
        return _Loader(
            dataset,
            batch_size=batch_size,
            sampler=sampler,
            drop_last=drop_last,
            num_workers=self._config.workers,
            persistent_workers=self._config.workers > 0,
            # Not forked: this process has threads, whose locks a copy would inherit.
            multiprocessing_context="spawn" if self._config.workers else None,
            collate_fn=as_it_is,
            pin_memory=torch.cuda.is_available(),
        )


class _Loader(DataLoader[Any]):
    """Torch's loader, but what is wrong with the data is told in one line."""

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
        try:
            yield from super().__iter__()
        except DataError as error:
            # Of an error in a worker torch makes another one that says the whole traceback; its last line is ours.
            *traceback, last = error.message.strip().splitlines()
            raise type(error)(last.partition(": ")[2] if traceback else last) from None


def limited(manifest: Manifest, limit: int) -> Manifest:
    """The first `limit` films of a split; all of them if it is 0."""
    return replace(manifest, entries=manifest.entries[:limit]) if limit else manifest
