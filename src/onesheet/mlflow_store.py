"""MLflow's store, for runs and for the registry: a file by default, a database or a server by its address."""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import re
import sqlite3
from typing import Final

from onesheet.locks import wait_for_lock
from onesheet.mlflow_artifacts import LOCK_SECONDS, database_file

# MLflow's own are 120 seconds and seven tries.
_REQUEST_SECONDS: Final = 30
_RETRIES: Final = 3


def open_mlflow_store(uri: str) -> str:
    """Make a store that is a file ready for several users at a time, and keep MLflow from calling home.

    Returns:
        The address to use: who writes at the same moment waits for the other, instead of failing.

    Raises:
        OSError: The file cannot be written, or is something else.
    """
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", str(_REQUEST_SECONDS))
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", str(_RETRIES))
    os.environ.setdefault("GIT_PYTHON_REFRESH", "quiet")
    path = database_file(uri)
    if path is None:
        return uri
    path.parent.mkdir(parents=True, exist_ok=True)
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException
    from sqlalchemy import URL
    from sqlalchemy.exc import SQLAlchemyError

    # Absolute: MLflow remembers what it has opened under an address, and its server runs in any folder. SQLAlchemy
    # decodes what looks percent-encoded, so a folder called `100%20` has to be encoded.
    address = URL.create("sqlite", database=str(path)).render_as_string()
    address = f"{address}?{uri.partition('?')[2] or f'timeout={LOCK_SECONDS}'}"

    # Else it tells of every table that it makes; its import sets a level of its own.
    logging.getLogger("mlflow").setLevel(logging.WARNING)
    try:
        # MLflow makes its tables without asking whether another process is about to, and one of the two fails.
        with path.with_name(f".{path.name}.lock").open("w") as file:
            wait_for_lock(file, LOCK_SECONDS)
            with contextlib.closing(sqlite3.connect(path, timeout=LOCK_SECONDS)) as store:
                store.execute("PRAGMA journal_mode=WAL")
            MlflowClient(address)
    except (sqlite3.Error, SQLAlchemyError, MlflowException) as error:
        raise OSError(errno.EINVAL, f"cannot be used as a database ({error})", str(path)) from error
    return address


def shown(text: str) -> str:
    """An address, or what is said of one, without passwords."""
    return re.sub(r"(://[^:/@\s]*):[^@/\s]*@", r"\1:***@", text)
