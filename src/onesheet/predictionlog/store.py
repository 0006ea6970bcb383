"""The log in a database: appended to in groups, read in batches."""

from __future__ import annotations

import threading
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from itertools import islice
from pathlib import Path
from typing import Any, Final
from uuid import UUID

import numpy as np
from sqlalchemy import (
    Connection,
    Engine,
    Executable,
    Row,
    Select,
    create_engine,
    delete,
    event,
    exists,
    func,
    select,
)
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import SQLAlchemyError

from onesheet.errors import LogUnavailableError, UnknownPredictionError
from onesheet.image_statistics import STATISTICS
from onesheet.predictionlog.pictures import PictureFolder
from onesheet.predictionlog.records import Feedback, LoggedPrediction
from onesheet.predictionlog.schema import FEEDBACK, MODELS, PREDICTIONS
from onesheet.predictionlog.url import parse_log_url

# A store that does not answer within this time is down: a client waits for the answer.
_CONNECT_SECONDS: Final = 2
_STATEMENT_SECONDS: Final = 5
_BATCH: Final = 1000
# libpq's; the system's own defaults wait for a quarter of an hour, and when idle for two.
_NOTICING_A_DEAD_NETWORK: Final = {
    "tcp_user_timeout": _STATEMENT_SECONDS * 1000,
    "keepalives_idle": _STATEMENT_SECONDS,
    "keepalives_interval": 1,
    "keepalives_count": 3,
}

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
        self._engine = _create_engine(url)
        database = self._engine.url.database or ""
        if must_exist and self._engine.dialect.name == "sqlite" and not Path(database).is_file():
            raise LogUnavailableError(f"there is no prediction log at {database}")
        insert: Any = _INSERTS[self._engine.dialect.name]
        self._insert_prediction = insert(PREDICTIONS).on_conflict_do_nothing()
        self._insert_model = insert(MODELS).on_conflict_do_nothing()
        self._model_ids: dict[tuple[str, str], int] = {}
        self._lock = threading.Lock()

    def migrate(self) -> None:
        """Create the tables or bring them up to date; several processes may do so at once.

        Raises:
            LogUnavailableError: The database cannot be reached or refuses.
        """
        from onesheet.predictionlog.migrate import upgrade

        with _available():
            upgrade(self._engine)

    def append(self, predictions: Sequence[LoggedPrediction]) -> None:
        """Write a group of answers in one transaction; what is already there stays as it is.

        That makes it safe to repeat: a connection that breaks at the commit does not tell whether it took place.

        Raises:
            LogUnavailableError: Nothing of the group can be relied on to be there.
        """
        with _available(), self._engine.begin() as connection:
            ids = {self._model_key(prediction): self._model_id(connection, prediction) for prediction in predictions}
            rows = [_to_row(prediction, ids[self._model_key(prediction)]) for prediction in predictions]
            connection.execute(self._insert_prediction, rows)
        with self._lock:
            self._model_ids |= ids

    def add_feedback(self, feedback: Feedback) -> None:
        """Keep what somebody says of an answer.

        Raises:
            UnknownPredictionError: There is no such answer.
            LogUnavailableError: It could not be kept.
        """
        with _available(), self._engine.begin() as connection:
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

    def count(self) -> int:
        """How many answers are kept.

        Raises:
            LogUnavailableError: The database cannot be read.
        """
        with _available(), self._engine.connect() as connection:
            return int(connection.scalar(select(func.count()).select_from(PREDICTIONS)) or 0)

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
        with _available(), self._engine.connect() as connection:
            for row in connection.execution_options(yield_per=_BATCH).execute(query.order_by(PREDICTIONS.c.time)):
                yield _to_prediction(row._mapping)

    def feedback(self, prediction_id: UUID | None = None) -> Iterator[Feedback]:
        """What people have said, oldest first; of one answer or of all.

        Raises:
            LogUnavailableError: The database cannot be read.
        """
        query = select(FEEDBACK).order_by(FEEDBACK.c.id)
        if prediction_id:
            query = query.where(FEEDBACK.c.prediction_id == prediction_id)
        with _available(), self._engine.connect() as connection:
            for row in connection.execution_options(yield_per=_BATCH).execute(query):
                yield Feedback(row.prediction_id, row.time, tuple(row.genres))

    def latest_feedback(self, ids: Sequence[UUID]) -> dict[UUID, tuple[str, ...]]:
        """The true genres of some answers, as they were said last; answers that nobody spoke of are missing.

        Raises:
            LogUnavailableError: The database cannot be read.
        """
        query = select(FEEDBACK).where(FEEDBACK.c.prediction_id.in_(ids)).order_by(FEEDBACK.c.id)
        with _available(), self._engine.connect() as connection:
            return {row.prediction_id: tuple(row.genres) for row in connection.execute(query)}

    def rows(self, query: Select[Any]) -> Iterator[Row[Any]]:
        """What a query over the tables of `schema` finds, in bounded memory.

        Raises:
            LogUnavailableError: The database cannot be read.
        """
        with _available(), self._engine.connect() as connection:
            yield from connection.execution_options(yield_per=_BATCH).execute(query)

    def write(self, *statements: Executable) -> None:
        """Change what the tables of `schema` hold, in one transaction.

        Raises:
            LogUnavailableError: Nothing was changed, or the database did not say.
        """
        with _available(), self._engine.begin() as connection:
            for statement in statements:
                connection.execute(statement)

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
        with _available(), self._engine.begin() as connection:
            connection.execute(delete(FEEDBACK).where(FEEDBACK.c.prediction_id.in_(ids)))
            return connection.execute(delete(PREDICTIONS).where(PREDICTIONS.c.id.in_(ids))).rowcount

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
        while ids := self._ids(old):
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
        self._engine.dispose()

    def _ids(self, query: Select[tuple[UUID]]) -> list[UUID]:
        with _available(), self._engine.connect() as connection:
            return [row.id for row in connection.execute(query)]

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
        key = self._model_key(prediction)
        if known := self._model_ids.get(key):
            return known
        name, version = key
        connection.execute(
            self._insert_model,
            {"name": name, "version": version, "genres": list(prediction.genres)},
        )
        return int(
            connection.execute(
                select(MODELS.c.id).where(MODELS.c.name == name, MODELS.c.version == version)
            ).scalar_one()
        )

    @staticmethod
    def _model_key(prediction: LoggedPrediction) -> tuple[str, str]:
        return prediction.model_name, prediction.model_version


@contextmanager
def _available() -> Iterator[None]:
    try:
        yield
    except SQLAlchemyError as error:
        # What the driver says may name hosts and users; it belongs into the server's log.
        raise LogUnavailableError("the prediction log cannot be reached") from error


@contextmanager
def _removable() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise LogUnavailableError(f"kept pictures cannot be removed: {error.strerror or error}") from error


def _create_engine(url: str) -> Engine:
    parsed = parse_log_url(url)
    if parsed.get_backend_name() == "postgresql":
        options = f"-c statement_timeout={_STATEMENT_SECONDS * 1000}"
        connect = {"connect_timeout": _CONNECT_SECONDS, "options": options, **_NOTICING_A_DEAD_NETWORK}
        return create_engine(parsed, pool_pre_ping=True, connect_args=connect)
    engine = create_engine(parsed, connect_args={"timeout": _STATEMENT_SECONDS})
    event.listen(engine, "connect", _prepare_sqlite)
    return engine


def _prepare_sqlite(connection: Any, _: Any) -> None:
    """Readers do not stop writers; a commit is on the disk before it returns."""
    for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON"):
        connection.execute(f"PRAGMA {pragma}")


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
