"""What costs more than an answer, or is asked less often: why, what is similar, and what has been asked."""

from __future__ import annotations

import asyncio
import os
import sys
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final, TypeVar
from weakref import WeakSet

import numpy as np

from onesheet.errors import InvalidRequestError
from onesheet.explanation import explain
from onesheet.predictionlog import DriftRuns, summarize
from onesheet.serving.shares import SharedBudget
from onesheet.similar import KnownPosters

if TYPE_CHECKING:
    from uuid import UUID

    from onesheet.explanation import Explanation
    from onesheet.predictionlog import Activity, DriftRun, PredictionLog
    from onesheet.predictor import Predictor
    from onesheet.similar import Neighbour

# Each holds its picture in memory, and those before it may take half a second.
_MAX_WAITING: Final = 16
_MAX_WAITING_OF_A_CLIENT: Final = 8
_RETRY_AFTER_SECONDS: Final = 5
_CLOSING_SECONDS: Final = 5.0
# Where the system gives threads a priority of their own; answers come first.
_NICENESS: Final = 10

_Result = TypeVar("_Result")


class Insights:
    """One at a time, on a thread that leaves the cores to those who answer; a few may wait.

    Args:
        log: Of the answers.
    """

    def __init__(self, log: PredictionLog) -> None:
        self._log = log
        self._running: set[Future[Any]] = set()
        self._asked: WeakSet[Predictor] = WeakSet()
        self._places = SharedBudget(
            _MAX_WAITING, _MAX_WAITING_OF_A_CLIENT, "places in the queue", retry_after=_RETRY_AFTER_SECONDS
        )
        self._known: tuple[Predictor, KnownPosters] | None = None
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="insights", initializer=_step_back)

    async def explain(self, predictor: Predictor, data: bytes, client: str) -> Explanation:
        """What each part of a poster does for each genre.

        Raises:
            ImageError: The picture cannot be read.
            ShareExceededError, OverloadedError: Too many wait, of this client or of all.
        """
        self._asked.add(predictor)
        return await self._run(client, lambda: explain(predictor, predictor.read(data).pixels))

    async def similar(self, predictor: Predictor, data: bytes, count: int, client: str) -> Sequence[Neighbour]:
        """The known posters that are most like a poster, nearest first.

        Raises:
            ImageError: The picture cannot be read.
            MissingExtraError, BundleCorruptError: As `KnownPosters.read` does.
            ShareExceededError, OverloadedError: Too many wait, of this client or of all.
        """
        self._asked.add(predictor)

        def search() -> list[Neighbour]:
            _, embeddings = predictor.run(predictor.read(data).pixels[None])
            return self._posters_of(predictor).nearest(embeddings[0].astype(np.float32), count)

        return await self._run(client, search)

    async def activity(self, hours: float, buckets: int, client: str) -> Activity:
        """What has been asked and answered in the last hours.

        Raises:
            InvalidRequestError: They are out of range.
            LogUnavailableError: The log cannot be read.
            ShareExceededError, OverloadedError: Too many wait, of this client or of all.
        """
        until = datetime.now(UTC)
        return await self._run(client, lambda: summarize(self._log, until - timedelta(hours=hours), until, buckets))

    async def drift_runs(self, limit: int, client: str) -> list[DriftRun]:
        """The last comparisons with the reference, newest first.

        Raises:
            LogUnavailableError: The log cannot be read.
            ShareExceededError, OverloadedError: Too many wait, of this client or of all.
        """
        return await self._run(client, lambda: DriftRuns(self._log).latest(limit))

    async def drift_report(self, run_id: UUID, client: str) -> bytes | None:
        """The HTML of one; None where there is none.

        Raises:
            LogUnavailableError: The log cannot be read.
            ShareExceededError, OverloadedError: Too many wait, of this client or of all.
        """
        return await self._run(client, lambda: DriftRuns(self._log).report(run_id))

    def close(self) -> None:
        """Finish what is under way; a model that does not end by itself is stopped."""
        self._pool.shutdown(wait=False, cancel_futures=True)
        _, unfinished = wait(set(self._running), _CLOSING_SECONDS)
        if unfinished:
            for predictor in self._asked:
                predictor.stop()
            wait(unfinished, _CLOSING_SECONDS)

    async def _run(self, client: str, work: Callable[[], _Result]) -> _Result:
        with self._places.holding(client) as hold:
            hold(1)
            future = self._pool.submit(work)
            self._running.add(future)
            future.add_done_callback(self._running.discard)
            return await asyncio.wrap_future(future)

    def _posters_of(self, predictor: Predictor) -> KnownPosters:
        """Read when they are first asked for, and again after a change of the model."""
        if self._known is None or self._known[0] is not predictor:
            self._known = predictor, KnownPosters.read(predictor.reference)
        return self._known[1]


def chosen_genres(predictor: Predictor, named: Sequence[str]) -> list[int]:
    """The places of some genres in the order of the probabilities; of all where none is named.

    Raises:
        InvalidRequestError: The model does not know one of them.
    """
    if unknown := set(named) - set(predictor.genres):
        raise InvalidRequestError(f"genre: the model does not know {len(unknown)} of them; see /model")
    return [place for place, genre in enumerate(predictor.genres) if genre in named or not named]


def _step_back() -> None:
    # Elsewhere a priority is the whole process's. A system that forbids it must not break the pool.
    if sys.platform == "linux":
        with suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _NICENESS)
