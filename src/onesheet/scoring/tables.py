"""A table that names posters: CSV or Parquet, with a column `path` or `url`."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Final, Protocol, TextIO

import pyarrow as pa
import pyarrow.parquet as pq

from onesheet.errors import DataError, ImageNotFoundError, reason
from onesheet.image import ImageLimits, read_bytes
from onesheet.scoring.addresses import read_address
from onesheet.scoring.bucket import read_object
from onesheet.scoring.rows import Row, fail, file_identity, shown

_COLUMNS: Final = ("path", "url")
_BUCKET: Final = "gs://"
_ADDRESS: Final = "://"
_BATCH_ROWS: Final = 1024
_LINE_LETTERS: Final = 2**20


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
    left_out = 0

    def __init__(self, table: Path, limits: ImageLimits, seconds: float) -> None:
        self.identity = file_identity("table", table)
        self._folder, self._limits, self._seconds = table.resolve().parent, limits, seconds
        self._column: _Column = (_CsvColumn if table.suffix.lower() == ".csv" else _ParquetColumn)(table.resolve())

    @property
    def is_remote(self) -> bool:
        """See `Source`; the first poster speaks for all."""
        return _ADDRESS in next(self._column.values(0), "")

    @property
    def total(self) -> int:
        """See `Source`."""
        return self._column.total

    def open(self, work: Path, stack: ExitStack) -> None:
        """See `Source`; the table itself is the list."""

    def rows(self, start: int) -> Iterator[Row]:
        """See `Source`."""
        for value in self._column.values(start):
            yield Row(shown(value), self._reader(value))

    def _reader(self, value: str) -> Callable[[], bytes]:
        if value.startswith(_BUCKET):
            return partial(read_object, value, self._limits.max_bytes)
        if _ADDRESS in value:
            return partial(read_address, value, self._limits.max_bytes, self._seconds)
        if not value:
            return partial(fail, ImageNotFoundError("the table names no poster here"))
        return partial(read_bytes, self._folder / value, self._limits)


def _chosen(names: list[str], table: Path) -> str:
    """Where there are both columns, what lies here is nearer than what would have to be fetched."""
    for name in _COLUMNS:
        if name in names:
            return name
    raise DataError(f"{table.name} has no column {' or '.join(_COLUMNS)}")


class _CsvColumn:
    """Of a CSV file in UTF-8, with a header.

    Raises:
        DataError: It is no such file.
    """

    def __init__(self, table: Path) -> None:
        self._table = table
        try:
            with self._open() as file:
                header = next(csv.reader(_lines(file)), [])
            self._index = header.index(_chosen(header, table))
            self.total = sum(1 for _ in self._records())
        except (UnicodeDecodeError, csv.Error) as error:
            raise DataError(f"{table.name} is no CSV in UTF-8: {reason(error)}") from error

    def values(self, start: int) -> Iterator[str]:
        """See `_Column`."""
        for record in islice(self._records(), start, None):
            yield record[self._index] if self._index < len(record) else ""

    def _records(self) -> Iterator[list[str]]:
        with self._open() as file:
            # To the reader an empty line is a record without fields.
            yield from islice(filter(None, csv.reader(_lines(file))), 1, None)

    def _open(self) -> TextIO:
        return self._table.open(encoding="utf-8-sig", newline="")


def _lines(file: TextIO) -> Iterator[str]:
    """Of a file that may be anything: no line has to fit into memory.

    Raises:
        csv.Error: There is one that is too long.
    """
    while line := file.readline(_LINE_LETTERS):
        if len(line) == _LINE_LETTERS:
            raise csv.Error(f"there is a line of {_LINE_LETTERS:,} letters or more")
        yield line


class _ParquetColumn:
    """Of a Parquet file.

    Raises:
        DataError: It is none, or the column holds no text.
    """

    def __init__(self, table: Path) -> None:
        self._table = table
        try:
            with pq.ParquetFile(table) as file:
                self._name = _chosen(file.schema_arrow.names, table)
                self.total: int = file.metadata.num_rows
                kind = file.schema_arrow.field(self._name).type
        except pa.ArrowException as error:
            raise DataError(f"{table.name} is no Parquet file that can be read") from error
        kind = kind.value_type if pa.types.is_dictionary(kind) else kind
        if not any(is_text(kind) for is_text in (pa.types.is_string, pa.types.is_large_string)):
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
