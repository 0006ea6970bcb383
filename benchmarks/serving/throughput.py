"""Peak throughput of /predict over HTTP beside the machine's limit, and beside the student API.

uv run --extra all --group dev python benchmarks/serving/throughput.py [POSTERS]

Everything is measured in turns, round after round, with the load generator on the same cores.
"""

from __future__ import annotations

import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from pathlib import Path

import httpx

from onesheet.bench import run_bench, sample_posters
from onesheet.load import run_load, upload_request
from onesheet.predictor import load_predictor, usable_cores
from onesheet.tune import RunningService, running_service

ROUNDS = 3
SECONDS = 8.0
CONNECTIONS = 32


def main() -> None:
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else None
    predictor = load_predictor("starter")
    posters = sample_posters(folder, predictor)
    subjects: dict[str, Callable[[], float]] = {
        "limit: decode + model in a bare loop": lambda: run_bench(predictor, folder, SECONDS / 4).decode_model_per_s,
        "FastAPI": lambda: over_http(running_service({}), posters),
        "BentoML": lambda: over_http(running_service({}, "--engine", "bentoml"), posters),
        "student API, our weights": lambda: over_http(student_api("starter"), posters),
        "student API, csatv2_21m": lambda: over_http(student_api("csatv2_21m"), posters, connections=2),
    }
    rates: defaultdict[str, list[float]] = defaultdict(list)
    for number in range(ROUNDS):
        for name, measure in subjects.items():
            rates[name].append(measure())
            print(f"round {number + 1}: {name}: {rates[name][-1]:.1f}", file=sys.stderr)

    limit, ours = (statistics.median(rates[name]) for name in list(subjects)[:2])
    print(f"{usable_cores()} cores, {len(posters)} posters, {CONNECTIONS} connections, median of {ROUNDS} rounds\n")
    print("| | posters/s | lowest to highest | of the limit | FastAPI is faster by |")
    print("|---|---:|---:|---:|---:|")
    for name, found in rates.items():
        middle = statistics.median(found)
        spread = f"{min(found):.1f} to {max(found):.1f}"
        print(f"| {name} | {middle:.1f} | {spread} | {middle / limit:.0%} | {ours / middle:.1f} x |")


def over_http(
    service: AbstractContextManager[RunningService], posters: list[bytes], connections: int = CONNECTIONS
) -> float:
    """Answers a second."""
    with service as running:
        requests = [upload_request(f"{running.url}/predict", "file", poster) for poster in posters]
        load = partial(run_load, running.url, requests, connections=connections)
        load(seconds=2)
        result = load(seconds=SECONDS)
    assert set(result.statuses) == {200}, result.statuses
    return result.per_second


@contextmanager
def student_api(model: str) -> Iterator[RunningService]:
    """`baseline.py`, gone afterwards."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    with tempfile.TemporaryDirectory() as folder:
        process = subprocess.Popen(
            [sys.executable, "-m", "uvicorn", "baseline:app", "--port", str(port), "--log-level", "warning"],
            cwd=Path(__file__).parent,
            env={**os.environ, "BASELINE_MODEL": model, "BASELINE_CSV": f"{folder}/predictions.csv"},
        )
        running = RunningService(f"http://127.0.0.1:{port}", process.pid)
        try:
            wait_until_well(running.url)
            yield running
        finally:
            process.terminate()
            process.wait()


def wait_until_well(url: str) -> None:
    """The student API has no other sign that it is there."""
    for _ in range(600):
        try:
            httpx.get(f"{url}/health")
        except httpx.TransportError:
            time.sleep(0.1)
        else:
            return
    raise TimeoutError(url)


if __name__ == "__main__":
    main()
