"""Shards as batches for training: read one after the other, every film in one process and one worker."""

from __future__ import annotations

import hashlib
import random
import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import torch
import webdataset
from torch import Tensor
from torch.utils.data import Dataset, Sampler, get_worker_info
from webdataset.tariterators import group_by_keys, tar_file_expander

from onesheet.data.shard_store import Shard, ShardStore
from onesheet.errors import DataError, ImageError, reason
from onesheet.image import PreprocessSpec, load_picture

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from onesheet.data.manifest import Manifest

Batch = tuple[Tensor, Tensor]

# Films, still encoded, that a worker draws from: 20 MB of posters of 20 KB.
_SHUFFLED: Final = 1000


@dataclass(frozen=True, slots=True)
class Share:
    """What one process streams of a split.

    The films of an epoch are a row, in the order of the shards. It is cut into equal stretches, one for each process:
    so no film is in two of them, however the shards may fall. In training up to `world - 1` films are left over, and of
    each stretch those that do not fill a batch; all processes have the same number of batches. In validation nothing is
    left over.

    Attributes:
        shards: Of the split.
        batch_size: Of this process.
        rank: Of this process, from 0.
        world: Number of processes.
        shuffle: A new order every epoch, for training; else the order of the shards, complete, for validation.
        seed: Of the order.
    """

    shards: tuple[Shard, ...]
    batch_size: int
    rank: int = 0
    world: int = 1
    shuffle: bool = False
    seed: int = 0

    def batches(self) -> list[int]:
        """Number of films in each batch of an epoch, the same in all epochs."""
        start, stop = self._stretch()
        full, rest = divmod(stop - start, self.batch_size)
        return [self.batch_size] * full + ([rest] if rest and not (self.shuffle and full) else [])

    def films(self, epoch: int, worker: int, workers: int) -> list[tuple[Shard, int, int]]:
        """What a worker reads: shards, and of each the first film and the one after the last.

        A worker makes the batches `worker`, `worker + workers`, …, as torch's loader asks for them, from films that lie
        together.
        """
        spans = [sum(self.batches()[other::workers]) for other in range(workers)]
        start = self._stretch()[0] + sum(spans[:worker])
        return list(self._parts(epoch, start, start + spans[worker]))

    def _stretch(self) -> tuple[int, int]:
        total = sum(shard.samples for shard in self.shards)
        usable = total - total % self.world if self.shuffle else total
        return usable * self.rank // self.world, usable * (self.rank + 1) // self.world

    def _parts(self, epoch: int, start: int, stop: int) -> Iterator[tuple[Shard, int, int]]:
        order: Sequence[Shard] = self.shards
        if self.shuffle:
            generator = torch.Generator().manual_seed(self.seed + epoch)
            order = [self.shards[place] for place in torch.randperm(len(self.shards), generator=generator).tolist()]
            # The row is a ring that each epoch enters at another film: else, with few shards, the same films would be
            # left over every time.
            entry = int(torch.randint(sum(shard.samples for shard in order), (), generator=generator))
            start, stop = start + entry, stop + entry
        at = 0
        for shard in chain(order, order):
            first, last = max(start - at, 0), min(stop - at, shard.samples)
            if first < last:
                yield shard, first, last
            at += shard.samples


class StreamSampler(Sampler[tuple[int, int]]):
    """Asks a `ShardStream` for its batches: `(epoch, number)`.

    That way the epoch reaches the workers, which live on from one to the next.

    Args:
        batches: In an epoch.
    """

    def __init__(self, batches: int) -> None:
        self._batches = batches
        self._epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch whose order comes next; called by the trainer, also when it resumes."""
        self._epoch = epoch

    def __len__(self) -> int:
        return self._batches

    def __iter__(self) -> Iterator[tuple[int, int]]:
        return ((self._epoch, number) for number in range(self._batches))


class ShardStream(Dataset[Batch]):
    """Posters of one process as batches `(uint8 [N, H, W, 3], float32 [N, G])`.

    Its order is a function of seed, epoch and the numbers of processes and workers: shards in random order, and a
    buffer of films that each worker draws from.

    Args:
        store: Where the shards lie.
        share: What this process streams.
        films: The split: which genres a film has, and what its picture must be.
        spec: How pictures are read: by the same function as in serving.
        targets: float32 `[N, G]`, in the order of `films`; default: the films' genres.
    """

    def __init__(
        self,
        store: ShardStore,
        share: Share,
        films: Manifest,
        spec: PreprocessSpec,
        targets: NDArray[np.float32] | None = None,
    ) -> None:
        self._store = store
        self._share = share
        self._spec = spec
        self._targets = torch.from_numpy(films.targets().astype(np.float32) if targets is None else targets)
        self._known = {entry.id: (row, entry.sha256) for row, entry in enumerate(films.entries)}
        self._batches: Iterator[Batch] = iter(())

    def __getitem__(self, step: tuple[int, int]) -> Batch:
        """The batch that comes next, as a `StreamSampler` asks for them.

        Raises:
            DataError: A shard or a picture in it is missing or damaged.
        """
        epoch, number = step
        info = get_worker_info()
        worker, workers = (info.id, info.num_workers) if info else (0, 1)
        if number == worker:  # its first of this epoch
            self._batches = self._stream(epoch, worker, workers)
        return next(self._batches)

    def _stream(self, epoch: int, worker: int, workers: int) -> Iterator[Batch]:
        share = self._share
        parts = share.films(epoch, worker, workers)
        films = chain.from_iterable(read_films(self._store, *part) for part in parts)
        if share.shuffle:
            order = random.Random(f"{share.seed} {epoch} {share.rank} {worker}")  # noqa: S311  no secret
            films = webdataset.shuffle(_SHUFFLED, initial=_SHUFFLED, rng=order)(films)
        for size in share.batches()[worker::workers]:
            rows, images = zip(*(self._decode(film) for film in islice(films, size)), strict=True)
            yield torch.from_numpy(np.stack(images)), self._targets[list(rows)]

    def _decode(self, sample: dict[str, Any]) -> tuple[int, NDArray[np.uint8]]:
        """Row and pixels of a film."""
        film, shard = sample["__key__"], sample["__url__"]
        row, sha256 = self._known.get(film, (-1, None))
        pictures = [part for kind, part in sample.items() if kind != "json" and not kind.startswith("__")]
        if [hashlib.sha256(picture).hexdigest() for picture in pictures] != [sha256]:
            raise DataError(f"{self._store}/{shard} is damaged at film {film}: run `onesheet data shard` again")
        try:
            return row, load_picture(pictures[0], self._spec).pixels
        except ImageError as error:
            raise DataError(f"{self._store}/{shard}, film {film}: {error.message}") from error


def read_films(store: ShardStore, shard: Shard, first: int, last: int) -> Iterator[dict[str, Any]]:
    """The members of some films of a shard, in order; what lies before them is passed over.

    Raises:
        DataError: The shard is not there, damaged, or has fewer films.
    """
    count = first
    try:
        with store.stream(shard.name) as stream:
            members = tar_file_expander([{"url": shard.name, "stream": stream}])
            for sample in islice(group_by_keys(members), first, last):
                yield sample
                count += 1
    except OSError as error:
        raise DataError(f"{store}/{shard.name} cannot be read: {reason(error)}") from error
    except (tarfile.TarError, EOFError, ValueError) as error:
        raise DataError(f"{store}/{shard.name} is damaged: run `onesheet data shard` again") from error
    if count < last:
        raise DataError(f"{store}/{shard.name} is cut off after {count} films: run `onesheet data shard` again")
