"""`onesheet score`: how near it is to what the machine allows, and what a million rows do to memory and time.

    uv run --all-extras --group dev python benchmarks/score.py POSTERS
    uv run --all-extras --group dev python benchmarks/score.py POSTERS --rows 1000000 --bundle FOLDER

POSTERS is a folder with train.csv and Images/. Without --rows the command scores all posters, in turns with a bare loop
of decoding and model. With --rows it scores a table that names the posters again and again. Prints Markdown.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from itertools import cycle, islice
from pathlib import Path

import psutil

from onesheet.bench import run_bench
from onesheet.predictor import load_predictor

ROUNDS = 5
SECONDS = 5
TENTHS = 10


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("posters", type=Path)
    parser.add_argument("--rows", type=int)
    parser.add_argument("--bundle", default="starter")
    parser.add_argument("--precision", choices=("fp32", "int8"), default="fp32")
    arguments = parser.parse_args()
    images = arguments.posters / "Images"
    options = ["--bundle", arguments.bundle, "--precision", arguments.precision, "--embeddings"]
    with tempfile.TemporaryDirectory() as folder:
        if arguments.rows:
            repeated(images, arguments.rows, options, Path(folder))
        else:
            against_the_limit(images, options, Path(folder), arguments)


def against_the_limit(images: Path, options: list[str], folder: Path, arguments: argparse.Namespace) -> None:
    """The rates of both, in turns; the memory of the command."""
    predictor = load_predictor(arguments.bundle, precision=arguments.precision)

    def limit() -> float:
        return run_bench(predictor, images, SECONDS).decode_model_per_s

    around, limits, rates, peaks = [limit()], [], [], []
    for round_number in range(ROUNDS):
        answer, samples, seconds = scored(images, folder / f"{round_number}.parquet", options)
        rates.append((answer["rows"] / answer["seconds"], answer["rows"] / seconds))
        peaks.append(max(memory for _, _, memory in samples))
        # What the machine allows changes from minute to minute: that before and that after.
        around.append(limit())
        limits.append(statistics.mean(around[-2:]))
    print(f"| {answer['rows']} posters, {predictor.threads} threads, {ROUNDS} rounds | |\n|---|---:|")
    print(f"| decode + model in a bare loop, posters/s | {statistics.median(limits):.0f} |")
    for name, place in (("scoring", 0), ("the whole command, start included", 1)):
        shares = [rate[place] / limit for rate, limit in zip(rates, limits, strict=True)]
        print(
            f"| {name}, posters/s | {statistics.median(rate[place] for rate in rates):.0f}, "
            f"{statistics.median(shares):.0%} of that ({', '.join(f'{share:.0%}' for share in shares)}) |"
        )
    print(f"| memory at most, MB | {max(peaks) / 1e6:.0f} |")


def repeated(images: Path, rows: int, options: list[str], folder: Path) -> None:
    """Time and memory of each tenth of a long table."""
    names = sorted(path for path in images.iterdir() if path.suffix == ".jpg")
    table = folder / "catalogue.csv"
    with table.open("w") as file:
        file.write("path\n")
        file.writelines(f"{name}\n" for name in islice(cycle(names), rows))
    out = folder / "catalogue.parquet"
    answer, samples, seconds = scored(table, out, options)
    print(f"| {answer['rows']:,} rows | seconds | memory at most, MB |\n|---|---:|---:|")
    before = 0.0
    for tenth in range(1, TENTHS + 1):
        inside = [(at, memory) for at, done, memory in samples if (tenth - 1) * rows <= done * TENTHS < tenth * rows]
        end = max((at for at, _ in inside), default=before)
        peak = max((memory for _, memory in inside), default=0) / 1e6
        print(f"| {tenth}0 % | {end - before:.0f} | {peak:.0f} |")
        before = end
    print(f"| one file of {out.stat().st_size / 1e6:.0f} MB | {seconds - before:.0f} | |")
    print(f"\n{answer['rows'] / answer['seconds']:.0f} rows/s")


def scored(source: Path, out: Path, options: list[str]) -> tuple[dict[str, float], list[tuple[float, int, int]], float]:
    """What the command says, what it did meanwhile as (seconds, rows done, bytes of memory), and its seconds."""
    command = [sys.executable, "-m", "onesheet", "score", str(source), "--out", str(out), *options, "--json"]
    parts, samples, start = Path(f"{out}.parts"), [], time.perf_counter()
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        watched = psutil.Process(process.pid)
        done = 0
        while process.poll() is None:
            # At the end the parts are gone, and all is done.
            done = max(done, 512 * sum(1 for _ in parts.glob("*.parquet")))
            try:
                samples.append((time.perf_counter() - start, done, watched.memory_info().rss))
            except psutil.NoSuchProcess:
                break
            time.sleep(1)
        said, _ = process.communicate()
    if process.returncode:
        sys.exit(process.returncode)
    return json.loads(said), samples, time.perf_counter() - start


if __name__ == "__main__":
    main()
