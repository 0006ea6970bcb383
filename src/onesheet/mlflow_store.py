"""MLflow's store, for runs and for the registry: a file by default, a database or a server by its address."""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import re
import sqlite3
from pathlib import Path
from typing import Final

SQLITE: Final = "sqlite:///"
_LOCK_SECONDS: Final = 60
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
    logging.getLogger("mlflow").setLevel(logging.WARNING)  # else it tells of every table that it makes
    if not uri.startswith(SQLITE) or "?" in uri:
        return uri
    path = Path(uri.removeprefix(SQLITE))
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with contextlib.closing(sqlite3.connect(path, timeout=_LOCK_SECONDS)) as store:
            store.execute("PRAGMA journal_mode=WAL")
    except sqlite3.Error as error:
        raise OSError(errno.EINVAL, f"cannot be used as a database ({error})", str(path)) from error
    return f"{uri}?timeout={_LOCK_SECONDS}"


def shown(text: str) -> str:
    """An address, or what is said of one, without passwords."""
    return re.sub(r"(://[^:/@\s]*):[^@/\s]*@", r"\1:***@", text)
