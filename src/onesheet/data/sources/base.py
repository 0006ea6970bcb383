"""What every source offers: a list of files, and their content."""

from __future__ import annotations

import hashlib
import importlib.util
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol, TypeVar

from onesheet.errors import MissingExtraError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

T = TypeVar("T")

PAUSES_S = (0.5, 1.0, 2.0)
"""Seconds to wait before each further attempt; after the last, the error stands."""


@dataclass(frozen=True, slots=True)
class Checksum:
    """A hash that the source lists for a file.

    Attributes:
        algorithm: `git` is the object id of a blob, SHA-1 or SHA-256 by its length.
        digest: In lower-case hexadecimal.
    """

    algorithm: Literal["md5", "crc32c", "git"]
    digest: str

    def matches(self, content: bytes) -> bool:
        """Whether the content has this hash."""
        return self._digest_of(content) == self.digest

    def _digest_of(self, content: bytes) -> str:
        if self.algorithm == "md5":
            return hashlib.md5(content, usedforsecurity=False).hexdigest()
        if self.algorithm == "crc32c":
            import google_crc32c  # comes with the `gcs` extra, and only Cloud Storage lists it

            return f"{google_crc32c.value(content):08x}"
        family = "sha1" if len(self.digest) == 40 else "sha256"
        return hashlib.new(family, b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()


@dataclass(frozen=True, slots=True)
class SourceFile:
    """A file that belongs to the data set.

    Attributes:
        name: Its name in the data set: `train.csv` or `Images/<file>`; safe to join to a folder.
        key: What the source itself calls it: a path or an object id. Never used as a local name.
        size: In bytes, where the source tells.
        checksum: Where the source tells.
    """

    name: str
    key: str
    size: int | None = None
    checksum: Checksum | None = None

    def matches(self, content: bytes) -> bool:
        """Whether this is, as far as the source tells, the content of the file."""
        if self.size is not None and len(content) != self.size:
            return False
        return self.checksum is None or self.checksum.matches(content)


class Source(Protocol):
    """A place that posters can be fetched from."""

    def files(self) -> list[SourceFile]:
        """The files of the data set, `train.csv` among them.

        Raises:
            FetchError: The source cannot be reached, or holds no data set.
        """

    def read(self, files: Sequence[SourceFile]) -> Iterator[tuple[SourceFile, bytes]]:
        """The contents of some of `files()`, all of them held in memory at worst.

        Raises:
            FetchError: A file cannot be read, after some attempts.
        """


def retry(call: Callable[[], T], errors: tuple[type[Exception], ...]) -> T:
    """Call, and call again after a pause while one of these errors is raised."""
    for pause in PAUSES_S:
        try:
            return call()
        except errors:
            time.sleep(pause)
    return call()


def need_extra(module: str, extra: str) -> None:
    """Check that an optional library is there.

    Raises:
        MissingExtraError: It is not; says how to install it.
    """
    if importlib.util.find_spec(module) is None:
        raise MissingExtraError(f"this source needs the extra `{extra}`: run `uv sync --extra {extra}`")
