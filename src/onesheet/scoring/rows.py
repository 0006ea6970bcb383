"""What every source of a catalogue has in common."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Final, NamedTuple, NoReturn, Protocol

from onesheet.errors import ImageError
from onesheet.image import PICTURE_SUFFIXES
from onesheet.system_files import is_system_name

# Etag of a file that is not there.
ABSENT: Final = "absent"

# Also those that onesheet does not read: whoever has such posters should be told, not left without a row.
_PICTURE_SUFFIXES: Final = (
    *PICTURE_SUFFIXES,
    *(".avif", ".heic", ".heif", ".tif", ".tiff", ".bmp", ".svg", ".jxl"),
)

SYSTEM: Final = "system_files"
HIDDEN: Final = "hidden"
NOT_IMAGES: Final = "not_image_files"
LINKED_FOLDERS: Final = "linked_folders"
REPEATED_FOLDERS: Final = "repeated_folders"
BROKEN_LINKS: Final = "broken_links"
_HINTS: Final = {LINKED_FOLDERS: " (not followed; use --follow-links)"}


class Entry(NamedTuple):
    """A poster that a source lists.

    Attributes:
        name: As the source has it.
        etag: Changes when the poster does: size and time of the last change, or size and checksum. None where only
            reading the poster could tell.
        number: Its place in the catalogue, from 0; -1 before it has one.
    """

    name: str
    etag: str | None
    number: int = -1


@dataclass(frozen=True, slots=True)
class Row:
    """A poster of a catalogue; it can be sent to another process or machine that sees the same files.

    Attributes:
        name: As the source has it.
        read: Reads its encoded bytes, or raises the ImageError that says why there are none.
        etag: See `Entry`.
    """

    name: str
    read: Callable[[], bytes]
    etag: str | None


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
    def is_ordered(self) -> bool:
        """Its entries come in an order of their own; those of others are sorted by name, and each name is one row."""
        ...

    @property
    def skipped(self) -> Counter[str]:
        """Files and folders without a row, by the reason; complete when all entries have been listed."""
        ...

    def entries(self) -> Iterator[Entry]:
        """All posters that are there now, without reading them.

        Raises:
            OnesheetError: The source cannot be read at all.
        """
        ...

    def rows(self, entries: Iterable[Entry]) -> Iterator[Row]:
        """A row for each of some entries, which come by number; what is wrong with one is in that row.

        Raises:
            OnesheetError: The source cannot be read at all.
        """
        ...


def describe_skipped(skipped: Mapping[str, int]) -> str:
    """In words for people, such as "skipped 3 entries: 2 not image files, 1 system files"."""
    total = sum(skipped.values())
    if not total:
        return "skipped no entries"
    reasons = {f"{name.replace('_', ' ')}{_HINTS.get(name, '')}": count for name, count in sorted(skipped.items())}
    listed = ", ".join(reasons if len(reasons) == 1 else (f"{count:,} {name}" for name, count in reasons.items()))
    return f"skipped {total:,} {'entry' if total == 1 else 'entries'}: {listed}"


def why_skipped(name: str) -> str | None:
    """Why a file of this name has no row; None if it has one. What it is, its content decides.

    Args:
        name: Parts separated by `/`, from the top of the source.
    """
    path = PurePosixPath(name)
    for part in path.parts:
        if is_system_name(part):
            return SYSTEM
        if part.startswith(".") and part != "..":
            return HIDDEN
    return None if path.suffix.lower() in _PICTURE_SUFFIXES else NOT_IMAGES


def shown(name: str) -> str:
    """A name that UTF-8 can write; names of files may be any bytes."""
    return name.encode(errors="surrogateescape").decode(errors="backslashreplace")


def file_identity(kind: str, path: Path) -> dict[str, Any]:
    """Of a source that is a file."""
    return {"kind": kind, "place": shown(str(path.resolve()))}


def file_etag(path: Path) -> str:
    """Of a file on disk; one that is not there has an etag too, which differs from that of every file."""
    try:
        state = path.stat()
    except (OSError, ValueError):
        return ABSENT
    return f"{state.st_size}-{state.st_mtime_ns}"


def fail(error: ImageError) -> NoReturn:
    """The `read` of a row of which nothing but an error is known."""
    raise error
