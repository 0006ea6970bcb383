"""The prediction log to labelled posters: what people say of answers becomes the data of the next training."""

from __future__ import annotations

import csv
import hashlib
import json
import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from itertools import groupby
from operator import attrgetter
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final, TypeVar

import pyarrow as pa
from sqlalchemy import select

from onesheet.bundle import REFERENCE_FILE, Bundle
from onesheet.data.labels import (
    ID_COLUMN,
    IMAGES_FOLDER,
    LABELS_FILE,
    TEXT_COLUMN,
    Labels,
    read_labels,
)
from onesheet.data.posters import PosterFolder
from onesheet.data.staging import put_in_place
from onesheet.errors import BundleCorruptError, DataError, ImageError
from onesheet.image import decode, read_bytes
from onesheet.parquet import read_table
from onesheet.predictionlog import PictureFolder, PredictionLog
from onesheet.predictionlog.schema import FEEDBACK, PREDICTIONS
from onesheet.system_files import is_system_name

RECEIPT_FILE: Final = "feedback.json"
_ID_DIGITS: Final = 16

_Item = TypeVar("_Item")


@dataclass(slots=True)
class FeedbackCounts:
    """What became of the pictures that somebody spoke of; the content of `feedback.json`.

    Attributes:
        taken: Labelled posters that came of them.
        base: Films of the set that they were added to.
        disputed: People name genres, and no genre is named by more than half of them.
        empty: Nothing is true of them, as all say.
        missing: The picture is not to be found.
        damaged: The picture is there and cannot be read.
        reference: The bundle was judged by them.
        known: They are posters of the set that they would be added to.
    """

    taken: int = 0
    base: int = 0
    disputed: int = 0
    empty: int = 0
    missing: int = 0
    damaged: int = 0
    reference: int = 0
    known: int = 0


def from_log(
    log: PredictionLog,
    out: Path,
    bundle: Bundle,
    pictures: PictureFolder | Path,
    *,
    base: Path | None = None,
    since: datetime | None = None,
    until: datetime | None = None,
    force: bool = False,
    on_picture: Callable[[int, int], None] = lambda _, __: None,
) -> FeedbackCounts:
    """Make a folder of labelled posters of what people said, as `prepare` reads it.

    Each picture counts once, whatever was said of how many answers about it: of each answer the last word counts, and a
    genre is true if more than half of the answers' words name it. Labels are held in memory, and one picture at a time.

    Args:
        log: With the feedback.
        out: Folder to make: `train.csv`, `Images/` and the counts in `feedback.json`; there as a whole or not at all.
        bundle: Its reference is left out, so that no model learns what it is judged by; its genres come first.
        pictures: The kept ones, or a folder with the same files under any names.
        base: A folder of labelled posters to add to; its files are linked where the disk can, else copied.
        since: The first moment of the feedback.
        until: The moment after the last.
        force: Replace an earlier set.
        on_picture: Called with (done, total) as the files of `base` and `pictures` are looked at.

    Raises:
        DataError: `out` is in the way, `base` cannot be read, or nothing is left to learn from.
        BundleCorruptError: The bundle does not tell what it was judged by.
        LogUnavailableError: The log cannot be read.
        OSError: The disk refuses.
    """
    shown, out = str(out), out.resolve()
    _refuse_others(out, shown, force=force)
    counts = FeedbackCounts()
    wanted = _agreed(log, since, until, counts)
    counts.reference = _drop(wanted, _reference(bundle))
    known = read_labels(base / LABELS_FILE) if base else Labels((), {}, 0, frozenset())
    files = _files(pictures, wanted)
    total = len(known.by_id) + len(files)
    out.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix=f".{out.name}.", dir=out.parent) as scratch:
        folder = Path(scratch, "set")
        (folder / IMAGES_FOLDER).mkdir(parents=True)
        if base:
            posters = PosterFolder(base / IMAGES_FOLDER)
            paths = [posters.find(film) for film in known.by_id]
            counts.base = len(paths)
            counts.known = _drop(wanted, _place(_counted(paths, 0, total, on_picture), folder))
        taken = _take(_counted(files, counts.base, total, on_picture), wanted, folder, counts)
        if not taken and not base:
            raise DataError(f"there is no feedback to learn from; pictures left out: {describe(counts)}")
        _write_labels(folder / LABELS_FILE, {**known.by_id, **taken}, _columns(bundle, known, taken))
        (folder / RECEIPT_FILE).write_text(json.dumps(asdict(counts), indent=2) + "\n")
        put_in_place(folder, out)
    return counts


def describe(counts: FeedbackCounts) -> str:
    """Why pictures were left out, for people."""
    reasons = {
        "disputed": counts.disputed,
        "without a genre": counts.empty,
        "not found": counts.missing,
        "damaged": counts.damaged,
        "in the bundle's reference": counts.reference,
        "known already": counts.known,
    }
    return ", ".join(f"{count} {reason}" for reason, count in reasons.items() if count) or "none"


def _refuse_others(out: Path, shown: str, *, force: bool) -> None:
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return
    if not (out / RECEIPT_FILE).is_file():
        raise DataError(f"{shown} exists and was not made of feedback: name another folder, or move it away")
    if not force:
        raise DataError(f"{shown} exists: --force replaces it")


