"""Connections to SQLite or PostgreSQL that outlive what becomes of the tables and files behind them."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, TypeVar

from sqlalchemy import Connection, Engine, Row, Select, create_engine, event
from sqlalchemy.exc import DBAPIError, ProgrammingError, SQLAlchemyError

from onesheet.errors import LogUnavailableError, reason
from onesheet.predictionlog.sqlite_file import SqliteFile, following
from onesheet.predictionlog.url import parse_log_url

# A store that does not answer within this time is down: a client waits for the answer.
_CONNECT_SECONDS: Final = 2
_STATEMENT_SECONDS: Final = 5
_CLOSING_SECONDS: Final = 5
_BATCH: Final = 1000
# How often something may be replaced under one statement.
_ATTEMPTS: Final = 3
# libpq's; the system's own defaults wait for a quarter of an hour, and when idle for two.
_NOTICING_A_DEAD_NETWORK: Final = {
    "tcp_user_timeout": _STATEMENT_SECONDS * 1000,
    "keepalives_idle": _STATEMENT_SECONDS,
    "keepalives_interval": 1,
    "keepalives_count": 3,
}

_Result = TypeVar("_Result")


class Database:
    """A database whose file or tables may be replaced while it is in use; safe to share between threads.

    What was written is in the database that the URL names at that moment, or an error is raised. Once `migrate` was
    called, missing tables are made again.

    Args:
        url: An SQLAlchemy URL.

    Raises:
        InvalidRequestError: The URL is none, or names another kind of database.
        MissingExtraError: PostgreSQL, and its driver is not installed.
    """

    def __init__(self, url: str) -> None:
        self._engine = _create_engine(url)
        path = self.path
        self._file = SqliteFile(path, self._engine.dispose) if path is not None else None
        self._lock = threading.Lock()
        self._migrates = False
        self._lacks_tables = False

    @property
    def dialect(self) -> str:
        """`sqlite` or `postgresql`."""
        return self._engine.dialect.name

    @property
    def path(self) -> Path | None:
        """The file of SQLite; None where there is none."""
        url = self._engine.url
        named = self.dialect == "sqlite" and url.database not in (None, "", ":memory:") and "uri" not in url.query
        return Path(str(url.database)) if named else None

    def migrate(self) -> None:
        """Create the tables or bring them up to date, now and whenever they are missing; several processes may.

        Raises:
            LogUnavailableError: The database cannot be reached or refuses.
        """
        self._migrates = self._lacks_tables = True
        with _available():
            self._make_ready()

    def write(self, work: Callable[[Connection], _Result]) -> _Result:
        """Do something in one transaction, once more where it went into a database that was just replaced.

        Args:
            work: It has to bear being repeated.

        Raises:
            LogUnavailableError: Nothing of it can be relied on to be there.
        """
        failure: Exception = LogUnavailableError("the prediction log is being replaced")
        with _available():
            for _ in range(_ATTEMPTS):
                opening = self._make_ready()
                try:
                    with self._engine.begin() as connection:
                        result = work(connection)
                        self._count_change(connection)
                except DBAPIError as error:
                    failure = self._expect_missing_tables(error)
                else:
                    if self._is_still_open(opening):
                        return result
            raise failure

    def rows(self, query: Select[Any]) -> Iterator[Row[Any]]:
        """What a query finds, in bounded memory.

        Raises:
            LogUnavailableError: The database cannot be read.
        """
        failure: Exception = LogUnavailableError("the prediction log is being replaced")
        with _available():
            for _ in range(_ATTEMPTS):
                self._make_ready()
                with self._engine.connect() as connection:
                    try:
                        found = connection.execution_options(yield_per=_BATCH).execute(query)
                    except DBAPIError as error:
                        failure = self._expect_missing_tables(error)
                        continue
                    yield from found
                    return
            raise failure

    def close(self) -> None:
        """Close all connections; one that another thread uses for longer than a few seconds stays open.

        SQLite ends the process where a connection is closed while another thread uses it.
        """
        self._engine.dispose()
        if self._file is not None and self._lock.acquire(timeout=_CLOSING_SECONDS):
            try:
                self._file.close()
            finally:
                self._lock.release()

    def _make_ready(self) -> int:
        """Open the file that is at the path, and see to the tables where that is this process' business.

        Returns:
            A number for `_is_still_open`.
        """
        with self._lock:
            if self._file is not None and not self._file.is_current():
                self._file.open()
                self._lacks_tables = self._migrates
            if self._lacks_tables:
                from onesheet.predictionlog.migrate import upgrade

                upgrade(self._engine)
                if self._file is not None:
                    self._file.mark()
                self._lacks_tables = False
            return self._file.openings if self._file is not None else 0

    def _is_still_open(self, opening: int) -> bool:
        """Whether nothing was replaced since, noticed by this thread or by another."""
        return self._file is None or (self._file.openings == opening and self._file.is_current())

    def _expect_missing_tables(self, error: DBAPIError) -> DBAPIError:
        """Have the tables made again where a statement failed because they, or their columns, are not there.

        Returns:
            The error, for when that does not help.
        """
        is_missing = isinstance(error, ProgrammingError) or (
            getattr(error.orig, "sqlite_errorcode", None) == sqlite3.SQLITE_ERROR
        )
        if not (self._migrates and is_missing):
            raise error
        self._lacks_tables = True
        return error

    def _count_change(self, connection: Connection) -> None:
        """See `SqliteFile`; past SQLAlchemy, which takes ten times as long for it."""
        driver: Any = connection.connection.driver_connection
        if self._file is not None:
            (version,) = driver.execute("PRAGMA user_version").fetchone()
            driver.execute(f"PRAGMA user_version={following(version)}")


@contextmanager
def _available() -> Iterator[None]:
    try:
        yield
    except (SQLAlchemyError, sqlite3.Error, OSError) as error:
        # What PostgreSQL's driver says may name hosts and users; it belongs into the server's log.
        cause = error.orig if isinstance(error, DBAPIError) else error
        told = f": {reason(cause)}" if isinstance(cause, sqlite3.Error | OSError) else ""
        raise LogUnavailableError(f"the prediction log cannot be reached{told}") from error


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
