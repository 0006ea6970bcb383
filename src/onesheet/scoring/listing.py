"""The names in a folder or bucket, as they were when the work began: sorted, and on disk however many they are."""

from __future__ import annotations

import os
import sqlite3
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Final

from onesheet.errors import DataError
from onesheet.scoring.rows import Row, looks_like_a_picture, shown

_FILE: Final = "listing.sqlite"
_INCOMING: Final = "listing.incoming"


class ListedSource(ABC):
    """A `Source` that tells the names of its files in any order, and often not twice the same."""

    is_shareable = True

    @property
    def total(self) -> int:
        """See `Source`."""
        return self._listing.total

    @property
    def left_out(self) -> int:
        """See `Source`."""
        return self._listing.left_out

    def open(self, work: Path, stack: ExitStack) -> None:
        """See `Source`."""
        self._listing = stack.enter_context(closing(Listing(work, self._names)))

    def rows(self, start: int) -> Iterator[Row]:
        """See `Source`."""
        for name in self._listing.names(start):
            yield Row(shown(name), self._reader(name))

    @abstractmethod
    def _names(self) -> Iterator[str]:
        """Of all files, pictures or not."""

    @abstractmethod
    def _reader(self, name: str) -> Callable[[], bytes]:
        """The `read` of the row of that name."""


class Listing:
    """Names of pictures, each once, in the order of their bytes.

    Args:
        work: Folder that holds the listing; it is made once, whole or not at all.
        list_names: Tells the names of all files, in any order; asked only if there is no listing yet.

    Raises:
        DataError: It cannot be kept there, or what is there is damaged.
    """

    def __init__(self, work: Path, list_names: Callable[[], Iterable[str]]) -> None:
        path = work / _FILE
        try:
            if not path.exists():
                incoming = work / _INCOMING
                incoming.unlink(missing_ok=True)
                _make(incoming, list_names())
                incoming.replace(path)
            self._connection = sqlite3.connect(path)
            self.total = self._number("SELECT count(*) FROM pictures")
            self.left_out = self._number("SELECT count FROM left_out")
        except sqlite3.Error as error:
            raise DataError(f"{path}: the list of names cannot be kept, or is damaged ({error})") from error

    def names(self, start: int) -> Iterator[str]:
        """From number `start` on."""
        query = "SELECT name FROM pictures ORDER BY name LIMIT -1 OFFSET ?"
        for (name,) in self._connection.execute(query, (start,)):
            yield os.fsdecode(name)

    def close(self) -> None:
        """Close the file."""
        self._connection.close()

    def _number(self, query: str) -> int:
        return int(self._connection.execute(query).fetchone()[0])


def _make(path: Path, names: Iterable[str]) -> None:
    left_out = 0

    def pictures() -> Iterator[tuple[bytes]]:
        nonlocal left_out
        for name in names:
            if looks_like_a_picture(name):
                yield (os.fsencode(name),)
            else:
                left_out += 1

    with closing(sqlite3.connect(path)) as connection, connection:
        # It is thrown away unless it is finished.
        connection.execute("PRAGMA journal_mode=OFF")
        connection.execute("CREATE TABLE pictures (name BLOB PRIMARY KEY) WITHOUT ROWID")
        connection.executemany("INSERT OR IGNORE INTO pictures VALUES (?)", pictures())
        connection.execute("CREATE TABLE left_out (count INTEGER)")
        connection.execute("INSERT INTO left_out VALUES (?)", (left_out,))
