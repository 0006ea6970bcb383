"""Which poster comes when: a pure function of seed and epoch, split over processes without doubles."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch.utils.data import Sampler


class ShardSampler(Sampler[int]):
    """Every index once an epoch, each in exactly one process.

    Unlike torch's `DistributedSampler` it never repeats an index to make the shards equal: validation would count
    some posters twice. In training the few that are left over sit out one epoch instead, so that all processes take
    the same number of steps.

    Args:
        size: Number of posters.
        rank: Of this process, from 0.
        world: Number of processes.
        shuffle: A new order every epoch, for training; else the given order, complete, for validation.
        seed: Of the order.
    """

    def __init__(self, size: int, *, rank: int = 0, world: int = 1, shuffle: bool, seed: int = 0) -> None:
        self._size = size
        self._rank = rank
        self._world = world
        self._shuffle = shuffle
        self._seed = seed
        self._epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch whose order comes next; called by the trainer, also when it resumes."""
        self._epoch = epoch

    def __len__(self) -> int:
        return len(range(self._rank, self._usable, self._world))

    def __iter__(self) -> Iterator[int]:
        if not self._shuffle:
            return iter(range(self._rank, self._size, self._world))
        generator = torch.Generator().manual_seed(self._seed + self._epoch)
        order = torch.randperm(self._size, generator=generator)[: self._usable]
        return iter(order[self._rank :: self._world].tolist())

    @property
    def _usable(self) -> int:
        return self._size - self._size % self._world if self._shuffle else self._size
