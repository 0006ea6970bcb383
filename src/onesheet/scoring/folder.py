"""The pictures below a folder."""

from __future__ import annotations

import os
from bisect import insort
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

from onesheet.errors import DataError, UnreadableFileError, reason
from onesheet.image import ImageLimits, read_bytes
from onesheet.scoring.rows import (
    ABSENT,
    BROKEN_LINKS,
    HIDDEN,
    LINKED_FOLDERS,
    NOT_IMAGES,
    REPEATED_FOLDERS,
    SYSTEM,
    Entry,
    Row,
    file_etag,
    shown,
    why_skipped,
)


class FolderSource:
    """All files below a folder that are pictures by their names; links to files count.

    Args:
        folder: To look in.
        limits: What is accepted as a poster.
        follow_links: Whether to look in linked folders as well.
    """

    is_remote = False
    is_shareable = True
    is_ordered = False

    def __init__(self, folder: Path, limits: ImageLimits, *, follow_links: bool = False) -> None:
        self.identity: dict[str, Any] = {"kind": "folder", "place": shown(str(folder.resolve()))}
        if follow_links:
            self.identity["follow_links"] = True
        self._folder, self._limits, self._follow = folder.resolve(), limits, follow_links
        self.skipped: Counter[str] = Counter()

    def entries(self) -> Iterator[Entry]:
        """See `Source`; a folder that cannot be listed is an entry whose name ends with a slash."""
        self.skipped.clear()
        waiting, links, seen = [""], list[str](), set[tuple[int, int]]()
        while waiting or links:
            # A folder is listed once, by its own name if it has one here, so links come last. That ends loops, too.
            below = waiting.pop() if waiting else links.pop(0)
            place = self._folder / below
            try:
                if self._follow and not _is_first(place, seen):
                    self.skipped[REPEATED_FOLDERS] += 1
                    continue
                with os.scandir(place) as found:
                    yield from self._sort_out(below, found, waiting, links)
            except OSError as error:
                if not below:
                    raise DataError(f"cannot list the folder {self._folder.name}: {reason(error)}") from error
                yield Entry(below, "unreadable")

    def rows(self, entries: Iterable[Entry]) -> Iterator[Row]:
        """See `Source`."""
        for entry in entries:
            yield Row(shown(entry.name), self._reader(entry.name), entry.etag)

    def _sort_out(
        self, below: str, found: Iterable[os.DirEntry[str]], waiting: list[str], links: list[str]
    ) -> Iterator[Entry]:
        for each in found:
            name, why = f"{below}{each.name}", why_skipped(each.name)
            if not _is_folder(each):
                if why == NOT_IMAGES and each.is_symlink() and file_etag(self._folder / name) == ABSENT:
                    self.skipped[BROKEN_LINKS] += 1  # maybe to a folder whose disk is not there
                elif why:
                    self.skipped[why] += 1
                else:
                    yield Entry(name, file_etag(self._folder / name))
            elif why in (SYSTEM, HIDDEN):
                self.skipped[why] += 1
            elif not each.is_symlink():
                waiting.append(f"{name}/")
            elif self._follow:
                insort(links, f"{name}/")
            else:
                self.skipped[LINKED_FOLDERS] += 1

    def _reader(self, name: str) -> Callable[[], bytes]:
        if name.endswith("/"):
            return partial(_fail_to_list, self._folder / name)
        return partial(read_bytes, self._folder / name, self._limits)


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link that leads to itself, or to where nobody may look: reading it says so
        return False


def _is_first(folder: Path, seen: set[tuple[int, int]]) -> bool:
    state = folder.stat()
    identity = (state.st_dev, state.st_ino)
    if identity in seen:
        return False
    seen.add(identity)
    return True


def _fail_to_list(folder: Path) -> NoReturn:
    problem = "it could not be when the work began"
    try:
        os.scandir(folder).close()
    except OSError as error:
        problem = reason(error)
    raise UnreadableFileError(f"the folder cannot be listed: {problem}")
