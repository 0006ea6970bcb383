"""Which settings serve most on this machine: the real service, under load over HTTP, once for each candidate."""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any, Final

import httpx

from onesheet.errors import OnesheetError
from onesheet.load import run_load, upload_request
from onesheet.predictor import usable_cores
from onesheet.processes import running

_WARM_UP_SECONDS: Final = 1.0
# From a process' loaded model to its open port.
_LISTEN_SECONDS: Final = 0.2
# Where the processor is slow or busy, a start takes minutes; one that fails is noticed at once.
_START_SECONDS: Final = 900
_STOP_SECONDS: Final = 15
# Candidates this near to the best are as good; of them the smallest is taken.
_NOISE: Final = 0.03
_ROUNDS: Final = 2
_BATCHES: Final = (1, 2, 4, 8, 16)


@dataclass(frozen=True, slots=True)
class Candidate:
    """Settings that the service can be started with."""

    workers: int
    threads: int
    max_batch: int

    @property
    def environment(self) -> dict[str, str]:
        """As environment variables."""
        return {f"ONESHEET_{name.upper()}": str(value) for name, value in asdict(self).items()}

    @property
    def size(self) -> tuple[int, int, int]:
        """For comparison: processes cost most, then threads."""
        return (self.workers, self.threads, self.max_batch)


@dataclass(frozen=True, slots=True)
class Trial:
    """What a candidate did.

    Attributes:
        candidate: The settings.
        posters_per_s: Answered over HTTP; median of the rounds.
        p95_ms: Latency with as many requests under way as were sent at once; median of the rounds.
    """

    candidate: Candidate
    posters_per_s: float
    p95_ms: float


@dataclass(frozen=True, slots=True)
class Tuning:
    """All trials, and what they speak for."""

    trials: tuple[Trial, ...]
    best: Trial

    def to_dict(self) -> dict[str, Any]:
        """As JSON."""
        rows = [
            {**asdict(trial.candidate), "posters_per_s": trial.posters_per_s, "p95_ms": trial.p95_ms}
            for trial in self.trials
        ]
        return {"settings": self.best.candidate.environment, "trials": rows}

    def to_text(self) -> str:
        """As a table, and lines for a `.env` file."""
        lines = [f"{'workers':>7} {'threads':>8} {'max batch':>10} {'posters/s':>10} {'p95 ms':>8}"]
        for trial in self.trials:
            candidate = trial.candidate
            mark = "  <" if trial is self.best else ""
            lines.append(
                f"{candidate.workers:7} {candidate.threads:8} {candidate.max_batch:10} "
                f"{trial.posters_per_s:10.0f} {trial.p95_ms:8.0f}{mark}"
            )
        settings = (f"{name}={value}" for name, value in self.best.candidate.environment.items())
        return "\n".join([*lines, "", "for this machine, as environment variables or in a .env file:", *settings])


def tune(
    environment: Mapping[str, str],
    posters: Sequence[bytes],
    connections: int,
    seconds: float,
    on_trial: Callable[[int, int], None] | None = None,
) -> Tuning:
    """Start the service with one candidate after another, load it, and compare.

    First processes and threads are chosen, then the batch size for them. All that are compared are measured twice, in
    two rounds, so that a machine that is slower for a while does not decide.

    Args:
        environment: Settings that all candidates share, as environment variables.
        posters: Encoded, to ask for in turn.
        connections: Requests under way at any time; what is best for a few is not best for a crowd.
        seconds: How long each candidate is loaded in each round.
        on_trial: Called with the number of measurements done, and of all.

    Raises:
        OnesheetError: The service does not start, or does not answer.
    """
    shapes = candidates(usable_cores())
    total, done = _ROUNDS * (len(shapes) + len(_BATCHES)), 0

    def measure(candidates: Sequence[Candidate]) -> list[Trial]:
        nonlocal done
        rounds: list[list[tuple[float, float]]] = []
        for _ in range(_ROUNDS):
            rounds.append([])
            for candidate in candidates:
                rounds[-1].append(_measure({**environment, **candidate.environment}, posters, connections, seconds))
                done += 1
                if on_trial:
                    on_trial(done, total)
        by_candidate = zip(*rounds, strict=True)
        return [
            Trial(candidate, *(median(values) for values in zip(*figures, strict=True)))
            for candidate, figures in zip(candidates, by_candidate, strict=True)
        ]

    by_shape = measure(shapes)
    shape = choose(by_shape).candidate
    by_batch = measure([replace(shape, max_batch=batch) for batch in _BATCHES])
    return Tuning((*by_shape, *by_batch), choose(by_batch))


