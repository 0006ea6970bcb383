"""The service under the student system's load, and under more than it can take; both share the machine.

uv run --extra all --group dev python benchmarks/serving/crowds.py POSTERS [SECONDS]

1. 200 users for two minutes (or SECONDS), with ordinary posters.
2. The same with the student system's own sample: a PNG of 932 x 1338 pixels with transparency and 2.5 MB, each time.
   Here an answer may take ten seconds: its users send twice as much as any machine of this size can decode.
3. Ever more users, up to a thousand; then a single one again.
4. A thousand users who ask for nothing but posters, sent by a generator that costs little beside them, against the
   most that the service answers.
"""

from __future__ import annotations

import csv
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import numpy as np
import psutil
from PIL import Image

from onesheet.bench import run_bench
from onesheet.load import LoadResult, run_load, upload_request
from onesheet.predictor import load_predictor, usable_cores
from onesheet.tune import RunningService, running_service

# A process for each core with one thread each: the most where many ask at once.
TUNED = {"ONESHEET_WORKERS": str(usable_cores()), "ONESHEET_THREADS": "1"}
STEPS = (100, 200, 400, 700, 1000)
STEP_SECONDS = 20
# Seconds; the student system's users ask for a poster every 2.4 s.
PAUSES = (4.0, 2.4, 1.2)
PEAK_CONNECTIONS, WARM_UP = 32, 4.0
PROBE_SECONDS = 0.1
NORMAL_SECONDS = 0.2


@dataclass
class Row:
    """What Locust says of one kind of request."""

    requests: int
    failures: int
    per_s: float
    median_ms: float
    p95_ms: float
    max_ms: float


@dataclass
class Watch:
    """What a probe and the system said meanwhile."""

    livez_ms: list[float] = field(default_factory=list)
    memory_mb: list[float] = field(default_factory=list)


def main() -> None:
    posters = Path(sys.argv[1])
    seconds = int(sys.argv[2]) if len(sys.argv) > 2 else 120
    print(f"{usable_cores()} cores; service and load generator on the same ones\n")
    ordinary(posters, seconds)
    heavy(seconds)
    ever_more(posters)
    posters_only(posters)


def ordinary(posters: Path, seconds: int) -> None:
    with running_service(TUNED) as service, watching(service) as watch:
        rows = locust(service.url, posters, users=200, spawn=5, seconds=seconds)
    print("## 200 users, ordinary posters\n")
    show(rows, watch)


