"""From this machine to a bucket."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, Final

from onesheet.cloud.transfer import files
from onesheet.cloud.transfer.bucket import Bucket, said
from onesheet.cloud.transfer.files import MARK, Piece, cut, state_of, unchanged
from onesheet.errors import TransferError

_ATTEMPTS: Final = 3
_COMPOSE_LIMIT: Final = 32
_CHUNK_BYTES: Final = 2**20
# Google's library sends up to 8 MiB in one request and holds them twice meanwhile, times the workers.
_IN_MEMORY_BYTES: Final = 2**20
_ONE_REQUEST_BYTES: Final = 8 * 2**20
_SESSION_LOST: Final = (400, 404, 410)
_TYPE: Final = "application/octet-stream"


class Section(io.RawIOBase):
    """A stretch of an open file, like a file of its own, as far as Google's library reads one."""

    def __init__(self, file: BinaryIO, piece: Piece) -> None:
        self._file, self._start, self._size, self._at = file, piece.start, piece.size, 0

    def tell(self) -> int:
        """How far it was read."""
        return self._at

    def read(self, size: int = -1) -> bytes:
        """What comes next."""
        left = self._size - self._at
        self._file.seek(self._start + self._at)
        content = self._file.read(left if size < 0 else min(size, left))
        self._at += len(content)
        return content


class Sending:
    """Sends files to a bucket.

    Args:
        bucket: Where they go.
        there: What is there already, by name.

    Attributes:
        sent: What has to be there now.
    """

    def __init__(self, bucket: Bucket, there: dict[str, Any]) -> None:
        self.sent: list[Piece] = []
        self._bucket = bucket
        self._there = there
        self._parts: dict[str, set[str]] = {}
        for name in there:
            if MARK in name:
                self._parts.setdefault(name.partition(MARK)[0], set()).add(name)

    def send_all(self, wanted: dict[str, Path]) -> Iterator[int | None]:
        """The bytes sent of each file, or None if it was there already."""
        large = {name: path for name, path in wanted.items() if state_of(path).st_size > files.PART_BYTES}
        small = [item for item in wanted.items() if item[0] not in large]
        yield from self._bucket.parallel(lambda item: self._send(*item), small)
        # One after the other, for their parts need all workers.
        for name, path in large.items():
            yield self._send(name, path)

    def _send(self, name: str, path: Path) -> int | None:
        with unchanged(path):
            whole, parts = cut(path, name)
            moved = None
            if not whole.is_in(self._there.get(name)):
                moved = self._put_parts(path, whole, parts) if len(parts) > 1 else self._put(path, whole).size
        self._remove_parts(name)
        self.sent.append(whole)
        return moved

    def _put(self, path: Path, piece: Piece) -> Any:
        """Send a stretch of a file, until the server says of the object what it should."""
        from google.api_core.exceptions import GoogleAPICallError, PreconditionFailed
        from google.auth.exceptions import GoogleAuthError
        from google.cloud.storage.exceptions import DataCorruption

        failed: Exception | None = None
        # Google's library cannot go on with some uploads that were interrupted; these are begun anew.
        for _ in range(_ATTEMPTS):
            self._bucket.check_going()
            blob = self._bucket.blob(piece.name, chunk_size=_CHUNK_BYTES)
            try:
                with path.open("rb") as file:
                    blob.upload_from_file(
                        Section(file, piece),
                        size=None if _IN_MEMORY_BYTES < piece.size <= _ONE_REQUEST_BYTES else piece.size,
                        content_type=_TYPE,
                        checksum="crc32c",
                        if_generation_match=self._generation(piece.name),
                        **self._bucket.ask,
                    )
            except PreconditionFailed:
                return self._written(blob, piece)
            except (ValueError, DataCorruption, GoogleAPICallError) as error:
                if isinstance(error, GoogleAuthError) or getattr(error, "code", None) not in (None, *_SESSION_LOST):
                    raise
                failed = error
            else:
                if piece.is_in(blob):
                    return blob
        answer = f": {said(failed)}" if isinstance(failed, GoogleAPICallError) else ""
        raise TransferError(f"{path.name} does not arrive in the bucket as it is here{answer}") from failed

    def _put_parts(self, path: Path, whole: Piece, parts: list[Piece]) -> int:
        missing = [part for part in parts if not part.is_in(self._there.get(part.name))]
        self._parts.setdefault(whole.name, set()).update(part.name for part in parts)
        made = {blob.name: blob for blob in self._bucket.parallel(partial(self._put, path), missing)}
        self._compose(whole, [made.get(part.name) or self._there[part.name] for part in parts])
        return sum(part.size for part in missing)

    def _compose(self, whole: Piece, sources: list[Any]) -> None:
        from google.api_core.exceptions import PreconditionFailed

        level = 0
        while len(sources) > _COMPOSE_LIMIT:
            level += 1
            groups = [sources[start : start + _COMPOSE_LIMIT] for start in range(0, len(sources), _COMPOSE_LIMIT)]
            sources = [self._bucket.blob(f"{whole.name}{MARK}{level}r{number}") for number in range(len(groups))]
            for blob, group in zip(sources, groups, strict=True):
                self._parts[whole.name].add(blob.name)
                blob.compose(group, **self._bucket.ask)
        blob = self._bucket.blob(whole.name)
        blob.content_type = _TYPE
        try:
            blob.compose(sources, if_generation_match=self._generation(whole.name), **self._bucket.ask)
        except PreconditionFailed:
            self._written(blob, whole)
        if not whole.is_in(blob):
            raise TransferError(f"the parts of {whole.name} do not make up what is here: run it again")

    def _written(self, blob: Any, piece: Piece) -> Any:
        """Tell whether it was an answer of ours that got lost, or somebody else who wrote the object."""
        blob.reload(**self._bucket.ask)
        if not piece.is_in(blob):
            raise TransferError(f"{piece.name} was written by somebody else meanwhile: run it again")
        return blob

    def _generation(self, name: str) -> int:
        """Of what is to be replaced; 0 if nothing is."""
        return self._there[name].generation if name in self._there else 0

    def _remove_parts(self, name: str) -> None:
        list(self._bucket.parallel(self._remove, self._parts.pop(name, ())))

    def _remove(self, name: str) -> None:
        from google.api_core.exceptions import NotFound

        with contextlib.suppress(NotFound):
            self._bucket.blob(name).delete(**self._bucket.ask)


def verify(sent: Iterable[Piece], listing: Iterable[Any]) -> None:
    """Compare what was sent with what is there.

    Raises:
        TransferError: Something is not there, or not as it was sent.
    """
    found = {blob.name: blob for blob in listing}
    for piece in sorted(sent, key=lambda piece: piece.name):
        if not piece.is_in(found.get(piece.name)):
            raise TransferError(f"{piece.name} is not in the bucket as it was sent: run it again")
