"""From a bucket to this machine."""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any, BinaryIO

from onesheet.cloud.transfer import files
from onesheet.cloud.transfer.bucket import Bucket, Place
from onesheet.cloud.transfer.files import MARK, check_names, crc_of, crc_of_file, is_file
from onesheet.errors import TransferError
from onesheet.locks import lock


def wanted_files(bucket: Bucket, place: Place, target: Path) -> dict[Path, Any]:
    """File to be → object; every name is safe."""
    below = {blob.name.removeprefix(place.below): blob for blob in bucket.listing(place.below) if is_file(blob.name)}
    single = bucket.find(place)
    if single and below:
        raise TransferError(f"{place} is an object and a folder at once: add a slash to fetch the folder")
    if not single and not below:
        raise TransferError(f"there is nothing at {place}")
    if target.exists() and target.is_dir() != (single is None):
        raise TransferError(f"{target} is in the way: it is {'a folder' if single else 'a file'}")
    check_names(below)
    return {target: single} if single else {target / name: blob for name, blob in below.items()}


def fetch(bucket: Bucket, wanted: tuple[Path, Any]) -> int | None:
    """The bytes fetched, or None if the file was here."""
    path, blob = wanted
    crc = crc_of(blob)
    if path.is_file() and path.stat().st_size == blob.size and crc_of_file(path) == crc:
        return None
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{_family(path)}{MARK}{blob.generation}")
    moved = 0
    with _alone(part, path.name) as file:
        for _ in range(2):
            moved += _fill(file, blob, bucket)
            if crc_of_file(part) == crc:
                break
            file.truncate(0)
        else:
            part.unlink()
            raise TransferError(f"{path.name} arrives damaged, twice in a row: run it again")
        os.fsync(file.fileno())
        part.replace(path)
    return moved


def _family(path: Path) -> str:
    """What the names of its unfinished files begin with; as short for long names as for others."""
    return "." + hashlib.sha256(os.fsencode(path.name)).hexdigest()[:16]


def remove_stale(fetched: Collection[Path]) -> None:
    """Remove what was left of earlier objects of the same names."""
    families = {_family(path) for path in fetched}
    for folder in {path.parent for path in fetched}:
        for part in folder.glob(f".*{MARK}*"):
            if part.name.partition(MARK)[0] in families:
                part.unlink(missing_ok=True)


def _fill(file: BinaryIO, blob: Any, bucket: Bucket) -> int:
    """Fetch what a file still lacks; the number of bytes."""
    from google.api_core.exceptions import NotFound, PreconditionFailed

    begin = size = file.seek(0, os.SEEK_END)
    if size > blob.size:
        file.truncate(0)
        begin = size = 0
    while size < blob.size:
        bucket.check_going()
        end = min(size + files.PART_BYTES, blob.size) - 1
        try:
            # Ranges have no checksum of their own, and compressed objects are wanted as they lie there.
            blob.download_to_file(file, start=size, end=end, raw_download=True, checksum=None, **bucket.ask)
        except (NotFound, PreconditionFailed) as error:
            raise TransferError(f"{blob.name} was replaced or deleted meanwhile: run it again") from error
        if file.seek(0, os.SEEK_END) == size:
            raise TransferError(f"{blob.name} comes without its bytes: run it again")
        size = file.tell()
    file.flush()
    return size - begin


@contextlib.contextmanager
def _alone(part: Path, shown: str) -> Iterator[BinaryIO]:
    """Open an unfinished file, to go on with at its end.

    Raises:
        TransferError: Another process is at it.
    """
    with part.open("ab") as file:
        try:
            lock(file)
            # Whoever held it may have given it its final name between our opening and our locking it.
            ours = os.path.samestat(os.fstat(file.fileno()), part.stat())
        except (BlockingIOError, FileNotFoundError):
            ours = False
        if not ours:
            raise TransferError(f"{shown} is being fetched by another process")
        yield file
