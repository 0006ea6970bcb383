"""Posters of a manifest as batches of tensors.

Loader processes import this module when they start; it imports no Lightning, which takes seconds.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from onesheet.predictor import map_batches, usable_cores

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from onesheet.data.manifest import Manifest
    from onesheet.image import PreprocessSpec

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


def as_it_is(batch: Any) -> Any:
    """Collate function of datasets that make whole batches."""
    return batch
