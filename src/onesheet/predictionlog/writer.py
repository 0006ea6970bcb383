"""Groups what arrives together into one transaction, so that a durable log does not cost throughput."""

from __future__ import annotations

import math
import queue
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Final

from onesheet.errors import LogUnavailableError
from onesheet.predictionlog.records import LoggedPrediction

_GROUP: Final = 500
# Behind a database that hangs; what waits holds memory, and those who wait for it have left long before.
_MOST_WAITING: Final = 2000
# While answers keep coming, each group gathers this long: half as many commits cost half as much.
_GATHER_SECONDS: Final = 0.004
_BUSY_SECONDS: Final = 0.02

_Entry = tuple[LoggedPrediction, "Future[None]"]


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
        """Write what is waiting, then stop."""
        self._waiting.put(None)
        self._thread.join()

    def _work(self) -> None:
        while entries := self._next_group():
            group = [entry for entry in entries if entry[1].set_running_or_notify_cancel()]
            if not group:
                continue
            try:
                self._append([prediction for prediction, _ in group])
            except Exception as error:  # noqa: BLE001  it is the waiting requests' to hear
                # Whatever it was, the others must not wait for ever; the service logs it.
                failure = error if isinstance(error, LogUnavailableError) else LogUnavailableError()
                failure.__cause__ = failure.__cause__ or error
                for _, written in group:
                    written.set_exception(failure)
            else:
                for _, written in group:
                    written.set_result(None)
            self._written = time.monotonic()

    def _next_group(self) -> list[_Entry]:
        """Wait for an answer and take those that have gathered behind it; empty at the end."""
        group: list[_Entry] = []
        while len(group) < _GROUP:
            try:
                entry = self._waiting.get(block=not group)
            except queue.Empty:
                break
            if entry is None:
                # For the next call, when what came before it is written.
                if group:
                    self._waiting.put(None)
                break
            if not group and time.monotonic() - self._written < _BUSY_SECONDS:
                time.sleep(_GATHER_SECONDS)
            group.append(entry)
        return group
