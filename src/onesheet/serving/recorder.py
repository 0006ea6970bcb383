"""Answers on their way into the prediction log: durable in time, or counted and told."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Final, TypeVar

import structlog

from onesheet.errors import LogUnavailableError, reason
from onesheet.predictionlog import Feedback, GroupWriter, LoggedPrediction, PredictionLog, open_pictures
from onesheet.serving.background import going_on
from onesheet.serving.keeper import PictureKeeper

if TYPE_CHECKING:
    from structlog.typing import FilteringBoundLogger

    from onesheet.monitoring.metrics import Metrics
    from onesheet.settings import Settings

_RETENTION_SECONDS: Final = 3600

_Result = TypeVar("_Result")

logger: FilteringBoundLogger = structlog.get_logger(__name__)


class Recorder:
    """The prediction log (`log`) as a running service sees it: it may be away, at the start and later.

    Args:
        settings: Where the log is, how long it may take, what happens without it, how long answers are kept, and
            whether their pictures are.
        metrics: Told of answers that could not be written, and of pictures.
    """

    def __init__(self, settings: Settings, metrics: Metrics) -> None:
        self._settings = settings
        self._metrics = metrics
        pictures = open_pictures(settings.keep_pictures)
        self._pictures = PictureKeeper(pictures, metrics) if pictures else None
        self.log = PredictionLog(settings.log_url, pictures=pictures)
        self._prepared = False
        self._writer = GroupWriter(self._append)

    def prepare(self) -> None:
        """See to the tables, once.

        Raises:
            LogUnavailableError: The database is not there; the next answer tries again.
        """
        if not self._prepared:
            self.log.migrate()
            self._prepared = True

    async def keep(self, record: LoggedPrediction, picture: bytes) -> bool:
        """Have an answer in the log, in the time that the settings allow; then its picture, where they say so, later.

        Args:
            record: What the log keeps.
            picture: As it was encoded.

        Returns:
            Whether it is there; False where the log is down and the settings say to answer all the same.

        Raises:
            LogUnavailableError: The log is down, and the settings say to refuse.
        """
        try:
            async with asyncio.timeout(self._settings.log_seconds):
                await asyncio.wrap_future(self._writer.submit(record))
        except (LogUnavailableError, TimeoutError) as error:
            self._metrics.log_failures.inc()
            why = "it does not answer" if isinstance(error, TimeoutError) else reason(error.__cause__ or error)
            logger.warning("not in the prediction log", reason=why)
            if self._settings.log_failure == "refuse":
                raise error if isinstance(error, LogUnavailableError) else LogUnavailableError() from error
            return False
        if self._pictures is not None:
            self._pictures.offer(record.content_sha256, picture)
        return True

    def keep_later(self, record: LoggedPrediction) -> Future[None]:
        """Have a record written that nobody waits for; the future raises LogUnavailableError where it could not be."""
        return self._writer.submit(record)

    async def keep_feedback(self, feedback: Feedback) -> None:
        """Keep what somebody says of an answer.

        Raises:
            UnknownPredictionError: There is no such answer.
            LogUnavailableError: The log is down.
        """
        await asyncio.to_thread(self.log.add_feedback, feedback)

    async def forget_old_answers(self) -> None:
        """Remove answers, and their pictures, when they reach the age that the settings name; until cancelled."""
        days = self._settings.log_retention_days
        while days is not None:
            with going_on("retention"):
                await self._forget_older_than(datetime.now(UTC) - timedelta(days=days))
            await asyncio.sleep(_RETENTION_SECONDS)

    def close(self) -> None:
        """Write what is waiting, then leave the database."""
        self._writer.close()
        if self._pictures is not None:
            self._pictures.close()
        self.log.close()

    async def _forget_older_than(self, moment: datetime) -> None:
        removed = 0
        try:
            await _to_its_end(self.prepare)
            steps = self.log.deleting_before(moment)
            while (some := await _to_its_end(next, steps, None)) is not None:
                removed += some
            logger.info("old answers removed from the prediction log", removed=removed)
        except LogUnavailableError as error:
            logger.warning("old answers not removed from the prediction log", reason=reason(error.__cause__ or error))

    def _append(self, predictions: Sequence[LoggedPrediction]) -> None:
        self.prepare()
        self.log.append(predictions)


async def _to_its_end(function: Callable[..., _Result], *arguments: object) -> _Result:
    """Call in a thread; a cancellation waits for it, because nothing stops a thread."""
    call = asyncio.ensure_future(asyncio.to_thread(function, *arguments))
    try:
        return await asyncio.shield(call)
    except asyncio.CancelledError:
        await asyncio.wait([call])
        raise
