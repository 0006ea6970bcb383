"""The URL of the prediction log: checked before anything connects, so that one that can never work is told at once."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Final

from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError

from onesheet.errors import InvalidRequestError, MissingExtraError
from onesheet.setting_values import database_url

_DRIVERS: Final = {"sqlite": ("pysqlite",), "postgresql": ("psycopg", "psycopg2")}
_SSL_MODES: Final = ("disable", "allow", "prefer", "require", "verify-ca", "verify-full")


def parse_log_url(text: str) -> URL:
    """Parse an SQLAlchemy URL of a SQLite file or a PostgreSQL database; `postgres://` is PostgreSQL too.

    Messages never hold a part of the URL that may be a password.

    Raises:
        InvalidRequestError: It is none, or names another database, driver or option than there is.
        MissingExtraError: The driver of PostgreSQL is not installed.
    """
    try:
        url = make_url(database_url(text))
    except (ArgumentError, ValueError) as error:  # the second: a port that is no number
        raise InvalidRequestError("the address of the prediction log is no SQLAlchemy URL") from error
    backend, _, driver = url.drivername.partition("+")
    if backend not in _DRIVERS:
        raise InvalidRequestError(f"the prediction log is kept in SQLite or PostgreSQL, not in {backend}")
    if driver and driver not in _DRIVERS[backend]:
        raise InvalidRequestError(f"the prediction log cannot use the driver {driver}; say {backend}://…")
    return _check_sqlite(url) if backend == "sqlite" else _check_postgresql(url)


def _check_sqlite(url: URL) -> URL:
    if url.host:
        raise InvalidRequestError(
            f"the address of the prediction log names a host, {url.host}; a SQLite file has three slashes, "
            "sqlite:///onesheet.db, or four, sqlite:////var/lib/onesheet.db"
        )
    if url.database and Path(url.database).is_dir():
        raise InvalidRequestError(f"the prediction log {url.database} is a folder; name a file in it")
    return url


def _check_postgresql(url: URL) -> URL:
    if importlib.util.find_spec("psycopg") is None:
        raise MissingExtraError("PostgreSQL needs its driver: install onesheet[postgres]")
    import psycopg

    url = url.set(drivername="postgresql+psycopg")  # SQLAlchemy would take the older psycopg2
    mode = url.query.get("sslmode")
    if mode is not None and mode not in _SSL_MODES:
        raise InvalidRequestError(f"sslmode of the prediction log must be one of {', '.join(_SSL_MODES)}, not {mode}")
    try:
        psycopg.conninfo.make_conninfo(**dict.fromkeys(url.query, "0"))
    except psycopg.ProgrammingError as error:
        raise InvalidRequestError(f"the address of the prediction log has an unknown option: {error}") from error
    return url
