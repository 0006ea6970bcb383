"""The folder of a run and its copy in a bucket, which is what a job that was interrupted goes on from."""

from __future__ import annotations

import contextlib
import os
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from onesheet.cloud.transfer import upload
from onesheet.errors import TransferError, reason
from onesheet.training.record import LAST

_CHECKPOINT: Final = ".ckpt"


class RunUploads:
    """Keeps an address up to date with the folder of a run for as long as it is entered, and at the end once more.

    Args:
        run_dir: The folder; it may come later.
        address: Where it goes, gs://.
        outbox: Folder on the same disk, for copies that nobody changes while they are sent.
        seconds: Between two uploads.
        say: Told of an upload that failed; the next one makes up for it.

    Raises:
        TransferError: On leaving, if the last upload failed and nothing else did.
    """

    def __init__(
        self, run_dir: Path, address: str, outbox: Path, *, seconds: float, say: Callable[[str], None]
    ) -> None:
        self._run_dir = run_dir
        self._address = address
        self._outbox = outbox
        self._seconds = seconds
        self._say = say
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._keep_up, name="run uploads", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._ending.set()
        self._thread.join()
        try:
            self._send()
        except TransferError as failed:
            if error is None:
                raise
            self._say(f"the last upload failed as well: {failed.message}")

    def _keep_up(self) -> None:
        while not self._ending.wait(self._seconds):
            try:
                self._send()
            except TransferError as error:
                self._say(f"an upload failed, and is tried again in {self._seconds:g} s: {error.message}")

    def _send(self) -> None:
        """Send what has changed. The last checkpoint goes last: whoever finds it finds all that belongs to it."""
        try:
            folders = _snapshot(self._run_dir, self._outbox)
        except OSError as error:
            raise TransferError(f"the run's folder cannot be read: {reason(error)}") from error
        for folder in folders:
            if any(folder.iterdir()):
                upload(folder, self._address)


def _snapshot(run_dir: Path, outbox: Path) -> tuple[Path, Path]:
    """Everything but the last checkpoint, and the last checkpoint.

    It is taken first, for the same reason that it is sent last: an older checkpoint with newer curves goes on well, a
    newer one with an older best checkpoint would keep that for ever.
    """
    shutil.rmtree(outbox, ignore_errors=True)
    rest, last = outbox / "rest", outbox / "last"
    rest.mkdir(parents=True)
    last.mkdir()
    _take(run_dir / LAST, last / LAST)
    for path in sorted(run_dir.rglob("*")):
        inside = path.relative_to(run_dir)
        hidden = any(part.startswith(".") for part in inside.parts)
        if path.is_file() and not hidden and inside != Path(LAST):
            _take(path, rest / inside)
    return rest, last


def _take(source: Path, target: Path) -> None:
    """What is replaced as a whole is linked, what grows in its place is copied; what has gone meanwhile is left out."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with contextlib.suppress(FileNotFoundError):
        if source.suffix == _CHECKPOINT:
            os.link(source, target)
        else:
            shutil.copy2(source, target)
