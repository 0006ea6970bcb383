"""Supervisor of worker processes: starts them, replaces those that die or hang, and ends them.

uvicorn's and gunicorn's give a worker that is still starting the same few seconds as one that serves, so that none ever
starts where the processor is slow or busy, and they restart workers for ever without a pause.
"""

from __future__ import annotations

import asyncio
import ctypes
import multiprocessing
import signal
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import asdict, dataclass
from enum import StrEnum
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING, Final, TypeAlias

import structlog

from onesheet.errors import OnesheetError, reason
from onesheet.processes import ask_to_end, end_with_parent

if TYPE_CHECKING:
    from structlog.typing import FilteringBoundLogger

_CONTEXT: Final = multiprocessing.get_context("spawn")
# Of prctl(2): the signal that the kernel sends when the thread that started this process has ended.
_PR_SET_PDEATHSIG: Final = 1

_BEAT_SECONDS: Final = 0.5
_TICK_SECONDS: Final = 0.25
_END_POLL_SECONDS: Final = 0.05
_MAX_PAUSE_SECONDS: Final = 60.0
# A worker that has served for so long has recovered: its next failure counts as the first.
_RECOVERED_SECONDS: Final = 60.0

logger: FilteringBoundLogger = structlog.get_logger(__name__)


class Restart(StrEnum):
    """Why a worker is restarted."""

    START_FAILED = "start_failed"
    DIED = "died"
    HUNG = "hung"


class Heartbeat:
    """A worker's sign of life, in memory that it shares with its supervisor."""

    def __init__(self) -> None:
        self._beats = _CONTEXT.RawValue(ctypes.c_uint64)

    @property
    def count(self) -> int:
        """Beats so far; 0 while the worker is starting."""
        return int(self._beats.value)

    def beat(self) -> None:
        """Called by the worker as soon as it serves, and often from then on."""
        self._beats.value += 1

    @asynccontextmanager
    async def beating(self) -> AsyncIterator[None]:
        """Beat as long as the event loop turns."""
        task = asyncio.create_task(self._keep_beating())
        try:
            yield
        finally:
            task.cancel()

    async def _keep_beating(self) -> None:
        while True:
            self.beat()
            await asyncio.sleep(_BEAT_SECONDS)


Work: TypeAlias = Callable[[Heartbeat], None]


class Supervisor:
    """Keeps worker processes running.

    Args:
        work: Called in each worker; picklable.
        workers: How many.
        timeout: Seconds without a heartbeat after which a worker is taken for hung. There is no limit on the time
            before its first heartbeat.
        grace: Seconds that workers get to end.
        on_restart: Called with the process ID of a worker that has ended, and why it is restarted.
    """

    def __init__(
        self, work: Work, workers: int, *, timeout: float, grace: float, on_restart: Callable[[int, Restart], None]
    ) -> None:
        self._work = work
        self._places = [_Place() for _ in range(workers)]
        self._timeout = timeout
        self._grace = grace
        self._on_restart = on_restart
        self._has_served = False
        self._ending = False
        self._impatient = False

    def end(self) -> None:
        """Let `run` end the workers and return; signal handlers may call it."""
        self._ending = True

    def interrupt(self) -> None:
        """As `end`; the second time, the workers get no more time to end."""
        self._impatient = self._ending
        self._ending = True

    def run(self) -> None:
        """Keep the workers running until `end` is called.

        Raises:
            OnesheetError: A worker failed before any has ever served, as all others would.
        """
        last = time.monotonic()
        try:
            while not self._ending:
                # While this process was suspended, the workers may have been too.
                elapsed = min(time.monotonic() - last, 2 * _TICK_SECONDS)
                last = time.monotonic()
                for place in self._places:
                    self._look_after(place, elapsed)
                time.sleep(_TICK_SECONDS)
        finally:
            self._end_all()

    def _look_after(self, place: _Place, elapsed: float) -> None:
        worker = place.worker
        if worker is None:
            try:
                place.start_when_due(self._work)
            except OSError as error:  # of memory, processes or open files there are too few, for a while
                pause = place.vacate(recovered=False)
                logger.warning("worker not started", reason=reason(error), restart_in_seconds=pause)
            return
        problem = worker.check(elapsed, self._timeout)
        self._has_served = self._has_served or worker.served > 0
        if problem is not None:
            self._replace(place, worker, problem)

    def _replace(self, place: _Place, worker: _Worker, problem: Restart) -> None:
        ended = worker.kill()
        if problem is Restart.START_FAILED and ended.exit_code >= 0 and not self._has_served:
            raise OnesheetError(f"no worker process can start: {ended.reason or 'the lines above say why'}")
        pause = place.vacate(recovered=worker.served > _RECOVERED_SECONDS)
        event = "worker hung and was killed" if problem is Restart.HUNG else "worker died"
        told = {name: value for name, value in asdict(ended).items() if value is not None}
        logger.warning(event, **told, restart_in_seconds=pause)
        self._on_restart(ended.pid, problem)

    def _end_all(self) -> None:
        running = [place.worker.process for place in self._places if place.worker]
        for process in running:
            ask_to_end(process)
        deadline = time.monotonic() + self._grace
        while any(process.is_alive() for process in running) and time.monotonic() < deadline and not self._impatient:
            time.sleep(_END_POLL_SECONDS)
        for process in running:
            if process.is_alive():
                logger.warning("worker did not end in time and was killed", pid=process.pid)
                process.kill()
            process.join()


