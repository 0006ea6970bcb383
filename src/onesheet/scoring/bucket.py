"""The pictures below an address of Cloud Storage."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from functools import cache, partial
from typing import Any, Final

from onesheet.cloud.transfer.bucket import Bucket, Place, connect, explained, open_bucket
from onesheet.errors import ImageNotFoundError, MissingExtraError, TransferError, UrlFetchError
from onesheet.image import ImageLimits
from onesheet.scoring.rows import Entry, Row, shown, why_skipped

_ROLE: Final = "roles/storage.objectViewer"


class BucketSource:
    """All objects below an address that are pictures by their names.

    Args:
        address: `gs://BUCKET/PREFIX`, where the prefix is a folder.
        limits: What is accepted as a poster.

    Raises:
        TransferError: It is no such address.
    """

    is_remote = True
    is_shareable = True
    is_ordered = False

    def __init__(self, address: str, limits: ImageLimits) -> None:
        self._place, self._limits = Place.parse(address), limits
        self.identity: dict[str, Any] = {"kind": "bucket", "place": str(self._place)}
        self.skipped: Counter[str] = Counter()

    def entries(self) -> Iterator[Entry]:
        """See `Source`."""
        self.skipped.clear()
        below = self._place.below
        with open_bucket(self._place, _ROLE) as bucket:
            for blob in bucket.listing(below):
                name = blob.name.removeprefix(below)
                if blob.name.endswith("/"):
                    continue
                if why := why_skipped(name):
                    self.skipped[why] += 1
                else:
                    yield Entry(name, f"{blob.size}-{blob.crc32c}")

    def rows(self, entries: Iterable[Entry]) -> Iterator[Row]:
        """See `Source`."""
        top = f"gs://{self._place.bucket}/{self._place.below}"
        for entry in entries:
            read = partial(read_object, f"{top}{entry.name}", self._limits.max_bytes)
            yield Row(shown(entry.name), read, entry.etag)


def read_object(address: str, max_bytes: int, seconds: float | None = None) -> bytes:
    """An object, no further than one byte beyond what is accepted.

    Args:
        address: `gs://BUCKET/NAME`.
        max_bytes: What is accepted.
        seconds: For which a request that fails for a passing reason is repeated. (default: as `Bucket`)

    Raises:
        ImageNotFoundError: There is no such object.
        TransferError: The bucket cannot be read.
    """
    place = Place.parse(address)
    with explained(place, _ROLE):
        from google.api_core.exceptions import NotFound, RequestRangeNotSatisfiable

        bucket = _bucket(place.bucket, seconds)
        try:
            content: bytes = bucket.blob(place.name).download_as_bytes(
                end=max_bytes, raw_download=True, checksum=None, **bucket.ask
            )
        except NotFound as error:
            raise ImageNotFoundError("there is no such object") from error
        except RequestRangeNotSatisfiable:  # there is no first byte
            return b""
        return content


def read_listed_object(address: str, max_bytes: int, seconds: float) -> bytes:
    """An object that a table names among other posters, so that nothing about it concerns the others.

    Raises:
        ImageNotFoundError: There is no such object.
        UrlFetchError: The bucket cannot be read, or not within this time.
    """
    try:
        return read_object(address, max_bytes, seconds)
    except (TransferError, MissingExtraError) as error:
        raise UrlFetchError(error.message) from error


@cache
def _bucket(name: str, seconds: float | None) -> Bucket:
    """For the whole process; Google's client may be shared by threads."""
    client = _client_or_error()
    if isinstance(client, Exception):
        raise client
    return Bucket(client, name, seconds)


@cache
def _client_or_error() -> Any:
    """Google's client, or why there is none: without credentials it takes seconds to find out, for every poster."""
    from google.auth.exceptions import GoogleAuthError

    try:
        return connect()
    except GoogleAuthError as error:
        return error
