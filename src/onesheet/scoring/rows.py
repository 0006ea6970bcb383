"""What every source of a catalogue has in common."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Final, NoReturn, Protocol

from onesheet.errors import ImageError
from onesheet.image import PICTURE_SUFFIXES

# Also those that onesheet does not read: whoever has such posters should be told, not left without a row.
_PICTURE_SUFFIXES: Final = (
    *PICTURE_SUFFIXES,
    *(".avif", ".heic", ".heif", ".tif", ".tiff", ".bmp", ".svg", ".jxl"),
)


@dataclass(frozen=True, slots=True)
class Row:
    """A poster of a catalogue; it can be sent to another process or machine that sees the same files.

    Attributes:
        name: As the source has it.
        read: Reads its encoded bytes, or raises the ImageError that says why there are none.
    """

    name: str
    read: Callable[[], bytes]


class Source(Protocol):
    """Where the posters of a catalogue come from."""

    @property
    def identity(self) -> dict[str, Any]:
        """What tells this catalogue from any other, as JSON."""
        ...

    @property
    def is_remote(self) -> bool:
        """To read a poster is mostly to wait, so many are read at once."""
        ...

    @property
    def is_shareable(self) -> bool:
        """Its rows can be read from any process that sees the same files. Those of others hold the bytes themselves."""
        ...

    @property
    def total(self) -> int | None:
        """Rows, all in all; an estimate where only the end of the source can tell, and None before there is one."""
        ...

    @property
    def left_out(self) -> int:
        """Files seen that are no pictures by their names, and have no row."""
        ...

    def open(self, work: Path, stack: ExitStack) -> None:
        """Make ready to read.

        Args:
            work: Folder that is kept until the whole catalogue is scored.
            stack: Closes what is opened here.

        Raises:
            OnesheetError: The source cannot be read at all.
        """
        ...

    def rows(self, start: int) -> Iterator[Row]:
        """All rows from number `start` on, always in the same order; what is wrong with one is in that row."""
        ...


def looks_like_a_picture(name: str) -> bool:
    """By its suffix, and not hidden: only whether a file has a row at all; what it is, its content decides."""
    path = PurePosixPath(name)
    return path.suffix.lower() in _PICTURE_SUFFIXES and not any(
        part.startswith(".") and part != ".." for part in path.parts
    )


def shown(name: str) -> str:
    """A name that UTF-8 can write; names of files may be any bytes."""
    return name.encode(errors="surrogateescape").decode(errors="backslashreplace")


def file_identity(kind: str, path: Path) -> dict[str, Any]:
    """Of a source that is a file: the same as long as the file is."""
    state = path.stat()
    return {"kind": kind, "place": shown(str(path.resolve())), "bytes": state.st_size, "changed": state.st_mtime_ns}


def fail(error: ImageError) -> NoReturn:
    """The `read` of a row of which nothing but an error is known."""
    raise error
