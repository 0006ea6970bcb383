"""The pictures below a folder."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack, closing
from functools import partial
from pathlib import Path
from typing import Any

from onesheet.errors import DataError, reason
from onesheet.image import ImageLimits, read_bytes
from onesheet.scoring.listing import Listing
from onesheet.scoring.rows import Row, shown


class FolderSource:
    """All files below a folder that are pictures by their names; links to files count, linked folders do not.

    Args:
        folder: To look in.
        limits: What is accepted as a poster.
    """

    is_remote = False
    is_shareable = True

    def __init__(self, folder: Path, limits: ImageLimits) -> None:
        self.identity: dict[str, Any] = {"kind": "folder", "place": shown(str(folder.resolve()))}
        self._folder, self._limits = folder.resolve(), limits

    @property
    def total(self) -> int:
        """See `Source`."""
        return self._listing.total

    @property
    def left_out(self) -> int:
        """See `Source`."""
        return self._listing.left_out

    def open(self, work: Path, stack: ExitStack) -> None:
        """See `Source`."""
        self._listing = stack.enter_context(closing(Listing(work, self._walk)))

    def rows(self, start: int) -> Iterator[Row]:
        """See `Source`."""
        for name in self._listing.names(start):
            yield Row(shown(name), partial(read_bytes, self._folder / name, self._limits))

    def _walk(self) -> Iterator[str]:
        waiting = [""]
        while waiting:
            below = waiting.pop()
            try:
                with os.scandir(self._folder / below) as entries:
                    for entry in entries:
                        name = f"{below}{entry.name}"
                        if not entry.is_dir(follow_symlinks=False):
                            yield name
                        elif not entry.name.startswith("."):
                            waiting.append(f"{name}/")
            except OSError as error:
                raise DataError(f"cannot list {shown(below) or 'the folder'}: {reason(error)}") from error
