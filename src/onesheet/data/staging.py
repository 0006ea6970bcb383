"""The folder beside the final one in which a data set grows until it is whole."""

from __future__ import annotations

import errno
import json
import os
import shutil
import stat
import sys
import tempfile
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, TYPE_CHECKING

from onesheet.data.labels import IMAGES_FOLDER
from onesheet.data.receipt import RECEIPT_FILE, FetchReceipt
from onesheet.data.sources.base import SourceFile
from onesheet.data.sources.naming import STAGING_SUFFIX
from onesheet.errors import FetchError, reason
from onesheet.locks import lock as hold

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

_WORK = ".work"
_INCOMING = ".incoming"


class Staging:
    """`<out>.partial`, in the hands of one process; a receipt that names only the source marks it as ours.

    Attributes:
        path: The folder.
        work: Folder for the source's intermediate files, inside it.
    """

    def __init__(self, out: Path) -> None:
        self.path = _beside(out, STAGING_SUFFIX)
        self.work = self.path / _WORK
        self._out = out

    @contextmanager
    def begin(self, source: str) -> Iterator[Staging]:
        """Take up what an earlier fetch of the same source has left, or begin with nothing.

        What is left at the end stays, unless it is nothing.

        Raises:
            FetchError: The folder exists but is not ours.
        """
        if self._left_by() != source:
            with suppress(FileNotFoundError):
                _remove(self.path)
        self.path.mkdir(parents=True, exist_ok=True)
        self.write(RECEIPT_FILE, _to_json({"source": source}))
        (self.path / IMAGES_FOLDER).mkdir(exist_ok=True)
        try:
            yield self
        finally:
            if {path.name for path in self.path.rglob("*") if path.is_file()} == {RECEIPT_FILE}:
                shutil.rmtree(self.path)

    def holds(self, file: SourceFile) -> bool:
        """Whether the file is here already, with the size and hash that the source tells."""
        path = self.path / file.name
        return path.is_file() and file.matches(path.read_bytes())

    def write(self, name: str, content: bytes) -> None:
        """Write a file so that it is there as a whole or not at all."""
        incoming = self.path / _INCOMING
        incoming.write_bytes(content)
        incoming.replace(self.path / name)

    def publish(self, names: Iterable[str], receipt: FetchReceipt) -> None:
        """Give the finished data set its final name; an earlier one of that name is removed afterwards."""
        self._keep_only({*names, RECEIPT_FILE})
        self.write(RECEIPT_FILE, _to_json(receipt.to_dict()))
        put_in_place(self.path, self._out)

    def _left_by(self) -> str | None:
        """The source of what is here; None if nothing is."""
        if not self.path.exists() or {path.name for path in self.path.iterdir()} <= {_INCOMING}:
            return None
        try:
            return str(json.loads((self.path / RECEIPT_FILE).read_bytes())["source"])
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise FetchError(f"{self.path.name} is in the way: no interrupted fetch left it") from error

    def _keep_only(self, names: set[str]) -> None:
        if self.work.exists():
            _remove(self.work)
        for path in [*self.path.iterdir(), *(self.path / IMAGES_FOLDER).iterdir()]:
            if path.is_file() and path.relative_to(self.path).as_posix() not in names:
                path.unlink()


def put_in_place(made: Path, out: Path) -> None:
    """Give a finished folder its final name; an earlier one of that name is removed afterwards."""
    if not out.exists():
        made.rename(out)
        return
    aside = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.parent))
    earlier = out.rename(aside / out.name)
    try:
        made.rename(out)
    except OSError:
        earlier.rename(out)
        raise
    shutil.rmtree(aside)


@contextmanager
def exclusive(out: Path, shown: str) -> Iterator[None]:
    """Be the only fetch into `out`. The lock dies with its process, however that ends.

    Raises:
        FetchError: Another process is at it.
    """
    path = _beside(out, ".lock")
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as lock:
        if not _acquire(lock, path):
            raise FetchError(f"another fetch into {shown} is running")
        try:
            yield
        finally:
            if sys.platform != "win32":  # which removes nothing that is open
                path.unlink()


def _acquire(lock: IO[str], path: Path) -> bool:
    try:
        hold(lock)
        # The holder before us may have removed the file between our opening and our locking it.
        return os.path.samestat(os.fstat(lock.fileno()), path.stat())
    except (BlockingIOError, FileNotFoundError):
        return False


def _remove(folder: Path) -> None:
    if sys.platform == "win32":  # which keeps what may not be written to, as git makes its objects
        for path in folder.rglob("*"):
            path.chmod(stat.S_IWRITE)
    shutil.rmtree(folder)


@contextmanager
def disk_errors(shown: str) -> Iterator[None]:
    """Turn what the disk says into one line.

    Raises:
        FetchError: In place of any `OSError`.
    """
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            kept = f"what has been fetched is kept in {shown}{STAGING_SUFFIX}"
            raise FetchError(f"the disk is full; {kept}: make room and run it again") from error
        raise FetchError(f"cannot write {shown}: {reason(error)}") from error


def _beside(out: Path, suffix: str) -> Path:
    return out.with_name(out.name + suffix)


def _to_json(values: dict[str, object]) -> bytes:
    return (json.dumps(values, indent=2) + "\n").encode()
