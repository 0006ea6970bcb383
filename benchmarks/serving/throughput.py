"""Peak throughput of /predict over HTTP beside the machine's limit, and beside the student API.

uv run --extra all --group dev python benchmarks/serving/throughput.py POSTERS [ROUNDS]

The services are loaded in turns, a few seconds each, round after round, with the load generator on the same cores; each
is compared with the limit as it was in the same round, because machines are not always equally fast. Ours run all the
time; the student API is started anew for each round, before its table of answers slows it down.
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
from contextlib import AbstractContextManager, ExitStack, contextmanager
from functools import partial
from pathlib import Path

import httpx

from onesheet.bench import run_bench, sample_posters
from onesheet.load import run_load, upload_request
from onesheet.predictor import load_predictor, usable_cores
from onesheet.tune import RunningService, running_service

WARM_UP_SECONDS, SECONDS = 2.0, 4.0
CONNECTIONS = 32
# A process for each core with one thread each: the most where many ask at once.
TUNED = {"ONESHEET_WORKERS": str(usable_cores()), "ONESHEET_THREADS": "1"}
LIMIT = "limit: decode + model in a bare loop"
BEST = "FastAPI, a process for each core"


def main() -> None:
    folder, rounds = Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 10
    predictor = load_predictor("starter")
    posters = sample_posters(folder, predictor)
    services = {
        "FastAPI, as it comes: one process": running_service({}),
        BEST: running_service(TUNED),
        "BentoML, a process for each core": running_service(TUNED, "--engine", "bentoml"),
    }
    students = {
        "student API, our weights, first answers": student_api("starter"),
        "student API, our weights, after 10,000 answers": student_api("starter", answers=10_000),
        "student API, csatv2_21m, first answers": student_api("csatv2_21m"),
    }
    rates: defaultdict[str, list[float]] = defaultdict(list)
    with ExitStack() as stack:
        running = {name: stack.enter_context(service) for name, service in services.items()}
        for number in range(rounds):
            rates[LIMIT].append(run_bench(predictor, folder, SECONDS / 2).decode_model_per_s)
            for name, service in running.items():
                rates[name].append(answers_per_second(service.url, posters))
            for name, student in students.items():
                with student() as service:
                    rates[name].append(answers_per_second(service.url, posters))
            print(f"round {number + 1}:", *(f"{found[-1]:.1f}" for found in rates.values()), file=sys.stderr)

    print(f"{usable_cores()} cores, {len(posters)} posters, {CONNECTIONS} connections, {rounds} rounds\n")
    print("| | posters/s | of the limit | lowest to highest | FastAPI is faster by |")
    print("|---|---:|---:|---:|---:|")
    for name, found in rates.items():
        shares = [rate / limit for rate, limit in zip(found, rates[LIMIT], strict=True)]
        ratio = statistics.median(best / rate for best, rate in zip(rates[BEST], found, strict=True))
        spread = f"{min(shares):.0%} to {max(shares):.0%}"
        print(
            f"| {name} | {statistics.median(found):.1f} | {statistics.median(shares):.0%} | {spread} | {ratio:.1f} x |"
        )


def answers_per_second(url: str, posters: list[bytes]) -> float:
    requests = [upload_request(f"{url}/predict", "file", poster) for poster in posters]
    result = run_load(url, requests, connections=CONNECTIONS, seconds=SECONDS, warm_up=WARM_UP_SECONDS)
    assert set(result.statuses) == {200}, result.statuses
    return result.per_second


def student_api(model: str, answers: int = 0) -> Callable[[], AbstractContextManager[RunningService]]:
    """`baseline.py`, with a table of so many answers from before; gone afterwards."""
    return partial(_student_api, model, answers)


@contextmanager
def _student_api(model: str, answers: int) -> Iterator[RunningService]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    with tempfile.TemporaryDirectory() as folder:
        process = subprocess.Popen(
            [sys.executable, "-m", "uvicorn", "baseline:app", "--port", str(port), "--log-level", "warning"],
            cwd=Path(__file__).parent,
            env={
                **os.environ,
                "BASELINE_MODEL": model,
                "BASELINE_CSV": f"{folder}/predictions.csv",
                "BASELINE_ANSWERS": str(answers),
            },
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
