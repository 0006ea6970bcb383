"""Rows that earlier work has scored: of a finished catalogue, and of one that was interrupted."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from onesheet.errors import (
    DataError,
    ImageNotFoundError,
    NotAFileError,
    UnreadableFileError,
    UrlFetchError,
    UrlNotAllowedError,
    reason,
)
from onesheet.scoring.listing import Known

if TYPE_CHECKING:
    from numpy.typing import NDArray

# What stood in the way of the poster, and may be gone by now; the others are wrong with the poster itself.
_PASSING: Final = frozenset(
    error.code for error in (ImageNotFoundError, NotAFileError, UnreadableFileError, UrlFetchError, UrlNotAllowedError)
)


class _Group(NamedTuple):
    path: Path
    group: int
    rows: int


class Earlier:
    """Rows in Parquet files, numbered through all of them.

    Args:
        files: Catalogues and parts of catalogues, in any number; none is none.

    Raises:
        DataError: One cannot be read.
    """

    def __init__(self, files: Sequence[Path]) -> None:
        self._groups = [group for path in files for group in _groups(path)]
        ends = np.cumsum([group.rows for group in self._groups], dtype=np.int64)
        self._starts: NDArray[np.int64] = np.concatenate([np.zeros(1, np.int64), ends])
        self.rows = int(self._starts[-1])
        self._latest: tuple[int, pa.Table] | None = None

    @property
    def has_answer(self) -> bool:
        """Whether any row has an answer, and not an error."""
        return any(self._read(group, ["error"])["error"].null_count for group in self._groups)

    def known(self) -> Iterator[Known]:
        """All rows; one that can be taken over, as what is wrong with it will stay so, has its number."""
        number = 0
        for group in self._groups:
            table = self._read(group, ["poster", "etag", "error"])
            etags = table["etag"].to_pylist() if "etag" in table.column_names else [None] * table.num_rows
            for name, etag, error in zip(table["poster"].to_pylist(), etags, table["error"].to_pylist(), strict=True):
                yield Known(name, etag, None if error in _PASSING else number)
                number += 1

    def take(self, numbers: Sequence[int], schema: pa.Schema) -> pa.Table:
        """Some rows, in the order of these numbers.

        Args:
            numbers: Of the rows.
            schema: Columns to read; those that a file does not have are null.
        """
        wanted = np.array(numbers, np.int64)
        places = np.searchsorted(self._starts, wanted, side="right") - 1
        order = np.argsort(places, kind="stable")
        tables = [schema.empty_table()]
        for place in np.unique(places).tolist():
            table = self._whole(place, schema)
            tables.append(table.take(pa.array(wanted[places == place] - self._starts[place])))
        return pa.concat_tables(tables).take(pa.array(np.argsort(order, kind="stable")))

    def _whole(self, place: int, schema: pa.Schema) -> pa.Table:
        """A row group; the last one is kept, as the next rows are mostly from there."""
        if self._latest is None or self._latest[0] != place:
            table = self._read(self._groups[place], schema.names)
            columns = [
                table[field.name] if field.name in table.column_names else pa.nulls(table.num_rows, field.type)
                for field in schema
            ]
            self._latest = place, pa.table(columns, schema)
        return self._latest[1]

    @staticmethod
    def _read(group: _Group, columns: Sequence[str]) -> pa.Table:
        with (
            _explained(group.path),
            pq.ParquetFile(group.path, pre_buffer=False, page_checksum_verification=True) as file,
        ):
            known = [name for name in columns if name in file.schema_arrow.names]
            return file.read_row_group(group.group, columns=known, use_threads=False)


def _groups(path: Path) -> list[_Group]:
    with _explained(path), pq.ParquetFile(path) as file:
        metadata: Any = file.metadata
        return [_Group(path, group, metadata.row_group(group).num_rows) for group in range(metadata.num_row_groups)]


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, pa.ArrowException) as error:
        raise DataError(f"{path} cannot be read: {reason(error)}; remove it to score again") from error