def _agreed(
    log: PredictionLog, since: datetime | None, until: datetime | None, counts: FeedbackCounts
) -> dict[str, tuple[str, ...]]:
    """The genres of each picture, by its sha256, as more than half of those say who spoke of it."""
    agreed: dict[str, tuple[str, ...]] = {}
    for content, words in _words(log, since, until):
        named = Counter(genre for genres in words for genre in set(genres))
        if genres := tuple(genre for genre, count in named.items() if count > len(words) / 2):
            agreed[content] = genres
        elif named:
            counts.disputed += 1
        else:
            counts.empty += 1
    return agreed


def _words(
    log: PredictionLog, since: datetime | None, until: datetime | None
) -> Iterator[tuple[str, list[Sequence[str]]]]:
    """For each picture what was last said of each answer about it."""
    query = (
        select(PREDICTIONS.c.content_sha256, FEEDBACK.c.prediction_id, FEEDBACK.c.genres)
        .join(PREDICTIONS, PREDICTIONS.c.id == FEEDBACK.c.prediction_id)
        .order_by(PREDICTIONS.c.content_sha256, FEEDBACK.c.id)
    )
    if since:
        query = query.where(FEEDBACK.c.time >= since)
    if until:
        query = query.where(FEEDBACK.c.time < until)
    for content, rows in groupby(log.rows(query), attrgetter("content_sha256")):
        # By answer: it has a row for each later word, and again for a shadow answer beside it.
        yield content, list({row.prediction_id: row.genres for row in rows}.values())


def _reference(bundle: Bundle) -> list[str]:
    """The sha256s of the posters that the bundle was judged by."""
    try:
        table = read_table(bundle.files[REFERENCE_FILE], ["sha256"])
        return [str(content) for content in table["sha256"].to_pylist()]
    except (pa.ArrowException, KeyError) as error:
        raise BundleCorruptError("the reference of the bundle does not tell its posters by their sha256") from error


def _drop(wanted: dict[str, tuple[str, ...]], contents: Iterable[str]) -> int:
    """Take these out of the wanted; how many were among them."""
    return sum(wanted.pop(content, None) is not None for content in contents)


def _files(pictures: PictureFolder | Path, wanted: Iterable[str]) -> list[Path]:
    """Where the wanted pictures may be."""
    if isinstance(pictures, PictureFolder):
        return [path for content in wanted if (path := pictures.find(content))]
    files = (path for path in sorted(pictures.rglob("*")) if path.is_file())
    return [path for path in files if not any(map(is_system_name, path.relative_to(pictures).parts))]


def _place(posters: Iterable[Path], folder: Path) -> Iterator[str]:
    """Have the posters that there are in the set too; their sha256s."""
    for path in posters:
        if path.is_file():
            target = folder / IMAGES_FOLDER / path.name
            try:
                os.link(path.resolve(), target)
            except OSError:  # on another disk, or on one that has no links
                shutil.copyfile(path, target)
            yield _sha256(target)


def _take(
    files: Iterable[Path], wanted: dict[str, tuple[str, ...]], folder: Path, counts: FeedbackCounts
) -> dict[str, tuple[str, ...]]:
    """Copy the wanted pictures that can be read; their ids and genres. Those that are not found stay in `wanted`."""
    taken: dict[str, tuple[str, ...]] = {}
    for path in files:
        content = path.name if path.name in wanted else _sha256(path)
        genres = wanted.pop(content, None)
        if not genres:
            continue
        data = _read(path, content)
        if data is None:
            counts.damaged += 1
            continue
        film = f"fb-{content[:_ID_DIGITS]}"
        (folder / IMAGES_FOLDER / f"{film}.jpg").write_bytes(data)
        taken[film] = genres
    counts.taken, counts.missing = len(taken), len(wanted)
    return taken


def _read(path: Path, content: str) -> bytes | None:
    """An encoded picture; None unless it is what its hash says, and can be decoded."""
    try:
        data = read_bytes(path)
        decode(data)
    except ImageError:
        return None
    return data if hashlib.sha256(data).hexdigest() == content else None


def _columns(bundle: Bundle, known: Labels, taken: dict[str, tuple[str, ...]]) -> list[str]:
    """Every genre: in the model's order, then those that only the base or only feedback knows."""
    said = sorted({genre for genres in taken.values() for genre in genres})
    return list(dict.fromkeys([*bundle.metadata.genres, *known.genres, *said]))


def _write_labels(path: Path, by_id: dict[str, tuple[str, ...]], columns: Sequence[str]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow([ID_COLUMN, TEXT_COLUMN, *columns])
        for film, genres in by_id.items():
            flags = [int(column in genres) for column in columns]
            ordered = [column for column in columns if column in genres]
            writer.writerow([film, str(ordered), *flags])


def _counted(items: Iterable[_Item], start: int, total: int, on_item: Callable[[int, int], None]) -> Iterator[_Item]:
    """The same items, and after each a word of how many are done."""
    for done, item in enumerate(items, start + 1):
        yield item
        on_item(done, total)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
