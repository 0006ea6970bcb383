"""The pictures in a tar or zip archive, read where they lie: nothing is unpacked, and no name in it is ever a path.

An archive may be made by anybody. Of each member no more is read than a poster may have, and of what describes the
members no more than a bound, whatever the archive says of itself.
"""

from __future__ import annotations

import gzip
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import cache, partial
from pathlib import Path
from typing import Any, BinaryIO, Final

from onesheet.errors import (
    CorruptImageError,
    DataError,
    ImageTooLargeError,
    NotAFileError,
    UnreadableFileError,
    reason,
)
from onesheet.image import ImageLimits
from onesheet.scoring.rows import Row, fail, file_identity, looks_like_a_picture, shown

_HEADER_BYTES: Final = 2**20
_DIRECTORY_BYTES: Final = 32 * 2**20
"""Of a zip's list of members, which has to be in memory as a whole, at about ten times its size."""

_DAMAGED: Final = (
    *(tarfile.TarError, zipfile.BadZipFile, zlib.error, OSError, EOFError),
    *(ValueError, RecursionError, NotImplementedError),
)
_LOST: Final = Row(
    "", partial(fail, CorruptImageError("the archive is damaged here; what may have come after this is lost"))
)


class _Bounded:
    """A file of which nobody reads more than so much at once.

    Args:
        file: To read.
        most: Bytes.
    """

    def __init__(self, file: BinaryIO, most: int) -> None:
        self._file, self._most = file, most
        self.seek, self.tell, self.seekable = file.seek, file.tell, file.seekable
        self.last = b""
        """What was read last."""

    def read(self, size: int = -1) -> bytes:
        """As a file's.

        Raises:
            ValueError: It is too much.
        """
        if size > self._most:
            raise ValueError("what describes its members is too long; pack them as .tar, or as several archives")
        self.last = self._file.read(size)
        return self.last


class ZipSource:
    """The pictures of a `.zip`, in the order of its list.

    Args:
        archive: The file.
        limits: What is accepted as a poster.
    """

    is_remote = False
    is_shareable = True

    def __init__(self, archive: Path, limits: ImageLimits) -> None:
        self.identity = file_identity("zip", archive)
        self._path, self._limits = archive.resolve(), limits
        self.total = self.left_out = 0

    def open(self, work: Path, stack: ExitStack) -> None:  # noqa: ARG002  the archive has a list of its own
        """See `Source`."""
        file = stack.enter_context(self._path.open("rb"))
        try:
            archive = zipfile.ZipFile(_Bounded(file, _DIRECTORY_BYTES))
        except _DAMAGED as error:
            raise DataError(f"{self._path.name} is no zip archive that can be read: {error}") from error
        files = [member for member in archive.infolist() if not member.is_dir()]
        self._pictures = [member for member in files if looks_like_a_picture(member.filename)]
        self.total = len(self._pictures)
        self.left_out = len(files) - self.total

    def rows(self, start: int) -> Iterator[Row]:
        """See `Source`."""
        for member in self._pictures[start:]:
            yield Row(shown(member.filename), partial(_read_member, self._path, member, self._limits.max_bytes))


def _read_member(path: Path, member: zipfile.ZipInfo, max_bytes: int) -> bytes:
    if member.flag_bits & 1:
        raise UnreadableFileError("is encrypted")
    # The others may ask for gigabytes before they give a byte.
    if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise UnreadableFileError("is packed in a way that is not read; use deflate")
    if member.file_size > max_bytes:
        raise _too_large(max_bytes)
    with _there(path):
        archive = _zip(path)
    try:
        return archive.read(member)
    except _DAMAGED as error:
        raise CorruptImageError("the archive is damaged here") from error


@cache
def _zip(path: Path) -> zipfile.ZipFile:
    """For the whole process: to open it is to read its list."""
    return zipfile.ZipFile(path)


class TarSource:
    """The pictures of a `.tar`, `.tar.gz` or `.tgz`, in its order. What follows damage is lost, and one row says so.

    Args:
        archive: The file.
        limits: What is accepted as a poster.
    """

    is_remote = False

    def __init__(self, archive: Path, limits: ImageLimits) -> None:
        self.identity = file_identity("tar", archive)
        # In a packed one, nobody can begin in the middle.
        self.is_shareable = archive.suffix.lower() == ".tar"
        self._path, self._limits = archive.resolve(), limits
        self._seen = self.left_out = 0
        self._ended = False

    @property
    def total(self) -> int | None:
        """As many as there would be if the rest of the file were like what has been read of it."""
        if self._ended:
            return self._seen
        size, at = self.identity["bytes"], self._file.tell()
        return round(self._seen * size / at) if self._seen else None

    def open(self, work: Path, stack: ExitStack) -> None:  # noqa: ARG002  there is no list, nor need of one
        """See `Source`."""
        self._file = stack.enter_context(self._path.open("rb"))
        content: Any = self._file if self.is_shareable else stack.enter_context(gzip.GzipFile(fileobj=self._file))
        self._stream = _Bounded(content, max(_HEADER_BYTES, self._limits.max_bytes + 1))
        try:
            self._archive = tarfile.TarFile(fileobj=self._stream)  # type: ignore[arg-type]
        except _DAMAGED as error:
            raise DataError(f"{self._path.name} is no tar archive that can be read") from error

    def rows(self, start: int) -> Iterator[Row]:
        """See `Source`."""
        for member in self._pictures():
            self._seen += 1
            if self._seen > start:
                yield Row(shown(member.name), self._reader(member)) if member else _LOST
        self._ended = True

    def _pictures(self) -> Iterator[tarfile.TarInfo | None]:
        """Each picture, to be read before the next one is asked for; None where nothing more can be read."""
        try:
            while member := self._archive.next():
                self._archive.members.clear()  # type: ignore[attr-defined]  # it would remember all of them
                if looks_like_a_picture(member.name) and not member.isdir():
                    yield member
                elif not member.isdir():
                    self.left_out += 1
            if self._stream.last != bytes(tarfile.BLOCKSIZE):
                raise tarfile.ReadError("there is no end of archive")
        except _DAMAGED:
            yield None

    def _reader(self, member: tarfile.TarInfo) -> Callable[[], bytes]:
        if not member.isreg() or member.issparse():
            return partial(fail, NotAFileError("is a link or another special file"))
        if member.size > self._limits.max_bytes:
            return partial(fail, _too_large(self._limits.max_bytes))
        if self.is_shareable:
            return partial(_read_slice, self._path, member.offset_data, member.size)
        try:
            self._stream.seek(member.offset_data)
            return partial(bytes, self._stream.read(member.size))
        except _DAMAGED:
            return partial(fail, CorruptImageError("the archive is damaged here"))


def _read_slice(path: Path, start: int, size: int) -> bytes:
    with _there(path), path.open("rb") as file:
        file.seek(start)
        content = file.read(size)
    if len(content) < size:
        raise CorruptImageError("the archive ends in the middle of it")
    return content


@contextmanager
def _there(archive: Path) -> Iterator[None]:
    """An archive that cannot be read at all any more is no matter of one row."""
    try:
        yield
    except OSError as error:
        raise DataError(f"{archive.name} cannot be read: {reason(error)}") from error


def _too_large(max_bytes: int) -> ImageTooLargeError:
    return ImageTooLargeError(f"the file is larger than {max_bytes / 2**20:.3g} MiB")
