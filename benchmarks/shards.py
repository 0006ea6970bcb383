"""Do shards cost training anything? The posters of training out of files, and out of shards, in turns.

Read, and decoded to batches by the data loader; cold, when the system was told to forget the files, and warm.

    onesheet data prepare
    onesheet data shard --out data/shards --shard-size 16
    python benchmarks/shards.py data/raw data/processed data/shards
"""

from __future__ import annotations

import os
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from onesheet.data.datamodule import PosterDataModule
from onesheet.data.manifest import MANIFEST_FILE, Manifest, read_manifest
from onesheet.data.shard_store import open_store
from onesheet.data.shard_stream import Share, read_films
from onesheet.data.shards import read_index
from onesheet.image import PreprocessSpec, read_bytes
from onesheet.training.config import DataConfig

ROUNDS = 3
SIZE = PreprocessSpec(320, 224)


def main() -> None:
    raw, processed, shards = map(Path, sys.argv[1:])
    manifest = read_manifest(processed / MANIFEST_FILE, raw)
    entries = manifest.split("train").entries
    films = [entries[row] for row in np.random.default_rng(1).permutation(len(entries))]
    store = open_store(str(shards))
    share = Share(read_index(store, manifest).splits["train"], 64, shuffle=True)
    ways: dict[str, Callable[[], int]] = {
        "read out of files": lambda: sum(1 for film in films if read_bytes(manifest.picture(film))),
        "read out of shards": lambda: sum(1 for part in share.films(0, 0, 1) for _ in read_films(store, *part)),
        "files to batches": lambda: loaded(manifest, ""),
        "shards to batches": lambda: loaded(manifest, str(shards)),
    }
    print(f"posters/s of {len(films)}; median of {ROUNDS} rounds (all of them)")
    for cold in (True, False):
        rates: dict[str, list[float]] = {name: [] for name in ways}
        for _ in range(ROUNDS):
            for name, way in ways.items():
                if cold:
                    forget(raw / "Images")
                    forget(shards)
                rates[name].append(rate(way))
        for name, values in rates.items():
            every = ", ".join(f"{value:,.0f}" for value in values)
            print(f"  {name:18} {'cold' if cold else 'warm'} {statistics.median(values):8,.0f} ({every})")


def loaded(manifest: Manifest, shards: str) -> int:
    posters = PosterDataModule(manifest, DataConfig(cache=False, shards=shards), SIZE)
    posters.setup("fit")
    return sum(len(images) for images, _ in posters.train_dataloader())


def forget(folder: Path) -> None:
    """Ask the system to drop the files from its memory."""
    for path in folder.rglob("*.*"):
        with path.open("rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def rate(way: Callable[[], int]) -> float:
    began = time.perf_counter()
    return way() / (time.perf_counter() - began)


if __name__ == "__main__":
    main()
