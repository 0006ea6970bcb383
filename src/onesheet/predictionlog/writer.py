"""Groups what arrives together into one transaction, so that a durable log does not cost throughput."""

from __future__ import annotations

import math
import queue
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress
from typing import TYPE_CHECKING, Final

import structlog

from onesheet.errors import LogUnavailableError
from onesheet.predictionlog.records import LoggedPrediction

if TYPE_CHECKING:
    from structlog.typing import FilteringBoundLogger

_GROUP: Final = 500
# Behind a database that hangs; what waits holds memory, and those who wait for it have left long before.
_MOST_WAITING: Final = 2000
# While answers keep coming, each group gathers this long: half as many commits cost half as much.
_GATHER_SECONDS: Final = 0.004
_BUSY_SECONDS: Final = 0.02
# Of an end; a database that hangs takes longer, and nobody waits for what is written then.
_CLOSING_SECONDS: Final = 5.0

_Entry = tuple[LoggedPrediction, "Future[None]"]

logger: FilteringBoundLogger = structlog.get_logger(__name__)


class GroupWriter:
    """Appends in a thread of its own: while one group is being committed, the next one gathers.

    Args:
        append: Writes a group durably, or raises; `PredictionLog.append`.
    """

    def __init__(self, append: Callable[[Sequence[LoggedPrediction]], None]) -> None:
        self._append = append
        self._written = -math.inf
        self._waiting: queue.SimpleQueue[_Entry | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._work, name="prediction-log", daemon=True)
        self._thread.start()

    def submit(self, prediction: LoggedPrediction) -> Future[None]:
        """Have an answer written; the future is done when it is durable.

        The future raises LogUnavailableError where it could not be written. One that is cancelled before its turn comes
        is not written.
        """
        written: Future[None] = Future()
        if self._waiting.qsize() < _MOST_WAITING:
            self._waiting.put((prediction, written))
        else:
            written.set_exception(LogUnavailableError("the prediction log does not keep up"))
        return written

    def close(self) -> None:
        """Write what is waiting, for a few seconds at most, then stop."""
        self._waiting.put(None)
        self._thread.join(_CLOSING_SECONDS)
        if self._thread.is_alive():
            logger.warning("the last answers are not in the prediction log", waiting=self._waiting.qsize())

    def _work(self) -> None:
        is_open = True
        while is_open:
            group: list[_Entry] = []
            try:
                is_open = self._gather(group)
                self._write(group)
            except BaseException as error:
                # Whatever it was, those in this group must not wait for ever, and those in the next are served.
                if not isinstance(error, LogUnavailableError):
                    logger.exception("the writer of the prediction log failed", answers=len(group))
                _fail(group, error)
            self._written = time.monotonic()

    def _gather(self, group: list[_Entry]) -> bool:
        """Wait for an answer and take those that have gathered behind it.

        Returns:
            False when the end has come.
        """
        while len(group) < _GROUP:
            try:
                entry = self._waiting.get(block=not group)
            except queue.Empty:
                break
            if entry is None:
                return False
            if not group and time.monotonic() - self._written < _BUSY_SECONDS:
                time.sleep(_GATHER_SECONDS)
            if entry[1].set_running_or_notify_cancel():
                group.append(entry)
        return True

    def _write(self, group: Sequence[_Entry]) -> None:
        if group:
            self._append([prediction for prediction, _ in group])
        for _, written in group:
            written.set_result(None)


def _fail(group: Sequence[_Entry], error: BaseException) -> None:
    failure = error if isinstance(error, LogUnavailableError) else LogUnavailableError()
    failure.__cause__ = failure.__cause__ or (error if error is not failure else None)
    for _, written in group:
        with suppress(InvalidStateError):  # it was written
            written.set_exception(failure)
