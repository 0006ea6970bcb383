"""The pictures in a tar or zip archive, read where they lie: nothing is unpacked, and no name in it is ever a path.

An archive may be made by anybody. Of each member no more is unpacked than a poster may have, and of what describes the
members no more than a bound is read, whatever the archive says of itself.
"""

from __future__ import annotations

import gzip
import tarfile
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
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
from onesheet.scoring.rows import Entry, Row, fail, file_etag, file_identity, shown, why_skipped

_HEADER_BYTES: Final = 2**20
MAX_DIRECTORY_BYTES: Final = 32 * 2**20
"""Of a zip's list of members, which has to be in memory as a whole, at about ten times its size."""

_DAMAGED: Final = (
    *(tarfile.TarError, zipfile.BadZipFile, zlib.error, OSError, EOFError),
    *(ValueError, RecursionError, NotImplementedError),
)
_LOST: Final = CorruptImageError("the archive is damaged here; what may have come after this is lost")


class _Bounded:
    """A file of which no more is read than is allowed.

    Args:
        file: To read.
        allowed: Bytes, until `allow` is called.
    """

    def __init__(self, file: BinaryIO, allowed: int) -> None:
        self._file, self._left = file, allowed
        self.seek, self.tell, self.seekable = file.seek, file.tell, file.seekable
        self.last = b""
        """What was read last."""

    def allow(self, size: int) -> None:
        """Let so much be read from now on."""
        self._left = size

    def read(self, size: int = -1) -> bytes:
        """As a file's.

        Raises:
            ValueError: It is too much.
        """
        if size <= self._left:
            self.last = self._file.read(self._left + 1 if size < 0 else size)
            self._left -= len(self.last)
            if self._left >= 0:
                return self.last
        raise ValueError("what describes its members is too long; pack them as .tar, or as several archives")


class ZipSource:
    """The pictures of a `.zip`, in the order of its list.

    Args:
        archive: The file.
        limits: What is accepted as a poster.
    """

    is_remote = False
    is_shareable = True
    is_ordered = True

    def __init__(self, archive: Path, limits: ImageLimits) -> None:
        self.identity = file_identity("zip", archive)
        self._path, self._limits = archive.resolve(), limits
        self._pictures: list[zipfile.ZipInfo] = []
        self.skipped: Counter[str] = Counter()

    def entries(self) -> Iterator[Entry]:
        """See `Source`."""
        self.skipped.clear()
        with _there(self._path), self._path.open("rb") as file:
            try:
                members = zipfile.ZipFile(_Bounded(file, MAX_DIRECTORY_BYTES)).infolist()
            except _DAMAGED as error:
                raise DataError(f"{self._path.name} is no zip archive that can be read: {error}") from error
        self._pictures = [member for member in members if _is_picture(member.filename, member.is_dir(), self.skipped)]
        for member in self._pictures:
            yield Entry(member.filename, f"{member.file_size}-{member.CRC:08x}")

    def rows(self, entries: Iterable[Entry]) -> Iterator[Row]:
        """See `Source`."""
        version = file_etag(self._path)
        for entry in entries:
            read = partial(_read_member, self._path, version, self._pictures[entry.number], self._limits.max_bytes)
            yield Row(shown(entry.name), read, entry.etag)


def _read_member(path: Path, version: str, member: zipfile.ZipInfo, max_bytes: int) -> bytes:
    if member.flag_bits & 1:
        raise UnreadableFileError("is encrypted")
    # The others may ask for gigabytes before they give a byte.
    if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise UnreadableFileError("is packed in a way that is not read; use deflate")
    if member.file_size > max_bytes:
        raise _too_large(max_bytes)
    with _there(path):
        archive = _zip(path, version)
    try:
        with archive.open(member) as file:
            content = file.read(max_bytes + 1)
    except _DAMAGED as error:
        raise CorruptImageError("the archive is damaged here") from error
    if len(content) > max_bytes:
        raise _too_large(max_bytes)
    return content


