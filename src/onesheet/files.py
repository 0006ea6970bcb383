"""Files that are there as a whole or not at all."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def whole(path: Path) -> Iterator[Path]:
    """Where to write a file: a hidden one beside it, which takes its name at the end, so that readers see no half.

    Raises:
        OSError: It cannot take its name.
    """
    scratch = path.with_name(f".{path.name}.partial")
    try:
        yield scratch
        scratch.replace(path)
    finally:
        scratch.unlink(missing_ok=True)


def write_whole(path: Path, text: str) -> None:
    """Write a text, as a whole or not at all.

    Raises:
        OSError: It cannot be written.
    """
    with whole(path) as scratch:
        scratch.write_text(text, encoding="utf-8")
