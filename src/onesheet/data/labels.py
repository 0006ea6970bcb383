"""`train.csv`: which poster has which genres."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from onesheet.errors import DataError

LABELS_FILE = "train.csv"
IMAGES_FOLDER = "Images"
ID_COLUMN = "Id"
TEXT_COLUMN = "Genre"
NOT_A_GENRE = "N/A"


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
    """Read a label file: `Id`, optionally `Genre` (the same as text, not read), then one 0/1 column for each genre.

    Raises:
        DataError: The file is missing, not CSV, lacks columns, or has a row that makes no sense.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file, strict=True)
            columns = _genre_columns(path, reader.fieldnames or [])
            rows = [_read_row(path, reader.line_num, row, columns) for row in reader]
    except FileNotFoundError as error:
        raise DataError(f"no label file at {path}") from error
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path.name} is not a readable CSV file: {error}") from error
    if not rows:
        raise DataError(f"{path.name} has no rows")
    return _unite(rows, tuple(column for column in columns if column != NOT_A_GENRE))


def _genre_columns(path: Path, fieldnames: Sequence[str]) -> list[str]:
    if ID_COLUMN not in fieldnames:
        raise DataError(f"{path.name} has no column `{ID_COLUMN}`")
    columns = [name for name in fieldnames if name not in (ID_COLUMN, TEXT_COLUMN)]
    if not set(columns) - {NOT_A_GENRE}:
        raise DataError(f"{path.name} has no genre columns beside `{ID_COLUMN}` and `{TEXT_COLUMN}`")
    return columns


def _read_row(
    path: Path, line: int, row: dict[str | None, str | None], columns: list[str]
) -> tuple[str, frozenset[str]]:
    where = f"{path.name}, line {line}"
    film, flags = row[ID_COLUMN], [row[column] for column in columns]
    if None in row or not film or any(flag not in ("0", "1") for flag in flags):
        raise DataError(f"{where}: needs an id and a 0 or 1 in each of the {len(columns)} genre columns")
    if Path(film).name != film:
        raise DataError(f"{where}: {film!r} is no film id")
    genres = frozenset(column for column, flag in zip(columns, flags, strict=True) if flag == "1")
    return film, genres


def _unite(rows: list[tuple[str, frozenset[str]]], genres: tuple[str, ...]) -> Labels:
    united: dict[str, frozenset[str]] = {}
    conflicts: set[str] = set()
    for film, labels in rows:
        if united.setdefault(film, labels) != labels:
            conflicts.add(film)
            united[film] |= labels
    by_id = {film: tuple(genre for genre in genres if genre in labels) for film, labels in united.items()}
    return Labels(genres, by_id, len(rows), frozenset(conflicts))


def find_poster(folder: Path, film: str) -> Path:
    """Where the poster of a film lies, whether it is there or not."""
    return folder / f"{film}.jpg"
