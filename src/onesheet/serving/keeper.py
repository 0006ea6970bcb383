"""Pictures on their way into their folder: after their answers, and never in the way of one."""

from __future__ import annotations

import queue
import threading
import time
from typing import TYPE_CHECKING, Final

import structlog

from onesheet.errors import reason

if TYPE_CHECKING:
    from structlog.typing import FilteringBoundLogger

    from onesheet.monitoring.metrics import Metrics
    from onesheet.predictionlog import PictureFolder

# A mounted bucket takes a few tenths of a second for each picture.
_THREADS: Final = 4
_MOST_BYTES: Final = 64 * 2**20
_CLOSING_SECONDS: Final = 3.0

logger: FilteringBoundLogger = structlog.get_logger(__name__)


class PictureKeeper:
    """Keeps pictures on threads of its own, as long as the folder keeps up; the others are counted and told.

    Args:
        pictures: Where they go.
        metrics: Told of pictures that were not kept.
    """

    def __init__(self, pictures: PictureFolder, metrics: Metrics) -> None:
        self._pictures = pictures
        self._metrics = metrics
        self._waiting: queue.SimpleQueue[tuple[str, bytes] | None] = queue.SimpleQueue()
        self._held = 0
        self._lock = threading.Lock()
        self._threads = [
            threading.Thread(target=self._work, name=f"pictures-{number}", daemon=True) for number in range(_THREADS)
        ]
        for thread in self._threads:
            thread.start()

    def offer(self, sha256: str, data: bytes) -> None:
        """Have a picture kept soon; returns at once.

        Args:
            sha256: Of the data, in hexadecimal.
            data: The encoded picture.
        """
        with self._lock:
            # There is always room for one, however large.
            has_room = not self._held or self._held + len(data) <= _MOST_BYTES
            if has_room:
                self._held += len(data)
        if has_room:
            self._waiting.put((sha256, data))
        else:
            self._failed("the folder does not keep up")

    def close(self) -> None:
        """Keep what is waiting, for a few seconds at most, then stop."""
        for _ in self._threads:
            self._waiting.put(None)
        deadline = time.monotonic() + _CLOSING_SECONDS
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))
        if any(thread.is_alive() for thread in self._threads):
            logger.warning("the last pictures are not kept", reason="the folder does not keep up", bytes=self._held)

    def _work(self) -> None:
        while entry := self._waiting.get():
            sha256, data = entry
            try:
                self._pictures.keep(sha256, data)
            except OSError as error:
                self._failed(error.strerror or str(error))
            except Exception as error:
                # Whatever it was, the next picture may be kept.
                logger.exception("unexpected error of the folder of pictures")
                self._failed(reason(error))
            finally:
                with self._lock:
                    self._held -= len(data)

    def _failed(self, reason: str) -> None:
        self._metrics.pictures_not_kept.inc()
        logger.warning("picture not kept", reason=reason)
