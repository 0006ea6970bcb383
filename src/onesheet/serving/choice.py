"""Which bundle the worker processes of one service shall use, kept in a file that all of them watch."""

from __future__ import annotations

import os
from pathlib import Path
from uuid import uuid4


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