@cache
def _zip(path: Path, version: str) -> zipfile.ZipFile:  # noqa: ARG001  another file under this name is another archive
    """For the whole process: to open it is to read its list."""
    return zipfile.ZipFile(path)


class TarSource:
    """The pictures of a `.tar`, `.tar.gz` or `.tgz`, in its order. What follows damage is lost, and one row says so.

    Args:
        archive: The file.
        limits: What is accepted as a poster.
    """

    is_remote = False
    is_ordered = True

    def __init__(self, archive: Path, limits: ImageLimits) -> None:
        self.identity = file_identity("tar", archive)
        # In a packed one, nobody can begin in the middle.
        self.is_shareable = archive.suffix.lower() == ".tar"
        self._path, self._limits = archive.resolve(), limits
        self.skipped: Counter[str] = Counter()

    def entries(self) -> Iterator[Entry]:
        """See `Source`."""
        self.skipped.clear()
        with self._open() as stream:
            for member in self._members(stream):
                if member is None:
                    yield Entry("", None)
                elif _is_picture(member.name, member.isdir(), self.skipped):
                    yield Entry(member.name, f"{member.size}-{member.mtime}")

    def rows(self, entries: Iterable[Entry]) -> Iterator[Row]:
        """See `Source`."""
        with self._open() as stream:
            members = self._members(stream)
            pictures = enumerate(each for each in members if each is None or _is_picture(each.name, each.isdir()))
            for entry in entries:
                member = next((each for number, each in pictures if number == entry.number), None)
                if member and member.name != entry.name:
                    raise DataError(f"{self._path.name} was changed while it was read: run it again")
                yield Row(shown(entry.name), self._reader(member, stream), entry.etag)

    @contextmanager
    def _open(self) -> Iterator[_Bounded]:
        with _there(self._path), ExitStack() as stack:
            content: Any = stack.enter_context(self._path.open("rb"))
            if not self.is_shareable:
                content = stack.enter_context(gzip.GzipFile(fileobj=content))
            yield _Bounded(content, _HEADER_BYTES)

    def _members(self, stream: _Bounded) -> Iterator[tarfile.TarInfo | None]:
        """Each member, to be read before the next one is asked for; None where nothing more can be read."""
        try:
            archive = tarfile.TarFile(fileobj=stream)  # type: ignore[arg-type]
        except _DAMAGED as error:
            raise DataError(f"{self._path.name} is no tar archive that can be read") from error
        end = -1
        try:
            while member := self._next(archive, stream):
                if member.offset <= end or member.size < 0:
                    raise tarfile.ReadError("a member lies before the one before it")
                end = member.offset
                yield member
            if stream.last != bytes(tarfile.BLOCKSIZE):
                raise tarfile.ReadError("there is no end of archive")
        except _DAMAGED:
            yield None

    @staticmethod
    def _next(archive: tarfile.TarFile, stream: _Bounded) -> tarfile.TarInfo | None:
        stream.allow(_HEADER_BYTES)
        member = archive.next()
        archive.members.clear()  # type: ignore[attr-defined]  # it would remember all of them
        return member

    def _reader(self, member: tarfile.TarInfo | None, stream: _Bounded) -> Callable[[], bytes]:
        if member is None:
            return partial(fail, _LOST)
        if not member.isreg() or member.issparse():
            return partial(fail, NotAFileError("is a link or another special file"))
        if member.size > self._limits.max_bytes:
            return partial(fail, _too_large(self._limits.max_bytes))
        if self.is_shareable:
            return partial(_read_slice, self._path, member.offset_data, member.size)
        try:
            stream.allow(member.size)
            stream.seek(member.offset_data)
            return partial(bytes, stream.read(member.size))
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


def _is_picture(name: str, is_folder: bool, skipped: Counter[str] | None = None) -> bool:
    """Whether a member has a row; a file that has none is counted."""
    why = why_skipped(name)
    if why and not is_folder and skipped is not None:
        skipped[why] += 1
    return not why and not is_folder


def _too_large(max_bytes: int) -> ImageTooLargeError:
    return ImageTooLargeError(f"the file is larger than {max_bytes / 2**20:.3g} MiB")
