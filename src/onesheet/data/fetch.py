"""Fetch the posters: from any source to a whole, verified data set under its final name, or not at all."""

from __future__ import annotations

from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from onesheet.data.labels import LABELS_FILE, read_labels
from onesheet.data.posters import SUFFIX_RULE, PosterNames, name_some
from onesheet.data.progress import Meter, Progress, Report, silent
from onesheet.data.receipt import RECEIPT_FILE, FetchReceipt, dataset_files, read_receipt, sum_up
from onesheet.data.sources import open_source
from onesheet.data.sources.naming import public_name
from onesheet.data.staging import Staging, disk_errors, exclusive
from onesheet.errors import DataError, FetchError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from onesheet.data.sources.base import Source, SourceFile

BATCH = 256
"""Files asked of a source at once: bounds memory, and what an interruption can lose."""
MAX_MISSING = 0.05
"""Share of the labelled films that may lack a picture before we doubt that the source is whole."""


def fetch(source: str, out: Path, *, force: bool = False, progress: Report = silent) -> FetchReceipt:
    """Fetch a data set into `out/train.csv` and `out/Images/`, with a receipt in `out/fetch.json`.

    It grows in `<out>.partial` and gets its final name in one step when every file has been verified. Run
    again after an interruption, it goes on where it stopped.

    Args:
        source: A folder, a git address, `kaggle:owner/name`, or an address of fsspec such as `gs://bucket/prefix`.
        out: Folder to make. One that holds a finished fetch of the same source is verified and left alone.
        force: Fetch again, and put the result in the place of an earlier fetch.
        progress: Called after every file, in the thread of the caller.

    Raises:
        FetchError: The source cannot be read or is not whole, `out` is not ours, or the disk refuses.
        MissingExtraError: The source needs an extra that is not installed.
    """
    name, shown, out = public_name(source), str(out), out.resolve()
    with disk_errors(shown):
        _refuse_foreign(out, shown)
        if not force and (out / RECEIPT_FILE).exists():
            return _verify_earlier(out, shown, name, progress)
        with exclusive(out, shown), Staging(out).begin(name) as staging:
            return _fetch_into(staging, source, name, progress)


def _fetch_into(staging: Staging, source: str, name: str, report: Report) -> FetchReceipt:
    report(Progress("listing"))
    origin = open_source(source, staging.work, report)
    files = sorted(origin.files(), key=lambda file: file.name)
    rows, missing = _fetch_labels(origin, files, staging, name)
    _fetch_files(origin, files, staging, report)
    _verify_files(files, staging, name)
    names = [file.name for file in files]
    contents = sum_up(staging.path, names, report)
    receipt = FetchReceipt(name, contents.files, contents.bytes, contents.fingerprint, rows, missing)
    staging.publish(names, receipt)
    return receipt


def _refuse_foreign(out: Path, shown: str) -> None:
    if not out.exists():
        return
    if not out.is_dir():
        raise FetchError(f"{shown} is a file: name a folder to make")
    if any(out.iterdir()) and not (out / RECEIPT_FILE).exists():
        raise FetchError(f"{shown} exists and was not made by a fetch: name another folder, or move it away")


def _verify_earlier(out: Path, shown: str, name: str, report: Report) -> FetchReceipt:
    receipt = read_receipt(out, shown)
    if receipt.source != name:
        raise FetchError(f"{shown} already holds the posters of {receipt.source}: --force replaces them")
    try:
        unchanged = sum_up(out, dataset_files(out), report) == receipt.contents
    except FileNotFoundError:
        unchanged = False
    if not unchanged:
        raise FetchError(f"{shown} has changed since it was fetched: use --force to fetch it again")
    return receipt


def _fetch_labels(origin: Source, files: Sequence[SourceFile], staging: Staging, name: str) -> tuple[int, int]:
    """Fetch and check the labels first, so that a wrong source is told before its pictures are fetched.

    Returns:
        Number of rows, and of labelled films of which the source has no picture.
    """
    for file, content in origin.read([file for file in files if file.name == LABELS_FILE]):
        staging.write(file.name, content)
    try:
        labels = read_labels(staging.path / LABELS_FILE)
    except DataError as error:
        raise FetchError(f"{name} is no data set of posters: {error}") from error
    posters = PosterNames(PurePosixPath(file.name).name for file in files if file.name != LABELS_FILE)
    missing = [film for film in labels.by_id if not posters.find(film)]
    if len(missing) > MAX_MISSING * len(labels.by_id):
        raise FetchError(
            f"{name} does not look like the whole data set: {len(missing):,} of {len(labels.by_id):,} labelled films "
            f"have no picture: {name_some(missing)}; {SUFFIX_RULE}"
        )
    return labels.rows, len(missing)


def _fetch_files(origin: Source, files: Sequence[SourceFile], staging: Staging, report: Report) -> None:
    wanted = [file for file in files if not staging.holds(file)]
    total_bytes = _total_bytes(files)
    held_bytes = total_bytes - (_total_bytes(wanted) or 0) if total_bytes is not None else 0
    meter = Meter(report, Progress("downloading", len(files) - len(wanted), len(files), held_bytes, total_bytes))
    for start in range(0, len(wanted), BATCH):
        for file, content in origin.read(wanted[start : start + BATCH]):
            staging.write(file.name, content)
            meter.add(len(content))


def _total_bytes(files: Sequence[SourceFile]) -> int | None:
    sizes = [file.size for file in files if file.size is not None]
    return sum(sizes) if len(sizes) == len(files) else None


def _verify_files(files: Sequence[SourceFile], staging: Staging, name: str) -> None:
    """Look at what is on disk now, whoever wrote it."""
    damaged = [file.name for file in files if not staging.holds(file)]
    if damaged:
        raise FetchError(f"{len(damaged):,} files of {name} arrived damaged, {damaged[0]} first: run it again")
