"""A whole catalogue into one file: from the beginning, from where it was interrupted, or what has changed since."""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import pyarrow.parquet as pq

from onesheet.errors import ConfigError, DataError
from onesheet.scoring.earlier import Earlier
from onesheet.scoring.identity import METADATA_KEY
from onesheet.scoring.listing import Changes, Listing, write_listing
from onesheet.scoring.parts import PART_ROWS, Parts
from onesheet.scoring.rows import Row, Source, describe_skipped

Engine = Callable[[Iterable[Row]], Iterator[pa.Table]]
"""Answers rows with tables, in order; each of any length."""
OnRow = Callable[[int, int | None], None]

_LISTING: Final = "listing.sqlite"
_FRESH: Final = "listing.fresh"


@dataclass(frozen=True, slots=True)
class Result:
    """What has come of it.

    Attributes:
        rows: Of the file.
        before: Those that an earlier run had done.
        errors: Rows without an answer, by what is wrong; of a file that was left alone they are not counted.
        skipped: Files and folders of the source that have no row, by the reason.
        changes: Of the source, since it was listed for the earlier run.
        finished_before: The file was there already, and is left alone.
        update_interrupted: An update of that file was begun, and not finished.
        failure: What is wrong with the first poster, if every one of them failed.
    """

    rows: int
    before: int
    errors: Mapping[str, int]
    skipped: Mapping[str, int]
    changes: Changes
    finished_before: bool = False
    update_interrupted: bool = False
    failure: str | None = None


def score_catalogue(
    source: Source,
    out: Path,
    schema: pa.Schema,
    engine: AbstractContextManager[Engine],
    options: Mapping[str, Any],
    on_row: OnRow,
    *,
    update: bool = False,
) -> Result:
    """Score everything that a source has, and go on where an earlier run of the same work was ended.

    What has changed since the earlier run was listed is taken in; what has not is not scored again.

    Args:
        source: The posters.
        out: Parquet file.
        schema: Of its rows.
        engine: Does the work; entered only if there is some.
        options: What else decides what the rows say, as JSON; a run with others is other work.
        on_row: Called with (done, total) now and then.
        update: Bring a finished file up to date. One in which every poster failed is scored again in any case.

    Raises:
        ConfigError: The file is there and is something else, or another process is writing it.
        DataError: The source has no posters.
        OnesheetError: The source cannot be read, or the file not written; what is done is kept.
    """
    job = {"source": source.identity, "part_rows": PART_ROWS, "made_with": _made_with(schema), **options}
    schema = schema.with_metadata({METADATA_KEY: json.dumps({**_made_with(schema), "job": _digest(job)}).encode()})
    parts = Parts(out, schema)
    finished, has_answer = Earlier([]), False
    if out.exists():
        _check_finished(out, schema)
        finished = Earlier([out])
        has_answer = finished.has_answer
        if has_answer and not update:
            return _compare(source, finished, parts)
    with parts.held(job), ExitStack() as stack:
        earlier = [out] if has_answer else []
        listing, changes = _listed(source, parts, earlier, stack)
        if has_answer and not changes and listing.kept == listing.total == finished.rows:
            parts.remove()
            return Result(finished.rows, finished.rows, {}, source.skipped, changes, finished_before=True)
        before = listing.kept + parts.rows
        run = stack.enter_context(engine)
        on_row(before, listing.total)
        for rows in parts.extend(run(source.rows(listing.to_score(parts.rows)))):
            on_row(listing.kept + rows, listing.total)
        found = parts.merge(listing, Earlier([*earlier, *parts.earlier]))
        errors = {code: found[code] for code in sorted(found) if code}
        failure = None if found[""] else _first_failure(out)
        return Result(found.total(), before, errors, source.skipped, changes, failure=failure)


def _compare(source: Source, finished: Earlier, parts: Parts) -> Result:
    """What has changed since a catalogue was finished."""
    if not parts.is_update:
        parts.remove()  # the run that made the file was ended before it could
    with (
        tempfile.TemporaryDirectory(prefix="onesheet-") as scratch,
        closing(_list_now(source, Path(scratch, _FRESH))) as listing,
    ):
        changes = listing.compare(finished.known())
    rows = finished.rows
    return Result(rows, rows, {}, source.skipped, changes, finished_before=True, update_interrupted=parts.is_update)


def _listed(source: Source, parts: Parts, earlier: list[Path], stack: ExitStack) -> tuple[Listing, Changes]:
    """The rows as they are now, and how they differ from those of the run before.

    While nothing has changed, the run goes on with its own listing. Else its parts become earlier work.
    """
    path, fresh = parts.folder / _LISTING, parts.folder / _FRESH
    try:
        now = _list_now(source, fresh)
    except DataError:
        if not path.exists():
            parts.remove()
        raise
    changes = Changes()
    with closing(now):
        if path.exists():
            with closing(Listing(path)) as before:
                is_same = now.is_same(before)
                changes = Changes() if is_same else now.compare(before.known())
            if is_same:
                return stack.enter_context(closing(Listing(path))), changes
            parts.set_aside()
        since_finished = now.compare(Earlier([*earlier, *parts.earlier]).known())
    fresh.replace(path)
    return stack.enter_context(closing(Listing(path))), since_finished if earlier else changes


def _list_now(source: Source, path: Path) -> Listing:
    write_listing(path, source)
    listing = Listing(path)
    if not listing.total:
        listing.close()
        raise DataError(f"{source.identity['place']} has no posters; {describe_skipped(source.skipped)}")
    return listing


def _first_failure(out: Path) -> str:
    with pq.ParquetFile(out) as file:
        batch = next(file.iter_batches(1, columns=["poster", "message"], use_threads=False)).to_pylist()
    return "{poster}: {message}".format(**batch[0])


def _made_with(schema: pa.Schema) -> dict[str, Any]:
    return dict(json.loads(schema.metadata[METADATA_KEY]))


def _digest(job: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(job, sort_keys=True).encode()).hexdigest()


def _check_finished(out: Path, schema: pa.Schema) -> None:
    try:
        known = pq.read_schema(out).metadata or {}
    except (OSError, pa.ArrowException):
        known = {}
    if known.get(METADATA_KEY) != schema.metadata[METADATA_KEY]:
        raise ConfigError(f"{out} is there already, and is something else: remove it, or name another file")
