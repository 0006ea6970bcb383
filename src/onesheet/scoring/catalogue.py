"""A whole catalogue into one file: from the beginning, or from where it was broken off."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from onesheet.errors import ConfigError
from onesheet.scoring.identity import METADATA_KEY
from onesheet.scoring.parts import PART_ROWS, Parts
from onesheet.scoring.rows import Row, Source

Engine = Callable[[Iterable[Row]], Iterator[pa.Table]]
"""Answers rows with tables, in order; each of any length."""
OnRow = Callable[[int, int | None], None]


@dataclass(frozen=True, slots=True)
class Scored:
    """What has come of it.

    Attributes:
        rows: Of the file.
        before: Those that an earlier run had done.
        errors: Rows without an answer, by what is wrong.
        left_out: Files of the source that are no pictures by their names.
    """

    rows: int
    before: int
    errors: Mapping[str, int]
    left_out: int


def score_catalogue(
    source: Source,
    out: Path,
    schema: pa.Schema,
    engine: AbstractContextManager[Engine],
    options: Mapping[str, Any],
    on_row: OnRow,
) -> Scored | None:
    """Score everything that a source has, and go on where an earlier run of the same work was ended.

    Args:
        source: The posters.
        out: Parquet file.
        schema: Of its rows.
        engine: Does the work; entered only if there is some.
        options: What else decides what the rows say, as JSON; a run with others is other work.
        on_row: Called with (done, total) now and then.

    Returns:
        None if the file is there already and whole.

    Raises:
        ConfigError: The file is there and is something else, or somebody else is writing it.
        OnesheetError: The source cannot be read, or the file not written; what is done is kept.
    """
    job = {"source": source.identity, "part_rows": PART_ROWS, "made_with": _made_with(schema), **options}
    schema = schema.with_metadata({METADATA_KEY: json.dumps({**_made_with(schema), "job": _digest(job)}).encode()})
    beginning = Parts(out, schema)
    if out.exists():
        _check_finished(out, schema)
        beginning.remove()
        return None
    with beginning.held(job) as parts, ExitStack() as stack:
        source.open(parts.folder, stack)
        run = stack.enter_context(engine)
        before = parts.rows
        on_row(before, source.total)
        for rows in parts.extend(run(source.rows(before))):
            on_row(rows, source.total)
        found = parts.merge()
        return Scored(found.total(), before, {code: found[code] for code in sorted(found) if code}, source.left_out)


def _made_with(schema: pa.Schema) -> dict[str, Any]:
    return dict(json.loads(schema.metadata[METADATA_KEY]))


def _digest(job: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(job, sort_keys=True).encode()).hexdigest()


def _check_finished(out: Path, schema: pa.Schema) -> None:
    """The run that made it may have been ended before it could say so."""
    try:
        known = pq.read_schema(out).metadata or {}
    except (OSError, pa.ArrowException):
        known = {}
    if known.get(METADATA_KEY) != schema.metadata[METADATA_KEY]:
        raise ConfigError(f"{out} is there already, and is something else: remove it, or name another file")
