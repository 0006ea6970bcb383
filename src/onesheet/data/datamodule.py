"""Posters of a manifest as batches for Lightning."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

import lightning as L
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from onesheet.data.sampling import ShardSampler
from onesheet.errors import ConfigError, DataError
from onesheet.image import PreprocessSpec
from onesheet.predictor import map_batches, usable_cores

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from onesheet.data.manifest import Manifest
    from onesheet.training.config import DataConfig

# Training posters are read this much larger than the network's input, so that crops keep detail.
_CROP_MARGIN: Final = 1.25

Batch = tuple[Tensor, Tensor]
OnPoster = Callable[[int, int], None]


class PosterDataset(Dataset[Batch]):
    """Posters as batches `(uint8 [N, H, W, 3], float32 [N, G])`.

    Args:
        manifest: The films, all of them readable.
        spec: How pictures are read: by the same function as in serving.
        targets: float32 `[N, G]`; default: the films' genres.
        cache: Decode all posters now and keep them in memory.
        on_poster: Called with (done, total) while the cache is filled.
    """

    def __init__(
        self,
        manifest: Manifest,
        spec: PreprocessSpec,
        *,
        targets: NDArray[np.float32] | None = None,
        cache: bool,
        on_poster: OnPoster | None = None,
    ) -> None:
        self._manifest = manifest
        self._spec = spec
        self._targets = torch.from_numpy(manifest.targets().astype(np.float32) if targets is None else targets)
        self._cache = self._read_all(on_poster) if cache else None

    def __len__(self) -> int:
        return len(self._manifest.entries)

    def __getitem__(self, index: int) -> Batch:
        images, targets = self.__getitems__([index])
        return images[0], targets[0]

    def __getitems__(self, indices: Sequence[int]) -> Batch:
        """A whole batch at once, as torch's loader asks for it."""
        chosen = torch.as_tensor(indices)
        if self._cache is not None:
            return self._cache[chosen], self._targets[chosen]
        images = np.stack([self._read(index) for index in indices])
        return torch.from_numpy(images), self._targets[chosen]

    def _read(self, index: int) -> NDArray[np.uint8]:
        return self._manifest.load(self._manifest.entries[index], self._spec).pixels

    def _read_all(self, on_poster: OnPoster | None) -> Tensor:
        images = map_batches(lambda batch: [self._read(index) for index in batch], range(len(self)), usable_cores())
        cache = torch.empty((len(self), self._spec.height, self._spec.width, 3), dtype=torch.uint8)
        for index, image in enumerate(images):
            cache[index] = torch.from_numpy(image.copy())
            if on_poster:
                on_poster(index + 1, len(self))
        return cache


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
            collate_fn=_as_it_is,
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


def _as_it_is(batch: Any) -> Any:
    return batch
