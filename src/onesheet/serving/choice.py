"""Which bundle the worker processes of one service shall use, kept in a file that all of them watch."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from uuid import uuid4

from onesheet.bundle import METADATA_FILE, load_bundle


class SharedChoice:
    """A bundle's REF in a file; one worker writes it, the others see it.

    Args:
        path: The file; it need not exist.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def read(self) -> tuple[str, int] | None:
        """The REF and a number that differs after every `write`; None while nobody has chosen."""
        try:
            number, _, ref = self._path.read_text(encoding="utf-8").partition("\n")
        except FileNotFoundError:
            return None
        return ref, int(number)

    def keep(self, ref: str) -> str:
        """Copy a bundle to where it stays as it is, for processes that load it later; the REF of the copy.

        Raises:
            BundleError: It cannot be read.
        """
        # First, because a load that was given up may go on later, and must not remove what others keep then.
        chosen = self.read()
        for copy in self._path.parent.glob(f"{self._path.name}-*"):
            if chosen is None or str(copy) != chosen[0]:
                shutil.rmtree(copy, ignore_errors=True)
        bundle = load_bundle(ref)
        place = self._path.with_name(f"{self._path.name}-{uuid4().hex}")
        place.mkdir(parents=True)  # systems tidy up their temporary folders
        for name, content in {METADATA_FILE: bundle.metadata.model_dump_json().encode(), **bundle.files}.items():
            (place / name).write_bytes(content)
        return str(place)

    def write(self, ref: str) -> int:
        """Choose; readers see the old content or the new one, never a part.

        Returns:
            The number that goes with it.
        """
        number = uuid4().int
        temporary = self._path.with_name(f"{self._path.name}.{os.getpid()}")
        temporary.write_text(f"{number}\n{ref}", encoding="utf-8")
        temporary.replace(self._path)
        return number
