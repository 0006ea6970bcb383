"""The pictures of answers, kept for the next training where the settings say so: each content once, by its hash."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Final

_SHA256: Final = re.compile("[0-9a-f]{64}")
_PARTIAL: Final = ".partial"


class PictureFolder:
    """Encoded pictures in `<folder>/<first two digits>/<sha256>`; safe to share between processes.

    The folder may be a mounted bucket. It belongs to one prediction log, which removes what no answer is about.

    Args:
        folder: Made when the first picture is kept.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def keep(self, sha256: str, data: bytes) -> None:
        """Have a picture there as a whole, under its name; nothing is written where it is already.

        Args:
            sha256: Of the data, in hexadecimal.
            data: The encoded picture.

        Raises:
            OSError: It could not be written.
        """
        path = self._path(sha256)
        # One of another size is what a failure of the machine has left.
        if path.exists() and path.stat().st_size == len(data):
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(sha256 + _PARTIAL)
        # Not truncated: whoever writes it at the same time writes the same, and may be about to give it its name.
        with open(os.open(partial, os.O_WRONLY | os.O_CREAT, 0o666), "wb") as file:  # noqa: PTH123
            file.write(data)
        try:
            partial.replace(path)
        except FileNotFoundError:
            if not path.exists():
                raise

    def find(self, sha256: str) -> Path | None:
        """Where a picture is; None where it is not kept."""
        path = self._path(sha256)
        return path if path.is_file() else None

    def remove(self, contents: Iterable[str]) -> None:
        """Remove pictures; those that are not kept are passed over.

        Args:
            contents: Their sha256s.

        Raises:
            OSError: One could not be removed.
        """
        for sha256 in contents:
            path = self._path(sha256)
            path.unlink(missing_ok=True)
            path.with_name(sha256 + _PARTIAL).unlink(missing_ok=True)

    def contents(self, before: datetime) -> Iterator[str]:
        """The sha256s of the pictures that have been kept since before a moment, also of half-written ones.

        They may be removed meanwhile.

        Raises:
            OSError: The folder cannot be read.
        """
        for part in sorted(self.folder.glob("[0-9a-f][0-9a-f]")):
            for path in sorted(part.iterdir()):
                sha256 = path.name.removesuffix(_PARTIAL)
                if _SHA256.fullmatch(sha256) and _is_older(path, before):
                    yield sha256

    def _path(self, sha256: str) -> Path:
        return self.folder / sha256[:2] / sha256


def open_pictures(folder: str | None) -> PictureFolder | None:
    """The folder that the settings name, if they do."""
    return PictureFolder(Path(folder)) if folder else None


def _is_older(path: Path, moment: datetime) -> bool:
    try:
        return path.stat().st_mtime < moment.timestamp()
    except FileNotFoundError:
        return False
