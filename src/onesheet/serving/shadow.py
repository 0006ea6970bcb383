"""A second bundle that scores the same pictures, for the log only: what it would have said, before it says anything."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Final

import structlog

from onesheet.errors import OverloadedError
from onesheet.serving.engine import Answer, Engine

if TYPE_CHECKING:
    from structlog.typing import FilteringBoundLogger

    from onesheet.monitoring.metrics import Metrics
    from onesheet.predictionlog import LoggedPrediction
    from onesheet.predictor import Predictor

# Few, because each holds its picture in memory, and nobody waits for the result.
_MAX_WAITING: Final = 16
_PATIENCE_SECONDS: Final = 30.0

logger: FilteringBoundLogger = structlog.get_logger(__name__)


class Shadow:
    """Scores answered pictures again, on one thread, as long as it keeps up; those that it cannot take are skipped.

    Args:
        predictor: Of the second bundle.
        keep: Has a record written to the log; `GroupWriter.submit`.
        metrics: Told how many were scored, skipped, or failed.
    """

    def __init__(
        self, predictor: Predictor, keep: Callable[[LoggedPrediction], Future[None]], metrics: Metrics
    ) -> None:
        self._engine = Engine(predictor, threads=1, max_waiting=_MAX_WAITING, max_batch=1, patience=_PATIENCE_SECONDS)
        self._keep = keep
        self._metrics = metrics

    def offer(self, data: bytes, answered: LoggedPrediction) -> None:
        """Score a picture when there is time; its record gets the answer's own `prediction_id`.

        Args:
            data: The encoded picture.
            answered: What the log keeps of the answer that was given.
        """
        try:
            scored = self._engine.submit(data, answered.threshold)
        except OverloadedError:
            self._metrics.shadow.labels("skipped").inc()
        else:
            scored.add_done_callback(partial(self._write, answered))

    def close(self) -> None:
        """Score what is waiting, then stop."""
        self._engine.close()

    def _write(self, answered: LoggedPrediction, scored: Future[Answer]) -> None:
        try:
            answer = scored.result()
            record = _as_shadow(answered, answer)
            self._metrics.shadow.labels("scored").inc()
            self._keep(record).add_done_callback(self._told)
        except Exception as error:  # noqa: BLE001  whatever the second bundle does wrong, the first answers on
            logger.warning("the shadow bundle failed", reason=repr(error))
            self._metrics.shadow.labels("failed").inc()

    def _told(self, written: Future[None]) -> None:
        if written.exception() is not None:
            self._metrics.log_failures.inc()


def _as_shadow(answered: LoggedPrediction, answer: Answer) -> LoggedPrediction:
    prediction = answer.prediction
    return replace(
        answered,
        role="shadow",
        model_name=prediction.model_name,
        model_version=prediction.model_version,
        genres=answer.genres,
        probabilities=prediction.probabilities,
        embedding=prediction.embedding,
        predicted=tuple(score.label for score in prediction.predicted),
        latency_ms=(answer.timings.decode + answer.timings.model) * 1e3,
    )