def heavy(seconds: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        sample = Path(folder, "sample.png")
        write_sample(sample)
        limit = run_bench(load_predictor("starter"), Path(folder), 5).decode_per_s
        patient = {**TUNED, "ONESHEET_PATIENCE_SECONDS": "10", "ONESHEET_MAX_UPLOAD_BYTES_AT_ONCE": str(2**30)}
        with running_service(patient) as service, watching(service) as watch:
            rows = locust(service.url, Path(folder), users=200, spawn=5, seconds=seconds, after_spawning=True)
        size = sample.stat().st_size / 1e6
    print(f"## 200 users, a PNG of 932 x 1338 pixels and {size:.1f} MB each time\n")
    show(rows, watch)
    done = rows["/predict"].per_s
    print(f"decoding alone: {limit:.1f} a second; answered over HTTP: {done:.1f}, {done / limit:.0%} of it\n")


def ever_more(posters: Path) -> None:
    print("## Ever more users, ordinary posters\n")
    print(
        "| users | /health/s | /predict/s | refused/s | failed | median ms | p95 ms | slowest ms "
        "| /livez p99 ms | slowest | memory MB |"
    )
    print("|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|")
    with running_service(TUNED) as service:
        for users in STEPS:
            with watching(service) as watch:
                rows = locust(
                    service.url, posters, users=users, spawn=users / 5, seconds=STEP_SECONDS, after_spawning=True
                )
            done, refused = rows["/predict"], rows.get("/predict refused", Row(0, 0, 0, 0, 0, 0))
            failures = sum(row.failures for row in rows.values())
            slowest = max(row.max_ms for row in rows.values())
            print(
                f"| {users} | {rows['/health'].per_s:.1f} "
                f"| {done.per_s:.1f} | {refused.per_s:.1f} | {failures} | {done.median_ms:.0f} | "
                f"{done.p95_ms:.0f} | {slowest:.0f} | {np.percentile(watch.livez_ms, 99):.0f} | "
                f"{max(watch.livez_ms):.0f} | {max(watch.memory_mb):.0f} |"
            )
        print(f"\nnormal again {seconds_until_normal(service.url, posters):.1f} s after the last of them left\n")


def posters_only(posters: Path) -> None:
    files = sorted(posters.iterdir())
    chosen = [file.read_bytes() for file in files[:: max(1, len(files) // 256)]]
    print("## A thousand users who ask for nothing but posters\n")
    print("| pause s | answered/s | of the most | refused/s | p95 ms | /livez p99 ms | memory MB |")
    print("|---:|---:|---:|---:|---:|---:|---:|")
    with running_service(TUNED) as service:
        requests = [upload_request(f"{service.url}/predict", "file", poster) for poster in chosen]

        def load(connections: int, pause: float) -> LoadResult:
            return run_load(
                service.url, requests, connections=connections, seconds=STEP_SECONDS, warm_up=WARM_UP, pause=pause
            )

        for pause in PAUSES:
            with watching(service) as watch:
                most = load(PEAK_CONNECTIONS, 0).per_second
                found = load(STEPS[-1], pause)
            print(
                f"| {pause:.1f} | {found.per_second:.1f} | {found.per_second / most:.0%} of {most:.1f} | "
                f"{found.statuses[503] / STEP_SECONDS:.1f} | {found.percentile_ms(95):.0f} | "
                f"{np.percentile(watch.livez_ms, 99):.0f} | {max(watch.memory_mb):.0f} |"
            )


def locust(
    url: str, posters: Path, *, users: int, spawn: float, seconds: int, after_spawning: bool = False
) -> dict[str, Row]:
    """Run it, and read what it found; with `after_spawning` only of the time when all users were there."""
    arrival = users / spawn if after_spawning else 0
    with tempfile.TemporaryDirectory() as folder:
        command = [
            *(sys.executable, "-m", "locust", "-f", str(Path(__file__).with_name("locustfile.py"))),
            *("--headless", "--host", url, "-u", str(users), "-r", str(spawn), "-t", f"{int(seconds + arrival)}s"),
            *("--csv", f"{folder}/found", "--skip-log", "--only-summary", "--exit-code-on-error", "0"),
            *(["--reset-stats"] if after_spawning else []),
        ]
        subprocess.run(
            command, env={**os.environ, "POSTERS": str(posters)}, check=True, capture_output=True, cwd=folder
        )
        with Path(folder, "found_stats.csv").open() as file:
            return {
                row["Name"]: Row(
                    int(row["Request Count"]),
                    int(row["Failure Count"]),
                    float(row["Requests/s"]),
                    float(row["Median Response Time"]),
                    float(row["95%"]),
                    float(row["Max Response Time"]),
                )
                for row in csv.DictReader(file)
                if row["Name"] != "Aggregated"
            }


@contextmanager
def watching(service: RunningService) -> Iterator[Watch]:
    """Ask /livez on a new connection every time, as a load balancer does, and look at the memory."""
    watch, stopped = Watch(), threading.Event()
    process = psutil.Process(service.pid)

    def look() -> None:
        family = [process, *process.children(recursive=True)]
        while not stopped.wait(PROBE_SECONDS):
            started = time.perf_counter()
            probe(service.url)
            watch.livez_ms.append((time.perf_counter() - started) * 1e3)
            watch.memory_mb.append(sum(member.memory_info().rss for member in family) / 1e6)

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield watch
    finally:
        stopped.set()
        thread.join()


def probe(url: str) -> None:
    """By hand: an HTTP library takes longer to get ready for a new connection than the service for its answer."""
    address = httpx.URL(url)
    with socket.create_connection((address.host, address.port or 80), timeout=30) as connection:
        connection.sendall(b"GET /livez HTTP/1.1\r\nHost: service\r\nConnection: close\r\n\r\n")
        assert connection.recv(4096).startswith(b"HTTP/1.1 200")


def seconds_until_normal(url: str, posters: Path) -> float:
    """Until five answers in a row came as fast as they do when nobody else asks."""
    poster = next(posters.iterdir()).read_bytes()
    left, in_a_row = time.perf_counter(), 0
    while in_a_row < 5:
        started = time.perf_counter()
        answer = httpx.post(f"{url}/predict", files={"file": poster}, timeout=60, trust_env=False)
        fast = time.perf_counter() - started < NORMAL_SECONDS
        in_a_row = in_a_row + 1 if fast and answer.status_code == httpx.codes.OK else 0
    return time.perf_counter() - left


def write_sample(path: Path) -> None:
    """Blurred noise with transparency, which packs as badly as the student system's sample did."""
    rng = np.random.default_rng(0)
    coarse = Image.fromarray(rng.integers(0, 256, (446, 311, 4), np.uint8), "RGBA")
    coarse.resize((932, 1338), Image.Resampling.BICUBIC).save(path)


def show(rows: dict[str, Row], watch: Watch) -> None:
    print("| | requests | failed | a second | median ms | p95 ms | slowest ms |")
    print("|---|---:|---:|---:|---:|---:|---:|")
    for name, row in rows.items():
        print(
            f"| {name} | {row.requests} | {row.failures} | {row.per_s:.1f} | {row.median_ms:.0f} | {row.p95_ms:.0f} | "
            f"{row.max_ms:.0f} |"
        )
    print(
        f"\n/livez meanwhile: median {statistics.median(watch.livez_ms):.0f} ms, slowest {max(watch.livez_ms):.0f} ms; "
        f"memory at most {max(watch.memory_mb):.0f} MB\n"
    )


if __name__ == "__main__":
    main()
