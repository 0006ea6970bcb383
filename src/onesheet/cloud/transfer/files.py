"""Files on this machine: which there are, under which names they travel, and what is in them."""

from __future__ import annotations

import base64
import contextlib
import os
import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from onesheet.cloud.transfer.bucket import Place
from onesheet.errors import TransferError, reason

PART_BYTES = 32 * 2**20
"""Files above this go up in parts of this size, and come down in ranges of it."""
MARK: Final = ".onesheet-part-"
"""In the names of unfinished files, here and in the bucket: none of them is ever sent or fetched as a file."""

_BLOCK_BYTES: Final = 2**20
_UNSAFE: Final = re.compile(r"[\\\x00-\x1f\x7f-\x9f\ud800-\udfff]")
_NAME_BYTES: Final = 255


@dataclass(frozen=True, slots=True)
class Piece:
    """A stretch of a file that becomes an object.

    Attributes:
        name: Of the object.
        start: In the file.
        size: In bytes.
        crc: CRC32C in hex.
    """

    name: str
    start: int
    size: int
    crc: str

    def is_in(self, blob: Any | None) -> bool:
        """Whether the object is this."""
        return blob is not None and (blob.size, crc_of(blob)) == (self.size, self.crc)


def local_files(source: Path, place: Place) -> dict[str, Path]:
    """Name of the object → file, in the order of the names."""
    if not source.is_dir():
        _check_file(source)
        if place.folder:
            raise TransferError(f"{place} names no object for the file {source.name}")
        return {place.name: source}
    files = {path.relative_to(source).as_posix(): path for path in _walk(source) if MARK not in path.name}
    check_names(files)
    for path in files.values():
        _check_file(path)
    return {place.below + name: files[name] for name in sorted(files)}


def _walk(source: Path) -> Iterator[Path]:
    def refuse(error: OSError) -> None:
        raise TransferError(f"cannot read the folder {Path(error.filename).name}: {reason(error)}") from error

    for folder, subfolders, names in os.walk(source, followlinks=True, onerror=refuse):
        for path in (Path(folder, name) for name in subfolders):
            if path.is_symlink() and path.resolve() in {above.resolve() for above in path.parents}:
                raise TransferError(f"{path.name} is a link to a folder that it lies in")
        yield from (Path(folder, name) for name in names)


def _check_file(path: Path) -> None:
    if not path.exists():
        raise TransferError(f"{path.name} is a link to nothing" if path.is_symlink() else f"there is no {path.name}")
    if not path.is_file():
        raise TransferError(f"{path.name} is neither a file nor a folder")


def check_names(names: Collection[str]) -> None:
    """Refuse names that would not be files below a folder, each at a place of its own.

    Raises:
        TransferError: One would not.
    """
    folders: set[str] = set()
    for name in names:
        parts = name.split("/")
        long = any(len(part.encode(errors="replace")) > _NAME_BYTES for part in parts)
        if long or _UNSAFE.search(name) or not {"", ".", ".."}.isdisjoint(parts):
            raise TransferError(f"the name {name!r} is not safe to write: nothing was transferred")
        folders.update("/".join(parts[:depth]) for depth in range(1, len(parts)))
    for name in names:
        if name in folders:
            raise TransferError(f"{name!r} is a file and a folder at once: nothing was transferred")


def is_file(name: str) -> bool:
    """Whether an object stands for a file: no placeholder of a folder, and no part of ours."""
    return not name.endswith("/") and MARK not in name


def cut(path: Path, name: str) -> tuple[Piece, list[Piece]]:
    """A file as a whole and in parts, read once."""
    from google_crc32c import extend

    parts: list[Piece] = []
    crc = part_crc = start = size = 0

    def cut() -> Piece:
        return Piece(f"{name}{MARK}{len(parts):05d}-{part_crc:08x}", start, size - start, f"{part_crc:08x}")

    with readable(path), path.open("rb") as file:
        while block := file.read(min(_BLOCK_BYTES, PART_BYTES - (size - start))):
            crc, part_crc, size = extend(crc, block), extend(part_crc, block), size + len(block)
            if size - start == PART_BYTES:
                parts.append(cut())
                part_crc, start = 0, size
    if size > start:
        parts.append(cut())
    return Piece(name, 0, size, f"{crc:08x}"), parts


def state_of(path: Path) -> os.stat_result:
    """Size, time of change and the like.

    Raises:
        TransferError: It cannot be read.
    """
    with readable(path):
        return path.stat()


@contextlib.contextmanager
def readable(path: Path) -> Iterator[None]:
    """Tell that it is this file that cannot be read.

    Raises:
        TransferError: In place of an OSError.
    """
    try:
        yield
    except OSError as error:
        raise TransferError(f"cannot read {path.name}: {reason(error)}") from error


@contextlib.contextmanager
def unchanged(path: Path) -> Iterator[None]:
    """Hold a file to what it is now.

    Raises:
        TransferError: It is another one at the end, whatever else that has led to.
    """

    def state() -> tuple[int, int, int]:
        found = state_of(path)
        return found.st_ino, found.st_size, found.st_mtime_ns

    before, failed = state(), None
    try:
        yield
    except TransferError as error:
        failed = error
    if state() != before:
        raise TransferError(f"{path.name} changed while it was sent: run it again") from failed
    if failed:
        raise failed


def crc_of(blob: Any) -> str:
    """CRC32C of an object, in hex."""
    return base64.b64decode(blob.crc32c or "").hex()


def crc_of_file(path: Path) -> str:
    """CRC32C of a file, in hex.

    Raises:
        TransferError: It cannot be read.
    """
    return cut(path, path.name)[0].crc
