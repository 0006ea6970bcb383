"""The pictures below a folder."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from onesheet.errors import DataError, reason
from onesheet.image import ImageLimits, read_bytes
from onesheet.scoring.listing import ListedSource
from onesheet.scoring.rows import shown


class FolderSource(ListedSource):
    """All files below a folder that are pictures by their names; links to files count, linked folders do not.

    Args:
        folder: To look in.
        limits: What is accepted as a poster.
    """

    is_remote = False

    def __init__(self, folder: Path, limits: ImageLimits) -> None:
        self.identity: dict[str, Any] = {"kind": "folder", "place": shown(str(folder.resolve()))}
        self._folder, self._limits = folder.resolve(), limits

    def _reader(self, name: str) -> Callable[[], bytes]:
        return partial(read_bytes, self._folder / name, self._limits)

    def _names(self) -> Iterator[str]:
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
