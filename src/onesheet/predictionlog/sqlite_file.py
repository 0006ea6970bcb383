"""SQLite's file, which may be removed, renamed, replaced or overwritten while it is in use.

SQLite does not notice: it goes on writing into a file that has no name any more, or applies a write-ahead log to a
database that it does not belong to (https://www.sqlite.org/howtocorrupt.html). So whoever has written asks here whether
it went into the file that is at the path.
"""

from __future__ import annotations

import os
import random
import shutil
import sqlite3
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Final, TypeAlias
from urllib.parse import quote

import structlog

from onesheet.errors import LogUnavailableError, reason
from onesheet.files import whole

if sys.platform != "win32":
    import fcntl

# An overwritten file is left alone until nobody has written to it for so long.
_QUIET_SECONDS: Final = 1.0
_BUSY_SECONDS: Final = 5.0
_HALF: Final = 2**31

_Identity: TypeAlias = tuple[int, int] | None

logger = structlog.get_logger(__name__)


class SqliteFile:
    """Tells whether the database at a path is the one that was opened.

    The file itself is compared by its device and inode, and so are `-wal` and `-shm` beside it. Its content is told
    by two numbers in its header: `application_id`, random for each database, and `user_version`, which grows with each
    change. They are read only when the file was written to, which a checkpoint does now and then.

    Args:
        path: Of the database; it need not exist. It may be a symbolic link: `-wal` and `-shm` are beside its target.
        close_others: Closes all other connections of this process to it.

    Attributes:
        openings: How often it was opened.
    """

    def __init__(self, path: Path, close_others: Callable[[], None]) -> None:
        self._named = path
        self._paths = _with_files_beside(path)
        self._close_others = close_others
        # While it is open, nobody else gets the inodes, and the write-ahead log can be brought home.
        self._connection: sqlite3.Connection | None = None
        self._identities: dict[Path, _Identity] = {}
        self._content = (0, 0)
        self._marks = (0, 0)
        self.openings = 0

    def is_current(self) -> bool:
        """Whether it is open, and what is at the path is what was opened and written.

        Raises:
            OSError: The folder cannot be read.
        """
        is_there = all(_identity(path) == identity for path, identity in self._identities.items())
        return self._connection is not None and is_there and not self._is_overwritten()

    def open(self) -> None:
        """Open the file that is at the path now; what was written to the former one since its checkpoint goes there.

        Returns at once where it `is_current`.

        Raises:
            LogUnavailableError: Somebody is writing to it.
            sqlite3.Error, OSError: It cannot be opened.
        """
        if self._connection is None:
            return self._open()
        with _alone_in(self._paths[0].parent):
            if self.is_current():
                return None
            self._leave(self._connection)
            return self._open()

    def mark(self) -> None:
        """Make the database known by its header, as far as it is not yet.

        Raises:
            sqlite3.Error: It cannot be written.
        """
        if self._connection is None:
            return
        with self._connection as connection:
            connection.execute("BEGIN IMMEDIATE")
            if not _pragma(connection, "application_id"):
                connection.execute(f"PRAGMA application_id={random.randint(1, _HALF - 1)}")  # noqa: S311  no secret
            connection.execute(f"PRAGMA user_version={following(_pragma(connection, 'user_version'))}")
        # Only what is in the file itself can be told from what others put there.
        connection.execute("PRAGMA wal_checkpoint(PASSIVE)")
        self._look()

    def close(self) -> None:
        """Close it; after all other connections, so that SQLite clears up."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _open(self) -> None:
        self._paths = _with_files_beside(self._named)
        path = self._paths[0]
        before = _identity(path)
        connection = sqlite3.connect(path, timeout=_BUSY_SECONDS, isolation_level=None, check_same_thread=False)
        try:
            (mode,) = connection.execute("PRAGMA journal_mode=WAL").fetchone()
            connection.execute("SELECT count(*) FROM sqlite_master").fetchone()  # makes the files beside it
            # Some file systems cannot have them.
            identities = {each: _identity(each) for each in (self._paths if mode == "wal" else (path,))}
            if None in identities.values() or before not in (None, identities[path]):
                raise LogUnavailableError("the file of the prediction log is being replaced")
            self._identities = {**identities, self._named: identities[path]}
            self._look()
        except BaseException:
            connection.close()
            raise
        self._connection = connection
        self.openings += 1

    def _look(self) -> None:
        """Remember what the file is like."""
        path = self._paths[0]
        self._content, self._marks = (0, 0), (0, 0)
        with suppress(sqlite3.DatabaseError):  # see `_is_overwritten`; then the next look tells
            content = _content(path.stat())
            self._marks = _read_marks(path)
            self._content = content

    def _is_overwritten(self) -> bool:
        found = self._paths[0].stat()
        content = _content(found)
        if content == self._content:
            return False
        try:
            identifier, version = _read_marks(self._paths[0])
        except sqlite3.DatabaseError as error:
            # A checkpoint of another process writes the new length before the new pages.
            is_unfinished = error.sqlite_errorcode == sqlite3.SQLITE_CORRUPT and not _is_quiet(found)
            return not is_unfinished
        if self._marks[0] not in (0, identifier) or _is_before(version, self._marks[1]):
            return True
        self._content, self._marks = content, (identifier, version)
        return False

    def _leave(self, connection: sqlite3.Connection) -> None:
        """Close what was opened, and see that its write-ahead log is applied to no other file."""
        path, *beside = self._paths
        if _identity(self._named) != self._identities[self._named]:
            why = "removed or replaced"
            with suppress(sqlite3.Error):  # it may be on a disk that is gone
                connection.execute("PRAGMA wal_checkpoint(FULL)")
        elif self._is_overwritten():
            why = "overwritten"
            if not _is_quiet(path.stat()):
                raise LogUnavailableError("the file of the prediction log is being overwritten")
            # Other processes, and SQLite at the end, would still write into the old inode.
            with whole(path) as copy:
                shutil.copy(path, copy)
        else:
            why = "parted from its write-ahead log"
            with whole(path) as copy:
                with closing(sqlite3.connect(copy)) as target:
                    connection.backup(target)
                shutil.copymode(path, copy)
        is_in_use_elsewhere = _identity(path) == self._identities[path]  # only a link to it was replaced
        for place in beside:
            if not is_in_use_elsewhere and _identity(place) == self._identities.get(place):
                place.unlink(missing_ok=True)
        self._close_others()
        self.close()
        logger.warning("prediction log opened again", reason=f"its file was {why} while it was in use")


def _with_files_beside(path: Path) -> tuple[Path, Path, Path]:
    """The file that a path leads to, and its `-wal` and `-shm`, which SQLite puts beside that file."""
    target = Path(os.path.realpath(path)) if path.is_symlink() else path
    return target, target.with_name(target.name + "-wal"), target.with_name(target.name + "-shm")


def following(version: int) -> int:
    """The `user_version` of the next change: 32 bits with a sign."""
    return version + 1 if version + 1 < _HALF else -_HALF


def _is_before(version: int, other: int) -> bool:
    """Also where the 32 bits have run over."""
    return (version - other) % (2 * _HALF) >= _HALF


def _pragma(connection: sqlite3.Connection, name: str) -> int:
    return int(connection.execute(f"PRAGMA {name}").fetchone()[0])


def _read_marks(path: Path) -> tuple[int, int]:
    """From the file alone, without its write-ahead log.

    By SQLite, for whoever opens and closes a file that it uses takes its locks away (POSIX).
    """
    with closing(sqlite3.connect(f"file:{quote(str(path.absolute()))}?immutable=1", uri=True)) as connection:
        return _pragma(connection, "application_id"), _pragma(connection, "user_version")


def _identity(path: Path) -> _Identity:
    try:
        found = os.stat(path)  # noqa: PTH116  several times for each answer, and `Path.stat` takes twice as long
    except (FileNotFoundError, NotADirectoryError):
        return None
    return found.st_dev, found.st_ino


def _content(found: os.stat_result) -> tuple[int, int]:
    return found.st_size, found.st_mtime_ns


def _is_quiet(found: os.stat_result) -> bool:
    return not 0 <= time.time() - found.st_mtime < _QUIET_SECONDS


@contextmanager
def _alone_in(folder: Path) -> Iterator[None]:
    """One process at a time, for as long as it takes to open a file again; nothing is left behind.

    Where the folder cannot be opened, there is nothing in it to get in each other's way with.
    """
    if sys.platform == "win32":  # which lets nobody take a file away that is in use
        yield
        return
    try:
        opened = os.open(folder, os.O_RDONLY)
    except OSError as error:
        logger.warning("folder of the prediction log not locked", reason=reason(error))
        yield
        return
    try:
        fcntl.flock(opened, fcntl.LOCK_EX)
        yield
    finally:
        os.close(opened)
