"""How far a fetch is, for whoever shows it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Progress:
    """A moment of a fetch.

    Attributes:
        step: What is being done: `listing`, `downloading` or `verifying`.
        done_files: Files finished in this step.
        total_files: Files of this step; None while it is not known.
        done_bytes: Bytes finished in this step.
        total_bytes: Bytes of this step; None where the source does not tell.
    """

    step: str
    done_files: int = 0
    total_files: int | None = None
    done_bytes: int = 0
    total_bytes: int | None = None


Report = Callable[[Progress], None]
"""Called from the thread that called `fetch`, at least once a file."""


def silent(progress: Progress) -> None:
    """The report of whoever does not want one."""


class Meter:
    """Counts one step and reports every count."""

    def __init__(self, report: Report, start: Progress) -> None:
        self._report = report
        self._start = start
        self._files = start.done_files
        self._bytes = start.done_bytes
        report(start)

    def add(self, size: int) -> None:
        """One more file of `size` bytes is finished."""
        self._files += 1
        self._bytes += size
        self._report(
            Progress(self._start.step, self._files, self._start.total_files, self._bytes, self._start.total_bytes)
        )