class _Place:
    """Where a worker is started again and again."""

    def __init__(self) -> None:
        self.worker: _Worker | None = None
        self._start_at = 0.0
        self._failures = 0

    def start_when_due(self, work: Work) -> None:
        """Start a worker, unless it is too early."""
        if time.monotonic() >= self._start_at:
            self.worker = _Worker(work)

    def vacate(self, *, recovered: bool) -> float:
        """Forget the worker, which has failed.

        Args:
            recovered: It had served for long.

        Returns:
            Seconds until the next start.
        """
        self.worker = None
        self._failures = 1 if recovered else self._failures + 1
        pause = restart_pause(self._failures)
        self._start_at = time.monotonic() + pause
        return pause


def restart_pause(failures: int) -> float:
    """Seconds before a worker is started again that has failed so many times in a row: 0, 1, 2, 4 and so on."""
    return min(2.0 ** min(failures - 2, 10), _MAX_PAUSE_SECONDS) if failures > 1 else 0.0


@dataclass(frozen=True, slots=True)
class _Ended:
    """A worker that has ended.

    Attributes:
        pid: Its process ID.
        exit_code: Negative: the number of the signal that killed it.
        reason: The error that ended it, where there was one.
    """

    pid: int
    exit_code: int
    reason: str | None


class _Worker:
    """A worker process, started.

    Attributes:
        process: The process.
        served: Seconds since its first heartbeat.
    """

    def __init__(self, work: Work) -> None:
        self.served = 0.0
        self._silent = 0.0
        self._beats = 0
        self._heartbeat = Heartbeat()
        self._failure, sender = _CONTEXT.Pipe(duplex=False)
        self.process = _CONTEXT.Process(target=_run, args=(work, self._heartbeat, sender), name="worker")
        with _terminal_signals_blocked():
            self.process.start()
        sender.close()

    def check(self, elapsed: float, timeout: float) -> Restart | None:
        """Whether it has to be replaced, and why.

        Args:
            elapsed: Seconds since the last check.
            timeout: Seconds that it may be silent once it has started.
        """
        is_alive = self.process.is_alive()
        before, self._beats = self._beats, self._heartbeat.count
        if self._beats:
            self.served += elapsed
            self._silent = self._silent + elapsed if self._beats == before else 0.0
        if not is_alive:
            return Restart.DIED if self._beats else Restart.START_FAILED
        return Restart.HUNG if self._silent > timeout else None

    def kill(self) -> _Ended:
        """End it, if it has not ended yet."""
        self.process.kill()
        self.process.join()
        return _Ended(self.process.pid or 0, self.process.exitcode or 0, self._received_reason())

    def _received_reason(self) -> str | None:
        with self._failure, suppress(EOFError, OSError):
            return str(self._failure.recv())
        return None


@contextmanager
def _terminal_signals_blocked() -> Iterator[None]:
    """Start a process that a terminal's Ctrl-C and hang-up do not reach; its parent acts on them."""
    if sys.platform == "win32":
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGINT, signal.SIGHUP))
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _run(work: Work, heartbeat: Heartbeat, failure: Connection) -> None:
    """What a worker process runs."""
    end_with_parent()
    if sys.platform == "linux":  # also where this process is suspended
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL))
    try:
        work(heartbeat)
    except Exception as error:
        failure.send(reason(error))
        if isinstance(error, OnesheetError):
            sys.exit(1)
        raise
