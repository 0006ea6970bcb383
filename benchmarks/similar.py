"""What it costs to find the most similar posters in catalogues of several sizes: the table of docs/similar.md.

Each made-up poster is a real one whose embedding has been moved by about as much as it differs from its neighbours, so
that the catalogue has the clusters of real ones. Each figure is taken in a process of its own.

    python benchmarks/similar.py data/raw/Images
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq

from onesheet.bundle import load_bundle
from onesheet.predictor import Prediction, Predictor, usable_cores
from onesheet.scoring.identity import METADATA_KEY, bundle_identity
from onesheet.scoring.index import IndexStore
from onesheet.scoring.search import Catalogue

if TYPE_CHECKING:
    from multiprocessing.connection import Connection

    from numpy.typing import NDArray

ROW_GROUP = 10_000
QUERIES = 20
K = 10


def real_embeddings(folder: Path, count: int) -> NDArray[np.float32]:
    """`[count, D]`, by the starter."""
    paths = sorted(folder.iterdir())
    chosen = [paths[place] for place in np.random.default_rng(0).permutation(len(paths))[:count]]
    answers = Predictor(load_bundle()).predict_each(chosen)
    return np.stack([answer.embedding for answer in answers if isinstance(answer, Prediction)])


def write_catalogue(path: Path, real: NDArray[np.float32], rows: int) -> None:
    """A catalogue of so many posters, with the columns that a search reads."""
    rng, size = np.random.default_rng(1), real.shape[1]
    half_way = nearest_distance(real) / 2
    document = {"format": 1, "bundle": bundle_identity(load_bundle())}
    schema = pa.schema(
        [("poster", pa.string()), ("genres", pa.list_(pa.string())), ("embedding", pa.list_(pa.float16()))],
        metadata={METADATA_KEY: json.dumps(document)},
    )
    with pq.ParquetWriter(
        path,
        schema,
        compression="zstd",
        use_dictionary=["genres.list.element"],
        use_byte_stream_split=["embedding.list.element"],
    ) as writer:
        for start in range(0, rows, ROW_GROUP):
            count = min(ROW_GROUP, rows - start)
            moved = real[rng.integers(len(real), size=count)] + rng.normal(size=(count, size)) * half_way
            values = pa.array(np.maximum(moved, real.min()).astype(np.float16).ravel())
            embeddings = pa.ListArray.from_arrays(np.arange(count + 1, dtype=np.int32) * size, values)
            names = [f"posters/tt{number:07d}.jpg" for number in range(start, start + count)]
            writer.write_batch(pa.record_batch([names, [["Drama"]] * count, embeddings], schema=schema))


def nearest_distance(real: NDArray[np.float32]) -> float:
    """How far a real poster is from the one most like it, on each axis; half of it is each side's."""
    sample = real[:500].astype(np.float64)
    squares = ((sample[:, None] - sample[None]) ** 2).mean(axis=2)
    np.fill_diagonal(squares, np.inf)
    return float(np.sqrt(np.median(squares.min(axis=1))))


def apart(function: Callable[..., object], *arguments: object) -> dict[str, float]:
    """What the function measures in a fresh process, and the most MB that the process held, beyond what it began with.

    Pages of a mapped file count as well; the system takes them back when it needs them.
    """
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_report, args=(theirs, function, arguments))
    process.start()
    base, most = ours.recv(), 0
    while not ours.poll(0.01):
        most = max(most, psutil.Process(process.pid).memory_info().rss)
    measured: dict[str, float] = ours.recv()
    process.join()
    return {**measured, "MB": max(0, most - base) / 1e6}


def _report(pipe: Connection, function: Callable[..., object], arguments: object) -> None:
    pipe.send(psutil.Process(os.getpid()).memory_info().rss)
    pipe.send(function(*arguments))  # type: ignore[misc]


def exact(path: Path, queries: NDArray[np.float32]) -> dict[str, object]:
    seconds, found = [], []
    for query in queries:
        started = time.perf_counter()
        with Catalogue(path) as catalogue:
            answer = catalogue.similar(query, K, exact=True)
        seconds.append(time.perf_counter() - started)
        found.append([poster.row for poster in answer.posters])
    return {"seconds": statistics.median(seconds), "found": found}


def build(path: Path, size: int) -> dict[str, float]:
    started = time.perf_counter()
    with Catalogue(path) as catalogue:
        IndexStore(catalogue).build(size)
    return {"seconds": time.perf_counter() - started}


def indexed(path: Path, queries: NDArray[np.float32]) -> dict[str, object]:
    from onesheet.scoring import search

    search.INDEX_FROM = 0  # type: ignore[misc]  also where nobody needs it
    seconds, found = [], []
    for query in queries:
        started = time.perf_counter()
        with Catalogue(path) as catalogue:
            answer = catalogue.similar(query, K)
        seconds.append(time.perf_counter() - started)
        assert not answer.exact
        found.append([poster.row for poster in answer.posters])
    return {"seconds": statistics.median(seconds), "found": found}


def measure(path: Path, real: NDArray[np.float32], queries: NDArray[np.float32], rows: int) -> str:
    """One line of the table."""
    write_catalogue(path, real, rows)
    scanned, made = apart(exact, path, queries), apart(build, path, queries.shape[1])
    answered = apart(indexed, path, queries)
    hits = [len({*ours} & {*theirs}) for ours, theirs in zip(answered["found"], scanned["found"], strict=True)]
    index = path.with_name(f"{path.name}.usearch")
    cells = (
        f"{rows:,}",
        f"{path.stat().st_size / 1e6:.0f} MB",
        f"{scanned['seconds']:.2f} s, {scanned['MB']:.0f} MB",
        f"{made['seconds']:.0f} s, {made['MB']:.0f} MB",
        f"{index.stat().st_size / 1e6:.0f} MB",
        f"{answered['seconds']:.2f} s, {answered['MB']:.0f} MB",
        f"{sum(hits) / K / len(hits):.3f}",
    )
    return f"| {' | '.join(cells)} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("posters", type=Path, help="Folder of posters.")
    parser.add_argument("--rows", type=int, nargs="+", default=[10_000, 100_000, 1_000_000])
    parser.add_argument("--real", type=int, default=2000, help="How many real posters the others are made from.")
    options = parser.parse_args()
    embeddings = real_embeddings(options.posters, options.real + QUERIES)
    # Real posters ask, and none of them is in the catalogue or near one that was made from it.
    queries, real = embeddings[:QUERIES], embeddings[QUERIES:]
    print(f"{len(real)} real posters, D = {real.shape[1]}, {usable_cores()} cores")
    print("| rows | catalogue | exact | to make the index | index | with the index | recall@10 |")
    print("|---|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        for rows in options.rows:
            print(measure(Path(folder, f"{rows}.parquet"), real, queries, rows), flush=True)


if __name__ == "__main__":
    main()
