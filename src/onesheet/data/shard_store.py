"""Where shards lie: a folder, or a prefix in a bucket."""

from __future__ import annotations

import contextlib
import hashlib
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final, Protocol

from onesheet.cloud.transfer import exists, upload
from onesheet.cloud.transfer.bucket import Place, open_bucket
from onesheet.errors import DataError
from onesheet.locks import lock

_LOCK_FILE: Final = ".lock"
# What a stream holds of a shard in a bucket; Google's 40 MiB, times workers and processes, would be gigabytes.
_CHUNK_BYTES: Final = 8 * 2**20


@dataclass(frozen=True, slots=True)
class Shard:
    """A tar file.

    Attributes:
        name: Below the folder or address of the shards, such as `train/000000.tar`.
        samples: Number of films.
        bytes: Its size.
        sha256: Of the whole file.
    """

    name: str
    samples: int
    bytes: int
    sha256: str


class ShardStore(Protocol):
    """A folder, or a prefix in a bucket."""

    def read(self, name: str) -> bytes | None:
        """A small file; None if it is not there."""

    def stream(self, name: str) -> contextlib.AbstractContextManager[BinaryIO]:
        """A file, to be read from its beginning.

        Raises:
            DataError: It is not there.
        """

    def scratch(self) -> contextlib.AbstractContextManager[Path]:
        """A folder in which files are made that `put` takes."""

    def put(self, file: Path, name: str) -> None:
        """Move a file here; it appears as a whole or not at all."""

    def holds(self, shard: Shard) -> bool:
        """Whether a shard is here as it was written."""

    def empty(self) -> bool:
        """Whether nothing is here."""

    def __str__(self) -> str: ...


def open_store(address: str) -> ShardStore:
    """The place at an address: a folder, or gs://BUCKET/PREFIX."""
    return _Bucket(address.rstrip("/")) if address.startswith("gs://") else _Folder(Path(address))


@dataclass(frozen=True, slots=True)
class _Folder:
    path: Path

    def read(self, name: str) -> bytes | None:
        try:
            return (self.path / name).read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            return None

    @contextlib.contextmanager
    def stream(self, name: str) -> Iterator[BinaryIO]:
        try:
            file = (self.path / name).open("rb")
        except FileNotFoundError as error:
            raise DataError(f"{self}/{name} is not there: run `onesheet data shard` again") from error
        with file:
            yield file

    @contextlib.contextmanager
    def scratch(self) -> Iterator[Path]:
        self.path.mkdir(parents=True, exist_ok=True)
        with (self.path / _LOCK_FILE).open("a") as file:
            try:
                lock(file)
            except BlockingIOError as error:
                raise DataError(f"another process is writing shards to {self}") from error
            yield self.path

    def put(self, file: Path, name: str) -> None:
        file.replace(self.path / name)

    def holds(self, shard: Shard) -> bool:
        path = self.path / shard.name
        if not path.is_file() or path.stat().st_size != shard.bytes:
            return False
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest() == shard.sha256

    def empty(self) -> bool:
        return not self.path.exists() or {path.name for path in self.path.iterdir()} <= {_LOCK_FILE}

    def __str__(self) -> str:
        return str(self.path)


@dataclass(frozen=True, slots=True)
class _Bucket:
    address: str

    def read(self, name: str) -> bytes | None:
        place = self._place(name)
        with open_bucket(place, "roles/storage.objectViewer") as bucket:
            blob = bucket.find(place)
            return bytes(blob.download_as_bytes(**bucket.ask)) if blob else None

    @contextlib.contextmanager
    def stream(self, name: str) -> Iterator[BinaryIO]:
        place = self._place(name)
        with open_bucket(place, "roles/storage.objectViewer") as bucket:
            blob = bucket.find(place)
            if blob is None:
                raise DataError(f"{place} is not there: run `onesheet data shard` again")
            with blob.open("rb", chunk_size=_CHUNK_BYTES, **bucket.ask) as stream:
                yield stream

    @contextlib.contextmanager
    def scratch(self) -> Iterator[Path]:
        with tempfile.TemporaryDirectory(prefix="onesheet-") as folder:
            yield Path(folder)

    def put(self, file: Path, name: str) -> None:
        upload(file, str(self._place(name)))
        file.unlink()

    def holds(self, shard: Shard) -> bool:
        """By its size: an object appears as a whole, and what was sent was verified then."""
        place = self._place(shard.name)
        with open_bucket(place, "roles/storage.objectUser") as bucket:
            blob = bucket.find(place)
            return blob is not None and blob.size == shard.bytes

    def empty(self) -> bool:
        return not exists(self.address)

    def _place(self, name: str) -> Place:
        return Place.parse(f"{self.address}/{name}")

    def __str__(self) -> str:
        return self.address
