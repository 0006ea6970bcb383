"""The log in a database: appended to in groups, read in batches."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from itertools import islice
from typing import Any, Final
from uuid import UUID

import numpy as np
from sqlalchemy import Connection, Executable, Row, Select, bindparam, delete, exists, func, select
from sqlalchemy.dialects import postgresql, sqlite

from onesheet.errors import LogUnavailableError, UnknownPredictionError
from onesheet.image_statistics import STATISTICS
from onesheet.predictionlog.database import Database
from onesheet.predictionlog.pictures import PictureFolder
from onesheet.predictionlog.records import Feedback, LoggedPrediction
from onesheet.predictionlog.schema import FEEDBACK, MODELS, PREDICTIONS

_BATCH: Final = 1000

_MODEL_ID: Final = select(MODELS.c.id).where(
    MODELS.c.name == bindparam("name"), MODELS.c.version == bindparam("version")
)
_INSERTS: Final = {"sqlite": sqlite.insert, "postgresql": postgresql.insert}


class PredictionLog:
    """Answers and feedback in SQLite or PostgreSQL; safe to share between threads and between processes.

    Args:
        url: An SQLAlchemy URL, such as `sqlite:///onesheet.db` or `postgresql://user:password@host/database`.
        must_exist: Make no new SQLite file.
        pictures: The kept ones; those that no other answer is about go when answers are removed.

    Raises:
        LogUnavailableError: There is no file, and there must be one.
        InvalidRequestError: The URL is none, or names another kind of database.
        MissingExtraError: PostgreSQL, and its driver is not installed.
    """

    def __init__(self, url: str, *, must_exist: bool = False, pictures: PictureFolder | None = None) -> None:
        self._pictures = pictures
        self._database = Database(url)
        if must_exist and (path := self._database.path) is not None and not path.is_file():
            raise LogUnavailableError(f"there is no prediction log at {path}")
        insert: Any = _INSERTS[self._database.dialect]
        self._insert_prediction = insert(PREDICTIONS).on_conflict_do_nothing()
        self._insert_model = insert(MODELS).on_conflict_do_nothing()

    def migrate(self) -> None:
        """Create the tables or bring them up to date, now and whenever the database is replaced; several processes may.

        Raises:
            LogUnavailableError: The database cannot be reached or refuses.
        """
        self._database.migrate()

    def append(self, predictions: Sequence[LoggedPrediction]) -> None:
        """Write a group of answers in one transaction; what is already there stays as it is.

        That makes it safe to repeat: a connection that breaks at the commit does not tell whether it took place.

        Raises:
            LogUnavailableError: Nothing of the group can be relied on to be there.
        """

        def insert(connection: Connection) -> None:
            # Asked anew for each group: in a database that was restored they may have other numbers.
            ids = {_model_key(prediction): self._model_id(connection, prediction) for prediction in predictions}
            rows = [_to_row(prediction, ids[_model_key(prediction)]) for prediction in predictions]
            connection.execute(self._insert_prediction, rows)

        self._database.write(insert)

    def add_feedback(self, feedback: Feedback) -> None:
        """Keep what somebody says of an answer.

        Raises:
            UnknownPredictionError: There is no such answer.
            LogUnavailableError: It could not be kept.
        """

        def insert(connection: Connection) -> None:
            known = connection.scalar(
                select(func.count()).select_from(PREDICTIONS).where(PREDICTIONS.c.id == feedback.prediction_id)
            )
            if not known:
                raise UnknownPredictionError(f"there is no prediction {feedback.prediction_id}")
            connection.execute(
                FEEDBACK.insert().values(
                    prediction_id=feedback.prediction_id, time=feedback.time, genres=list(feedback.genres)
                )
            )

        self._database.write(insert)

    def count(self) -> int:
        """How many answers are kept.

        Raises:
            LogUnavailableError: The database cannot be read.
        """
        ((answers,),) = self.rows(select(func.count()).select_from(PREDICTIONS))
        return int(answers)

    def predictions(
        self,
        *,
        since: datetime | None = None,
        until: datetime | None = None,
        model_version: str | None = None,
    ) -> Iterator[LoggedPrediction]:
        """Answers in the order of their times, in bounded memory.

        Args:
            since: The first moment.
            until: The moment after the last.
            model_version: Only this model's.

        Raises:
            LogUnavailableError: The database cannot be read.
        """
        query = select(PREDICTIONS, MODELS.c.name, MODELS.c.version, MODELS.c.genres).join(MODELS)
        if since:
            query = query.where(PREDICTIONS.c.time >= since)
        if until:
            query = query.where(PREDICTIONS.c.time < until)
        if model_version:
            query = query.where(MODELS.c.version == model_version)
        for row in self.rows(query.order_by(PREDICTIONS.c.time)):
            yield _to_prediction(row._mapping)

    def feedback(self, prediction_id: UUID | None = None) -> Iterator[Feedback]:
        """What people have said, oldest first; of one answer or of all.

        Raises:
            LogUnavailableError: The database cannot be read.
        """
        query = select(FEEDBACK).order_by(FEEDBACK.c.id)
        if prediction_id:
            query = query.where(FEEDBACK.c.prediction_id == prediction_id)
        for row in self.rows(query):
            yield Feedback(row.prediction_id, row.time, tuple(row.genres))

    def latest_feedback(self, ids: Sequence[UUID]) -> dict[UUID, tuple[str, ...]]:
        """The true genres of some answers, as they were said last; answers that nobody spoke of are missing.

        Raises:
            LogUnavailableError: The database cannot be read.
        """
        query = select(FEEDBACK).where(FEEDBACK.c.prediction_id.in_(ids)).order_by(FEEDBACK.c.id)
        return {row.prediction_id: tuple(row.genres) for row in self.rows(query)}

    def rows(self, query: Select[Any]) -> Iterator[Row[Any]]:
        """What a query over the tables of `schema` finds, in bounded memory.

        Raises:
            LogUnavailableError: The database cannot be read.
        """
        return self._database.rows(query)

    def write(self, *statements: Executable) -> None:
        """Change what the tables of `schema` hold, in one transaction.

        Raises:
            LogUnavailableError: Nothing was changed, or the database did not say.
        """

        def execute(connection: Connection) -> None:
            for statement in statements:
                connection.execute(statement)

        self._database.write(execute)

    def delete(self, ids: Sequence[UUID]) -> int:
        """Remove answers, what was said of them, and the kept pictures that no other answer is about.

        Pictures go first: if it is cut off, or a picture cannot be removed, its answers are there to try again.

        Returns:
            How many answers were removed.

        Raises:
            LogUnavailableError: The database refuses, or the folder of the pictures does.
        """
        if self._pictures is not None:
            with _removable():
                self._pictures.remove(self._contents_of_only(ids))

        def remove(connection: Connection) -> int:
            connection.execute(delete(FEEDBACK).where(FEEDBACK.c.prediction_id.in_(ids)))
            return connection.execute(delete(PREDICTIONS).where(PREDICTIONS.c.id.in_(ids))).rowcount

        return self._database.write(remove)

    def delete_before(self, moment: datetime) -> int:
        """Remove all answers older than a moment, and what belongs to them.

        Returns:
            How many answers were removed.

        Raises:
            LogUnavailableError: As `delete` does.
        """
        return sum(self.deleting_before(moment))

    def deleting_before(self, moment: datetime) -> Iterator[int]:
        """The same, a batch at each step: those who write meanwhile wait for one of them at most.

        The last steps look for pictures that have been kept since before the moment and that no answer is about: of
        answers that were removed while their pictures were out of reach, or still on their way.

        Yields:
            How many answers a step has removed.

        Raises:
            LogUnavailableError: As `delete` does.
        """
        old = select(PREDICTIONS.c.id).where(PREDICTIONS.c.time < moment).limit(_BATCH)
        while ids := [row.id for row in self.rows(old)]:
            yield self.delete(ids)
        if self._pictures is None:
            return
        with _removable():
            kept = self._pictures.contents(before=moment)
            while some := set(islice(kept, _BATCH)):
                self._pictures.remove(some - self._known(some))
                yield 0

    def close(self) -> None:
        """Close all connections."""
        self._database.close()

    def _contents_of_only(self, ids: Sequence[UUID]) -> set[str]:
        """The pictures that these answers are about, and no other."""
        others = PREDICTIONS.alias()
        is_shared = exists().where(others.c.content_sha256 == PREDICTIONS.c.content_sha256, others.c.id.not_in(ids))
        query = select(PREDICTIONS.c.content_sha256).where(PREDICTIONS.c.id.in_(ids), ~is_shared)
        return {row.content_sha256 for row in self.rows(query)}

    def _known(self, contents: Collection[str]) -> set[str]:
        """Those of some pictures that there are answers about."""
        content = PREDICTIONS.c.content_sha256
        return {row.content_sha256 for row in self.rows(select(content).where(content.in_(contents)).distinct())}

    def _model_id(self, connection: Connection, prediction: LoggedPrediction) -> int:
        named = dict(zip(("name", "version"), _model_key(prediction), strict=True))
        known = connection.scalar(_MODEL_ID, named)
        if known is None:
            connection.execute(self._insert_model, {**named, "genres": list(prediction.genres)})
            known = connection.scalars(_MODEL_ID, named).one()
        return int(known)


@contextmanager
def _removable() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise LogUnavailableError(f"kept pictures cannot be removed: {error.strerror or error}") from error


def _model_key(prediction: LoggedPrediction) -> tuple[str, str]:
    return prediction.model_name, prediction.model_version


def _to_row(prediction: LoggedPrediction, model_id: int) -> dict[str, Any]:
    return {
        "id": prediction.id,
        "time": prediction.time,
        "role": prediction.role,
        "model_id": model_id,
        "probabilities": prediction.probabilities.astype("<f4").tobytes(),
        "embedding": prediction.embedding.astype("<f2").tobytes(),
        "threshold": prediction.threshold,
        "predicted": list(prediction.predicted),
        **{name: prediction.statistics[name] for name in STATISTICS},
        "latency_ms": prediction.latency_ms,
        "file_name": prediction.file_name,
        "content_sha256": prediction.content_sha256,
        "request_id": prediction.request_id,
    }


def _to_prediction(row: Any) -> LoggedPrediction:
    return LoggedPrediction(
        id=row["id"],
        time=row["time"],
        role=row["role"],
        model_name=row["name"],
        model_version=row["version"],
        genres=tuple(row["genres"]),
        probabilities=np.frombuffer(row["probabilities"], "<f4"),
        embedding=np.frombuffer(row["embedding"], "<f2"),
        threshold=row["threshold"],
        predicted=tuple(row["predicted"]),
        statistics={name: row[name] for name in STATISTICS},
        latency_ms=row["latency_ms"],
        file_name=row["file_name"],
        content_sha256=row["content_sha256"],
        request_id=row["request_id"],
    )