def choose(trials: Sequence[Trial]) -> Trial:
    """The smallest of those that are as good as the best, within noise."""
    most = max(trial.posters_per_s for trial in trials)
    good = [trial for trial in trials if trial.posters_per_s >= (1 - _NOISE) * most]
    return min(good, key=lambda trial: trial.candidate.size)


def candidates(cores: int) -> list[Candidate]:
    """Processes and threads worth a try: one process, one for each core, and some between."""
    counts = sorted({1, max(1, cores // 4), max(1, cores // 2), cores})
    return [
        Candidate(workers, threads, _BATCHES[3])
        for workers in counts
        for threads in sorted({max(1, cores // workers), cores // workers + 1})
    ]


def _measure(
    environment: Mapping[str, str], posters: Sequence[bytes], connections: int, seconds: float
) -> tuple[float, float]:
    """Posters a second, and the 95th percentile of their latency in milliseconds."""
    with running_service(environment) as service:
        requests = [upload_request(f"{service.url}/predict", "file", poster) for poster in posters]
        warm_up = min(_WARM_UP_SECONDS, seconds)
        result = run_load(service.url, requests, connections=connections, seconds=seconds, warm_up=warm_up)
    if not result.latencies:
        raise OnesheetError(f"the service answered nothing but errors under load: {dict(result.statuses)}")
    return result.per_second, result.percentile_ms(95)


@dataclass(frozen=True, slots=True)
class RunningService:
    """A service that was started for a while.

    Attributes:
        url: Where it answers.
        pid: Its process, the parent of its workers.
    """

    url: str
    pid: int


@contextmanager
def running_service(environment: Mapping[str, str], *options: str) -> Iterator[RunningService]:
    """`onesheet serve` with these settings and no others, and a prediction log of its own; gone afterwards.

    Args:
        environment: Settings as environment variables; those of this process and of a `.env` file do not count.
        options: Of the command.

    Raises:
        OnesheetError: It does not start; the message is its own last line.
    """
    with tempfile.TemporaryDirectory(prefix="onesheet-service-") as folder:
        stderr = Path(folder, "stderr")
        others = {name: value for name, value in os.environ.items() if not name.upper().startswith("ONESHEET_")}
        own = {
            "ONESHEET_LOG_URL": f"sqlite:///{folder}/log.db",
            "ONESHEET_LOG_JSON": "true",
            "ONESHEET_PORT": "0",
        }
        service = {"env": {**others, **own, **environment}, "cwd": folder}
        with (
            stderr.open("wb") as file,
            running("onesheet", "serve", *options, patience=_STOP_SECONDS, stderr=file, **service) as process,
        ):
            workers = int(environment.get("ONESHEET_WORKERS", "1"))
            yield RunningService(_wait_until_ready(process, stderr, workers), process.pid)


def _wait_until_ready(process: subprocess.Popen[bytes], stderr: Path, workers: int) -> str:
    """The address, when all processes answer there: connections that come before stay with those that were first."""
    deadline = time.monotonic() + _START_SECONDS
    while process.poll() is None and time.monotonic() < deadline:
        said = _said(stderr)
        if failure := next((line for line in said if line["event"] == "model not loaded"), None):
            raise OnesheetError(f"the service did not start: {failure.get('reason', 'its model could not be loaded')}")
        url = next((str(line["url"]) for line in said if line["event"] == "listening"), None)
        if url and sum(line["event"] == "model ready" for line in said) >= workers:
            time.sleep(_LISTEN_SECONDS)
            if _is_ready(url):
                return url
        time.sleep(0.05)
    last = stderr.read_text(errors="replace").strip().rpartition("\n")[2]
    raise OnesheetError(f"the service did not start: {last or 'it said nothing'}")


def _said(stderr: Path) -> list[dict[str, Any]]:
    """What the service has logged; other lines, and one that is still being written, are left out."""
    lines = stderr.read_text(errors="replace").splitlines(keepends=True)
    return [json.loads(line) for line in lines if line.startswith("{") and line.endswith("\n")]


def _is_ready(url: str) -> bool:
    try:
        return httpx.get(f"{url}/readyz", trust_env=False).status_code == httpx.codes.OK
    except httpx.TransportError:
        return False
