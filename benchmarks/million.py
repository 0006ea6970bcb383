"""A drift run over a log of a million answers: time, memory, and what users of the API notice of it.

uv run --all-extras --group dev python benchmarks/million.py data/raw
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import uuid4

import numpy as np
import psutil

from onesheet import load_predictor
from onesheet.bench import sample_posters
from onesheet.image_statistics import image_statistics
from onesheet.load import run_load, upload_request
from onesheet.predictionlog import LoggedPrediction, PredictionLog
from onesheet.predictor import Predictor, usable_cores
from onesheet.tune import running_service

GROUP = 10_000
CONNECTIONS = 32
WEEK = timedelta(days=7)


def answers(predictor: Predictor, posters: list[bytes]) -> list[LoggedPrediction]:
    """What the log would hold of them."""
    return [
        LoggedPrediction(
            id=uuid4(),
            time=datetime.now(UTC),
            role="answered",
            model_name=prediction.model_name,
            model_version=prediction.model_version,
            genres=predictor.genres,
            probabilities=prediction.probabilities,
            embedding=prediction.embedding,
            threshold=None,
            predicted=tuple(score.label for score in prediction.predicted),
            statistics=image_statistics([predictor.read(poster)])[0],
            latency_ms=10.0,
            file_name=None,
            content_sha256="",
            request_id=None,
        )
        for poster, prediction in zip(posters, predictor.predict(posters), strict=True)
    ]


def fill(url: str, kinds: list[LoggedPrediction], count: int) -> None:
    """So many answers over the last week, each of a picture of its own, its embedding a little different."""
    rng, now = np.random.default_rng(0), datetime.now(UTC)
    with closing(PredictionLog(url)) as log:
        log.migrate()
        for start in range(0, count, GROUP):
            chosen = rng.integers(len(kinds), size=GROUP)
            ages = rng.uniform(0, 1, GROUP)
            log.append(
                [
                    replace(
                        kinds[place],
                        id=uuid4(),
                        time=now - WEEK * float(age),
                        content_sha256=uuid4().hex * 2,
                        embedding=kinds[place].embedding + rng.normal(size=len(kinds[place].embedding)) / 100,
                    )
                    for place, age in zip(chosen, ages, strict=True)
                ]
            )
            print(f"\r{start + GROUP:,} answers", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)


def drift(environment: dict[str, str], folder: Path, *options: str) -> tuple[float, float]:
    """Seconds, and the most MB that the command and its children held together."""
    started, most = time.perf_counter(), 0
    with (folder / "said").open("ab") as said:
        command = [sys.executable, "-m", "onesheet", "drift", "--since", "8d", *options]
        process = subprocess.Popen(command, env={**os.environ, **environment}, stdout=said, stderr=said)
    while process.poll() is None:
        most = max(most, _memory(process.pid))
        time.sleep(0.02)
    assert process.returncode == 0, (folder / "said").read_text()
    return time.perf_counter() - started, most / 1e6


def _memory(pid: int) -> int:
    try:
        family = [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]
        return sum(one.memory_info().rss for one in family)
    except psutil.NoSuchProcess:
        return 0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("raw", type=Path, help="Folder of posters, with train.csv and Images/.")
    parser.add_argument("--answers", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--folder", type=Path, help="Where to keep the log, or to find the one of an earlier run.")
    options = parser.parse_args()
    predictor = load_predictor()
    posters = sample_posters(options.raw / "Images", predictor)
    with tempfile.TemporaryDirectory() as name:
        folder = options.folder or Path(name)
        folder.mkdir(parents=True, exist_ok=True)
        environment = {"ONESHEET_LOG_URL": f"sqlite:///{folder}/log.db"}
        if not (folder / "log.db").exists():
            fill(environment["ONESHEET_LOG_URL"], answers(predictor, posters), options.answers)
        size = (folder / "log.db").stat().st_size / 1e9
        print(f"{options.answers:,} answers, {size:.1f} GB; {usable_cores()} cores")
        for what, more in (("verdict alone", ()), ("with report", ("--out", f"{folder}/report"))):
            seconds, megabytes = drift(environment, folder, *more)
            print(f"nobody asks, {what}: {seconds:.1f} s, {megabytes:.0f} MB")
        served = {**environment, "ONESHEET_WORKERS": str(usable_cores()), "ONESHEET_THREADS": "1"}
        with running_service(served) as service:
            requests = [upload_request(f"{service.url}/predict", "file", poster) for poster in posters]
            load = lambda seconds: run_load(service.url, requests, connections=CONNECTIONS, seconds=seconds)  # noqa: E731
            load(5)
            ratios = []
            for _ in range(options.rounds):
                alone = load(8)
                with (folder / "said").open("ab") as said:
                    command = [sys.executable, "-m", "onesheet", "drift", "--since", "8d", "--out", f"{folder}/report"]
                    process = subprocess.Popen(command, env={**os.environ, **environment}, stdout=said, stderr=said)
                beside = load(8)
                assert process.poll() is None, "the comparison ended before the load did"
                process.kill()
                process.wait()
                ratios.append(beside.per_second / alone.per_second)
                print(f"alone {alone.per_second:.1f}/s, beside a comparison {beside.per_second:.1f}/s", flush=True)
        print(f"/predict at its peak, beside a comparison: {statistics.median(ratios):.1%} of what it is alone")


if __name__ == "__main__":
    main()
