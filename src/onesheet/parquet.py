"""Parquet tables, read by the thread that wants them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq


def read_table(source: Path | bytes, columns: Sequence[str] | None = None) -> pa.Table:
    """A whole table.

    A process that ends while threads of pyarrow are about to is aborted, now and then, after all its work is done
    (apache/arrow#34314). So none are started; for tables of some megabytes they save nothing.

    Args:
        source: A file, or its bytes.
        columns: Those that are wanted, as far as it has them; default: all.

    Raises:
        pyarrow.ArrowException: It is no Parquet file, or damaged.
        OSError: It cannot be read.
    """
    place = pa.BufferReader(source) if isinstance(source, bytes) else source
    with pq.ParquetFile(place, pre_buffer=False, page_checksum_verification=True) as file:
        return file.read(columns, use_threads=False)
