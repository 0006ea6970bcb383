"""A catalogue in the making: parts of equal length in a folder beside the file that they become.

A part appears under its name in one step and only after all before it, so that whatever ends the work, the rows that
are there are the first ones, and the work goes on with the next. Parts of a listing that is no longer true are set
aside: what they know is taken over as far as it still holds.
"""

from __future__ import annotations

import json
import os
import shutil
from collections import Counter
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from itertools import islice
from pathlib import Path
from typing import Any, Final, Self

import pyarrow as pa
import pyarrow.parquet as pq

from onesheet.errors import ConfigError, DataError, reason
from onesheet.locks import lock
from onesheet.parquet import read_table
from onesheet.scoring.earlier import Earlier
from onesheet.scoring.listing import Listing

PART_ROWS: Final = 512
"""Seconds of work on one machine; no more than that is done twice."""

_GROUP_ROWS: Final = 32 * PART_ROWS
"""Of one row group of the file: some 20 MB at a time in memory."""

_JOB: Final = "job.json"
_LOCK: Final = "lock"
_INCOMING: Final = "incoming"
_EARLIER: Final = "earlier"
_UPDATED: Final = "updates"


class Parts:
    """The parts of one catalogue.

    Attributes:
        folder: They lie there, and so may what belongs to the work.
        rows: How many are there.

    Args:
        out: The file that they become; the folder has its name with `.parts` behind it.
        schema: Of the rows.
    """

    def __init__(self, out: Path, schema: pa.Schema) -> None:
        self.folder = out.with_name(f"{out.name}.parts")
        self._out, self._schema, self._options = out, schema, _options(schema)
        self._count = self.rows = 0

    @contextmanager
    def held(self, job: dict[str, Any]) -> Iterator[Self]:
        """Hold the folder, make it if there is none, and find what is there already.

        Args:
            job: What is done, as JSON.

        Raises:
            ConfigError: Another process holds it, or it belongs to another job.
            DataError: It cannot be written.
        """
        with ExitStack() as stack:
            with self._writing():
                self.folder.mkdir(parents=True, exist_ok=True)
                file = stack.enter_context((self.folder / _LOCK).open("w"))
                try:
                    lock(file)
                except BlockingIOError as error:
                    raise ConfigError(f"another onesheet score is writing {self._out}") from error
                self._check_job({**job, _UPDATED: self._state()})
            self._count_parts()
            yield self

    @property
    def is_update(self) -> bool:
        """Whether the folder holds the beginning of an update of the file as it is now."""
        record = _json(self.folder / _JOB)
        return isinstance(record, dict) and record.get(_UPDATED) is not None and record[_UPDATED] == self._state()

    @property
    def earlier(self) -> list[Path]:
        """The parts that were set aside."""
        return sorted(self.folder.glob(f"{_EARLIER}-*.parquet"))

    def set_aside(self) -> None:
        """Begin anew, and keep the parts for what they know."""
        with self._writing():
            first = len(self.earlier)
            for number in range(self._count):
                self._path(number).replace(self.folder / f"{_EARLIER}-{first + number:08d}.parquet")
        self._count_parts()

    def extend(self, tables: Iterable[pa.Table]) -> Iterator[int]:
        """Write rows as they come; tells how many there are, with those that wait for their part to be full."""
        waiting: list[pa.Table] = []
        for table in tables:
            waiting.append(table)
            seen = sum(each.num_rows for each in waiting)
            if seen >= PART_ROWS:
                whole = pa.concat_tables(waiting)
                self._write(whole.slice(0, PART_ROWS))
                waiting, seen = [whole.slice(PART_ROWS)], seen - PART_ROWS
            yield self.rows + seen
        rest = pa.concat_tables([*waiting, self._schema.empty_table()])
        if rest.num_rows:
            self._write(rest)

    def merge(self, listing: Listing, earlier: Earlier) -> Counter[str]:
        """Make the file of all parts and of what is taken over, and remove them.

        Args:
            listing: The order of the rows.
            earlier: What is taken over.

        Returns:
            How many rows have which error; those that have none count under the empty name.

        Raises:
            DataError: A part is damaged, or the file cannot be written.
        """
        found: Counter[str] = Counter()
        incoming = self.folder / _INCOMING
        scored, order = self._scored(), listing.order()
        next(scored)
        with self._writing():
            with pq.ParquetWriter(incoming, self._schema, **self._options) as writer:
                while rows := list(islice(order, _GROUP_ROWS)):
                    kept = [known for known, _ in rows if known is not None]
                    table = scored.send(len(rows) - len(kept))
                    if kept:
                        table = _mixed(table, earlier.take(kept, self._schema), [known for known, _ in rows])
                    # What is taken over from a catalogue of an older version has none yet.
                    etags = pa.array([etag for _, etag in rows], pa.string())
                    table = table.set_column(self._schema.get_field_index("etag"), self._schema.field("etag"), etags)
                    found.update(error or "" for error in table["error"].to_pylist())
                    writer.write_table(table, row_group_size=table.num_rows)
            _keep(incoming, self._out)
        self.remove()
        return found

    def remove(self) -> None:
        """Once there is a file. Whoever made it may have been ended before this."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _state(self) -> dict[str, int] | None:
        """What tells the file from another one under its name; None where there is none."""
        try:
            state = self._out.stat()
        except FileNotFoundError:
            return None
        return {"bytes": state.st_size, "changed": state.st_mtime_ns}

    def _check_job(self, job: dict[str, Any]) -> None:
        record = self.folder / _JOB
        known = _json(record)
        if known == job:
            return
        was_for = known.get(_UPDATED) if isinstance(known, dict) else job[_UPDATED]
        if record.exists() and was_for == job[_UPDATED]:
            raise ConfigError(
                f"{self.folder} holds the beginning of other work: another bundle, source or option. "
                "Go on with those, or remove the folder"
            )
        if record.exists():
            # What lies here became the file, or was to update another one than is there now. Its record goes last.
            for path in self.folder.iterdir():
                if path.name not in (_LOCK, _JOB):
                    path.unlink()
        incoming = self.folder / _INCOMING
        incoming.write_text(json.dumps(job), encoding="utf-8")
        _keep(incoming, record)

    def _count_parts(self) -> None:
        """Those up to the first that is not there, or is damaged, or is the short one at the end."""
        self._count = self.rows = 0
        while (rows := _rows(self._path(self._count))) is not None:
            self._count += 1
            self.rows += rows
            if rows < PART_ROWS:
                break

    def _write(self, table: pa.Table) -> None:
        incoming = self.folder / _INCOMING
        with self._writing():
            pq.write_table(table, incoming, **self._options)
            _keep(incoming, self._path(self._count))
        self._count += 1
        self.rows += table.num_rows

    def _scored(self) -> Generator[pa.Table, int, None]:
        """Rows of the parts in their order, as many at a time as are sent for."""
        waiting, number = self._schema.empty_table(), 0
        count = yield waiting
        while True:
            while waiting.num_rows < count:
                waiting, number = pa.concat_tables([waiting, self._read(number)]), number + 1
            table, waiting = waiting.slice(0, count), waiting.slice(count)
            count = yield table

    def _read(self, number: int) -> pa.Table:
        path = self._path(number)
        try:
            return read_table(path)
        except (OSError, pa.ArrowException) as error:
            path.unlink(missing_ok=True)
            raise DataError(f"{path} was damaged and is removed: run it again to go on from there") from error

    @contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise DataError(f"{self._out} cannot be written: {reason(error)}; what is done is kept") from error

    def _path(self, number: int) -> Path:
        return self.folder / f"{number:08d}.parquet"


def _options(schema: pa.Schema) -> dict[str, Any]:
    """How Parquet is written.

    Dictionaries of floats save nothing and take long to read, and their bytes are packed better apart. Checksums tell
    damage from numbers.
    """
    leaves = [leaf for field in schema for leaf in _leaves(field.name, field.type)]
    floats = [name for name, kind in leaves if pa.types.is_floating(kind)]
    return {
        "compression": "zstd",
        "use_dictionary": [name for name, _ in leaves if name not in floats],
        "use_byte_stream_split": floats,
        "write_page_checksum": True,
    }


def _leaves(name: str, kind: pa.DataType) -> Iterator[tuple[str, pa.DataType]]:
    """The columns that Parquet makes of one."""
    if pa.types.is_struct(kind):
        for field in kind:
            yield from _leaves(f"{name}.{field.name}", field.type)
    elif pa.types.is_list(kind):
        yield from _leaves(f"{name}.list.element", kind.value_type)
    else:
        yield name, kind


def _mixed(scored: pa.Table, kept: pa.Table, order: Sequence[int | None]) -> pa.Table:
    """Rows of both, in turns: where there is no number, the next one that was scored."""
    ours, theirs = iter(range(len(order))), iter(range(scored.num_rows, len(order)))
    places = [next(ours if known is None else theirs) for known in order]
    return pa.concat_tables([scored, kept]).take(pa.array(places))


def _json(path: Path) -> Any:
    """None where it is none."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def _rows(part: Path) -> int | None:
    try:
        return int(pq.read_metadata(part).num_rows)
    except (OSError, pa.ArrowException):
        return None


def _keep(incoming: Path, path: Path) -> None:
    """Under its name only once all of it is on the disk."""
    with incoming.open("rb+") as file:
        os.fsync(file.fileno())
    incoming.replace(path)
