"""What was found each time when answers were compared with a reference."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final
from uuid import UUID

from sqlalchemy import select, update

from onesheet.predictionlog.schema import DRIFT_RUNS
from onesheet.predictionlog.store import PredictionLog

# A report is about a megabyte; what it shows in pictures is in the result as numbers.
_REPORTS_KEPT: Final = 30
# Everything but the report.
_LIGHT: Final = tuple(column for column in DRIFT_RUNS.c if column.name != "report")


@dataclass(frozen=True, slots=True)
class DriftRun:
    """One comparison.

    Attributes:
        id: Its own.
        time: When it was made, UTC.
        model_name: Of the bundle whose reference it was.
        model_version: Of the same.
        verdict: `ok`, `warning`, `drift` or `not enough data`.
        result: All that was found, as JSON.
        has_report: Whether its report is still kept.
    """

    id: UUID
    time: datetime
    model_name: str
    model_version: str
    verdict: str
    result: dict[str, Any]
    has_report: bool


class DriftRuns:
    """The runs in a prediction log's database.

    Args:
        log: Whose database; its tables must be there (`PredictionLog.migrate`).
    """

    def __init__(self, log: PredictionLog) -> None:
        self._log = log

    def add(self, run: DriftRun, report: bytes | None = None) -> None:
        """Keep a run and its report, and forget the report of a run that is long past.

        Args:
            run: `has_report` is not looked at.
            report: HTML.

        Raises:
            LogUnavailableError: It could not be kept.
        """
        row = {name: getattr(run, name) for name in ("id", "time", "model_name", "model_version", "verdict", "result")}
        kept = select(DRIFT_RUNS.c.id).order_by(DRIFT_RUNS.c.time.desc()).limit(_REPORTS_KEPT).subquery()
        self._log.write(
            DRIFT_RUNS.insert().values(**row, report=report and zlib.compress(report)),
            update(DRIFT_RUNS).where(DRIFT_RUNS.c.id.not_in(select(kept.c.id))).values(report=None),
        )

    def latest(self, limit: int = 1) -> list[DriftRun]:
        """The last runs, the newest first.

        Raises:
            LogUnavailableError: The database cannot be read.
        """
        has_report = DRIFT_RUNS.c.report.is_not(None).label("has_report")
        query = select(*_LIGHT, has_report).order_by(DRIFT_RUNS.c.time.desc()).limit(limit)
        return list(self._read(query))

    def report(self, run_id: UUID) -> bytes | None:
        """The HTML of a run; None where there is no such run, or its report is no longer kept.

        Raises:
            LogUnavailableError: The database cannot be read.
        """
        found = list(self._log.rows(select(DRIFT_RUNS.c.report).where(DRIFT_RUNS.c.id == run_id)))
        return zlib.decompress(found[0].report) if found and found[0].report else None

    def _read(self, query: Any) -> Iterator[DriftRun]:
        for row in self._log.rows(query):
            yield DriftRun(**row._mapping)
