"""The rows of a catalogue in the making, on disk however many they are, and which of them earlier work has done."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Final, NamedTuple

from onesheet.errors import DataError
from onesheet.scoring.rows import Entry, Source, shown

# `raw` is the name where it is not UTF-8, else empty. An etag that is not known is empty, too.
_TABLES: Final = """
CREATE TABLE rows (number INTEGER PRIMARY KEY, name TEXT, raw BLOB, etag TEXT, known INTEGER);
CREATE TABLE known (name TEXT, etag TEXT, row INTEGER, times INTEGER, PRIMARY KEY (name, etag)) WITHOUT ROWID;
CREATE TABLE sorted (name TEXT, raw BLOB, etag TEXT, PRIMARY KEY (name, raw)) WITHOUT ROWID;
"""
_SORT: Final = "INSERT INTO rows (name, raw, etag) SELECT name, raw, etag FROM sorted ORDER BY name, raw"
_SAME: Final = "known.name = rows.name AND (known.etag = rows.etag OR known.etag = '' OR rows.etag = '')"
_KNOW: Final = """
INSERT INTO known VALUES (?, ?, ?, 1)
ON CONFLICT (name, etag) DO UPDATE SET times = times + 1, row = coalesce(excluded.row, row)
"""
_MATCH: Final = f"UPDATE rows SET known = (SELECT row FROM known WHERE {_SAME} AND row IS NOT NULL LIMIT 1)"  # noqa: S608
_NEW_AND_GONE: Final = """
SELECT coalesce(sum(max(more, 0)), 0), coalesce(sum(max(-more, 0)), 0) FROM (
    SELECT sum(times) AS more FROM (
        SELECT name, 1 AS times FROM rows UNION ALL SELECT name, -times FROM known
    ) GROUP BY name
)
"""
_CHANGED: Final = f"""
SELECT count(*) FROM rows
WHERE EXISTS (SELECT 1 FROM known WHERE known.name = rows.name)
AND NOT EXISTS (SELECT 1 FROM known WHERE {_SAME})
"""  # noqa: S608


@dataclass(frozen=True, slots=True)
class Changes:
    """How the posters of a source differ from those of earlier work.

    Attributes:
        new: Posters that it did not have.
        gone: Posters that are no longer there.
        changed: Posters whose etag is another.
    """

    new: int = 0
    gone: int = 0
    changed: int = 0

    def __bool__(self) -> bool:
        return any((self.new, self.gone, self.changed))

    def __str__(self) -> str:
        return f"{self.new:,} new, {self.gone:,} gone, {self.changed:,} changed"

    def to_dict(self) -> dict[str, int]:
        """The JSON contract."""
        return asdict(self)


class Known(NamedTuple):
    """A row of earlier work.

    Attributes:
        name: As the catalogue shows it.
        etag: Of the poster when it was scored; None where it is not known.
        row: Its number there; None if it cannot be taken over.
    """

    name: str
    etag: str | None
    row: int | None


class Listing:
    """What a source listed, in the order of the rows.

    Attributes:
        total: How many rows.
        kept: How many of them are taken over from earlier work.

    Args:
        path: What `write_listing` has made.

    Raises:
        DataError: It is damaged.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._connection = sqlite3.connect(path)
        try:
            with _explained(path):
                self.total = self._count("SELECT count(*) FROM rows")
                self.kept = self._count("SELECT count(known) FROM rows")
        except DataError:
            self._connection.close()
            raise

    def compare(self, earlier: Iterable[Known]) -> Changes:
        """Set it beside earlier work, and take over from there what has not changed since.

        Raises:
            DataError: It cannot be written.
        """
        with _explained(self._path), self._connection:
            self._connection.execute("DELETE FROM known")
            self._connection.executemany(_KNOW, ((name, etag or "", row) for name, etag, row in earlier))
            self._connection.execute(_MATCH)
            self.kept = self._count("SELECT count(known) FROM rows")
            new, gone = self._connection.execute(_NEW_AND_GONE).fetchone()
            return Changes(new, gone, self._count(_CHANGED))

    def is_same(self, other: Listing) -> bool:
        """Whether both list the same posters in the same order."""
        with _explained(self._path), _explained(other._path):
            return all(ours == theirs for ours, theirs in zip_longest(self.known(), other.known()))

    def to_score(self, start: int) -> Iterator[Entry]:
        """The entries that are not taken over, without the first `start` of them."""
        query = "SELECT name, raw, etag, number FROM rows WHERE known IS NULL ORDER BY number LIMIT -1 OFFSET ?"
        for name, raw, etag, number in self._connection.execute(query, (start,)):
            yield Entry(os.fsdecode(raw) if raw else name, etag or None, number - 1)

    def order(self) -> Iterator[tuple[int | None, str | None]]:
        """Of each row its number in the earlier work, None if it was to be scored, and its etag."""
        for known, etag in self._connection.execute("SELECT known, etag FROM rows ORDER BY number"):
            yield known, etag or None

    def known(self) -> Iterator[Known]:
        """All rows, for another listing to be compared with."""
        for name, etag in self._connection.execute("SELECT name, etag FROM rows ORDER BY number"):
            yield Known(name, etag or None, None)

    def close(self) -> None:
        """Close the file."""
        self._connection.close()

    def _count(self, query: str) -> int:
        return int(self._connection.execute(query).fetchone()[0])


def write_listing(path: Path, source: Source) -> None:
    """List what a source has now.

    Args:
        path: SQLite file to make; what is there is replaced.
        source: Of the posters.

    Raises:
        DataError: It cannot be written.
        OnesheetError: The source cannot be read.
    """
    path.unlink(missing_ok=True)
    with _explained(path), closing(sqlite3.connect(path)) as connection, connection:
        # It is thrown away unless it is finished.
        connection.execute("PRAGMA journal_mode=OFF")
        connection.executescript(_TABLES)
        if source.is_ordered:
            connection.executemany(
                "INSERT INTO rows (name, raw, etag) VALUES (?, ?, ?)", map(_to_row, source.entries())
            )
        else:
            connection.executemany("INSERT OR IGNORE INTO sorted VALUES (?, ?, ?)", map(_to_row, source.entries()))
            connection.execute(_SORT)
        connection.execute("DROP TABLE sorted")


def _to_row(entry: Entry) -> tuple[str, bytes, str]:
    name = shown(entry.name)
    return name, b"" if name == entry.name else os.fsencode(entry.name), entry.etag or ""


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    try:
        yield
    except sqlite3.Error as error:
        raise DataError(f"{path}: the list of names cannot be kept, or is damaged ({error})") from error
