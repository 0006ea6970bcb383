"""A table that names posters: CSV or Parquet, with a column such as `path` or `url`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Final, Protocol

import pyarrow as pa
import pyarrow.parquet as pq

from onesheet.csv_table import CsvTable, find_column
from onesheet.errors import DataError, ImageNotFoundError, reason
from onesheet.image import ImageLimits
from onesheet.scoring.addresses import read_address
from onesheet.scoring.bucket import read_listed_object
from onesheet.scoring.paths import is_file_uri, path_etag, read_path
from onesheet.scoring.rows import Entry, Row, fail, file_identity, shown

# What lies here comes first: it is nearer than what would have to be fetched.
_COLUMNS: Final = (
    *("path", "url", "file", "filename", "filepath", "file_path", "image", "image_path", "poster", "poster_path"),
    *("image_url", "poster_url"),
)
_BUCKET: Final = "gs://"
_ADDRESS: Final = "://"
_BATCH_ROWS: Final = 1024


class _Column(Protocol):
    """The column of a table that names posters."""

    total: int

    def values(self, start: int) -> Iterator[str]:
        """From row `start` on; empty where the table has nothing."""
        ...


class TableSource:
    """The posters that a table names, in its order: files, https addresses, or objects of Cloud Storage.

    Args:
        table: `.csv` or `.parquet`; paths in it begin at its folder.
        limits: What is accepted as a poster.
        seconds: In which an address has to answer.

    Raises:
        DataError: It is no such table.
    """

    is_shareable = True
    is_ordered = True

    def __init__(self, table: Path, limits: ImageLimits, seconds: float) -> None:
        self.identity = file_identity("table", table)
        self._folder, self._limits, self._seconds = table.resolve().parent, limits, seconds
        self.skipped: Counter[str] = Counter()
        self._column: _Column = (_CsvColumn if table.suffix.lower() == ".csv" else _ParquetColumn)(table.resolve())

    @property
    def is_remote(self) -> bool:
        """See `Source`; the first poster speaks for all."""
        return _is_address(next(self._column.values(0), "").strip())

    def entries(self) -> Iterator[Entry]:
        """See `Source`; whether an address has changed, only reading it tells."""
        for value in self._column.values(0):
            is_file = value.strip() and not _is_address(value)
            yield Entry(value, path_etag(self._folder, value) if is_file else None)

    def rows(self, entries: Iterable[Entry]) -> Iterator[Row]:
        """See `Source`."""
        for entry in entries:
            yield Row(shown(entry.name), self._reader(entry.name), entry.etag)

    def _reader(self, value: str) -> Callable[[], bytes]:
        address = value.strip()
        if address.startswith(_BUCKET):
            return partial(read_listed_object, address, self._limits.max_bytes, self._seconds)
        if _is_address(address):
            return partial(read_address, address, self._limits.max_bytes, self._seconds)
        if not address:
            return partial(fail, ImageNotFoundError("the table names no poster here"))
        return partial(read_path, self._folder, value, self._limits)


def _is_address(value: str) -> bool:
    return _ADDRESS in value and not is_file_uri(value)


class _CsvColumn:
    """Of a CSV file.

    Raises:
        DataError: It is no CSV file, or has no such column.
    """

    def __init__(self, table: Path) -> None:
        self._csv = CsvTable(table, _COLUMNS)
        self.total = sum(1 for _ in self._csv.records())

    def values(self, start: int) -> Iterator[str]:
        """See `_Column`."""
        for _, fields in islice(self._csv.records(), start, None):
            yield fields[self._csv.index] if self._csv.index < len(fields) else ""


class _ParquetColumn:
    """Of a Parquet file.

    Raises:
        DataError: It is none, or the column holds no text.
    """

    def __init__(self, table: Path) -> None:
        self._table = table
        try:
            with pq.ParquetFile(table) as file:
                self._name = _named(file.schema_arrow.names, table)
                self.total: int = file.metadata.num_rows
                kind = file.schema_arrow.field(self._name).type
        except pa.ArrowException as error:
            raise DataError(f"{table.name} is no Parquet file that can be read") from error
        kind = kind.value_type if pa.types.is_dictionary(kind) else kind
        if not any(
            is_text(kind) for is_text in (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view)
        ):
            raise DataError(f"the column {self._name} of {table.name} holds {kind}, no text")

    def values(self, start: int) -> Iterator[str]:
        """See `_Column`."""
        try:
            with pq.ParquetFile(self._table) as file:
                group = 0
                while group < file.num_row_groups and start >= file.metadata.row_group(group).num_rows:
                    start -= file.metadata.row_group(group).num_rows
                    group += 1
                groups = range(group, file.num_row_groups)
                batches = file.iter_batches(_BATCH_ROWS, row_groups=groups, columns=[self._name], use_threads=False)
                names = (name or "" for batch in batches for name in batch.column(0).to_pylist())
                yield from islice(names, start, None)
        except pa.ArrowException as error:
            raise DataError(f"{self._table.name} is damaged: {reason(error)}") from error


def _named(columns: list[str], table: Path) -> str:
    """The column that names posters.

    Raises:
        DataError: There is none, or there are two.
    """
    try:
        index = find_column(columns, _COLUMNS)
    except ValueError as error:
        raise DataError(f"{table.name} has {error}") from error
    if index is None:
        raise DataError(f"{table.name} has no column `path` or `url`; its columns are {', '.join(columns) or 'none'}")
    return columns[index]
