"""`train.csv`: which poster has which genres."""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from onesheet.csv_table import CsvTable
from onesheet.data.posters import film_of
from onesheet.errors import DataError

LABELS_FILE = "train.csv"
IMAGES_FOLDER = "Images"
ID_COLUMN = "Id"
TEXT_COLUMN = "Genre"
NOT_A_GENRE = "N/A"

_ID_COLUMNS: Final = (ID_COLUMN, "imdb_id", "film", "film_id", "poster", "path", "file", "filename", "image")
# Of pandas, which writes its index first, and reads a column without a name as `Unnamed: 0`.
_NO_NAME: Final = re.compile(r"|Unnamed: \d+")
_NO_ID: Final = re.compile(r"[/\\\0]")
# With the decimal comma too, which files with semicolons have.
_FLAG: Final = re.compile(r"0(?:[.,]0*)?|false|(?P<yes>1(?:[.,]0*)?|true)", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Labels:
    """The labels of a set of posters.

    Attributes:
        genres: Every genre that the file knows, in its order, without `N/A`.
        by_id: Film id to its genres, in the order of `genres`; empty where the file says only `N/A`.
        rows: Number of rows read, repeated ones included.
        conflicts: Ids that stand in rows of different genres; their genres are united.
    """

    genres: tuple[str, ...]
    by_id: dict[str, tuple[str, ...]]
    rows: int
    conflicts: frozenset[str]

    @property
    def duplicates(self) -> int:
        """Rows beyond the first of their film."""
        return self.rows - len(self.by_id)


def read_labels(path: Path) -> Labels:
    """Read a label file: an id, optionally `Genre` (the same as text, not read), then one 0/1 column for each genre.

    An id may be written as the file name of its poster. Encoding, delimiter and header may be those of any program, as
    `CsvTable` says; 0 and 1 may be written as floats or as False and True. Columns without a name, such as the index
    that pandas writes, are not read.

    Raises:
        DataError: The file is missing, not CSV, lacks columns, or has a row that makes no sense.
    """
    if not path.exists():
        raise DataError(f"no label file at {path}")
    table = CsvTable(path, _ID_COLUMNS)
    genres = _genre_columns(table)
    rows = [_read_row(table, line, row, genres) for line, row in table.records() if any(map(str.strip, row))]
    if not rows:
        raise DataError(f"{path.name} has no rows")
    return _unite(rows, tuple(genre for genre in genres if genre != NOT_A_GENRE))


def _genre_columns(table: CsvTable) -> dict[str, int]:
    """Where the flags of each genre are."""
    genres: dict[str, int] = {}
    for index, name in enumerate(table.columns):
        if index == table.index or name.casefold() == TEXT_COLUMN.casefold() or _NO_NAME.fullmatch(name):
            continue
        if name in genres:
            raise DataError(f"{table.path.name} has the column `{name}` twice (read as {table})")
        genres[name] = index
    if not genres.keys() - {NOT_A_GENRE}:
        raise DataError(
            f"{table.path.name} has no genre columns beside `{ID_COLUMN}` and `{TEXT_COLUMN}` (read as {table})"
        )
    return genres


def _read_row(table: CsvTable, line: int, row: list[str], genres: dict[str, int]) -> tuple[str, frozenset[str]]:
    if len(row) < len(table.columns) or any(map(str.strip, row[len(table.columns) :])):
        raise table.error(line, f"has {len(row)} fields where the header has {len(table.columns)}")
    film = unicodedata.normalize("NFC", row[table.index].strip())
    if not film or _NO_ID.search(film) or film in (".", ".."):
        raise table.field_error(line, table.index, film, "needs an id, the name of a poster without folders")
    told = frozenset(genre for genre, index in genres.items() if _read_flag(table, line, row[index], index))
    return film_of(film), told


def _read_flag(table: CsvTable, line: int, value: str, index: int) -> bool:
    flag = _FLAG.fullmatch(value.strip())
    if not flag:
        raise table.field_error(line, index, value, "needs 0 or 1 (columns that are no genres have to be left out)")
    return flag["yes"] is not None


def _unite(rows: list[tuple[str, frozenset[str]]], genres: tuple[str, ...]) -> Labels:
    united: dict[str, frozenset[str]] = {}
    conflicts: set[str] = set()
    for film, labels in rows:
        if united.setdefault(film, labels) != labels:
            conflicts.add(film)
            united[film] |= labels
    by_id = {film: tuple(genre for genre in genres if genre in labels) for film, labels in united.items()}
    return Labels(genres, by_id, len(rows), frozenset(conflicts))
