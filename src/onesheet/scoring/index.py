"""The index of a catalogue: nearest embeddings in milliseconds, from a file that is mapped into memory.

A graph of small worlds (HNSW), by usearch.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from onesheet.predictor import usable_cores

if TYPE_CHECKING:
    from usearch.index import Index

    from onesheet.scoring.search import Catalogue

EXPANSION: Final = 2048
"""How many candidates a search keeps.

usearch's own 64 are few: even with 256, of a million rows (benchmarks/similar.py) every fourth neighbour was lost. So
many still take no more than some 10 ms.
"""

_ONE_BY_ONE: Final = 10_000
_FORMAT: Final = 1

Advance = Callable[[int, int | None], None]


class IndexStore:
    """The index of a catalogue: `*.usearch` beside it, and `*.usearch.json`, which says what both files were then.

    usearch maps the file into memory and trusts it, so that a damaged one would end the process. What is not exactly
    the file that was written is therefore never opened.

    Args:
        catalogue: Whose.
    """

    def __init__(self, catalogue: Catalogue) -> None:
        self._catalogue = catalogue
        self.file = catalogue.path.with_name(f"{catalogue.path.name}.usearch")
        self._about = self.file.with_name(f"{self.file.name}.json")

    def open(self, size: int) -> Index | None:
        """The index as it is on the disk, mapped into memory; None if it has to be made (again).

        Args:
            size: D of the embeddings.

        Raises:
            ImportError: There is no usearch.
        """
        index = _new_index(size)
        try:
            about = json.loads(self._about.read_bytes())
            if about != self._describe(self.file, size, about["rows"]):
                return None
            index.view(self.file)
        except (OSError, ValueError, TypeError, KeyError, RecursionError, RuntimeError):
            return None
        return index

    def build(self, size: int, on_progress: Advance | None = None) -> Index:
        """Make the index; it appears under its name when it is whole.

        Args:
            size: D of the embeddings.
            on_progress: Called with rows done and rows in all.

        Raises:
            ImportError: There is no usearch.
            OSError: It cannot be written.
            DataError: See `Catalogue.embeddings`.
        """
        index, total = _new_index(size), self._catalogue.rows
        # Made first, as nobody wants to hear after minutes that the folder takes no files.
        with tempfile.TemporaryDirectory(dir=self.file.parent, prefix=f".{self.file.name}-") as scratch:
            for rows, embeddings in self._catalogue.embeddings(size):
                # Those that are added at the same moment do not see each other. While there are few, some would have
                # no neighbour at all, and never be found.
                threads = 1 if len(index) < _ONE_BY_ONE else usable_cores()
                index.add(rows.astype(np.uint64), embeddings, threads=threads)
                if on_progress:
                    on_progress(len(index), total)
            made, about = Path(scratch, "index"), Path(scratch, "about")
            try:
                index.save(made)
            except RuntimeError as error:  # usearch has no other
                raise OSError(str(error)) from error
            about.write_text(json.dumps(self._describe(made, size, len(index))), encoding="utf-8")
            # Between these two lines the description is of another file, and nobody opens the index.
            made.replace(self.file)
            about.replace(self._about)
        if on_progress:
            on_progress(total, total)
        return index

    def _describe(self, file: Path, size: int, rows: int) -> dict[str, Any]:
        """Both files; of the index all but the embeddings, which come first in it and cannot lead a search astray."""
        embeddings = rows * size * np.dtype(np.float16).itemsize
        return {
            "format": _FORMAT,
            "rows": rows,
            "catalogue": self._catalogue.fingerprint,
            "index": fingerprint(file, file.stat(), embeddings),
        }


def _new_index(size: int) -> Index:
    from usearch.index import Index

    return Index(ndim=size, metric="cos", dtype="f16", expansion_search=EXPANSION)


def fingerprint(path: Path, state: os.stat_result, start: int) -> dict[str, Any]:
    """Size, time of the last change, and the sha256 of all from byte `start` on."""
    with path.open("rb") as file:
        file.seek(start)
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return {"bytes": state.st_size, "changed": state.st_mtime_ns, "sha256": digest}
