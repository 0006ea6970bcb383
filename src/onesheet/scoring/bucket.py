"""The pictures below an address of Cloud Storage."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache, partial
from typing import Any, Final

from onesheet.cloud.transfer.bucket import Bucket, Place, connect, explained, open_bucket
from onesheet.errors import ImageNotFoundError
from onesheet.image import ImageLimits
from onesheet.scoring.listing import ListedSource

_ROLE: Final = "roles/storage.objectViewer"


class BucketSource(ListedSource):
    """All objects below an address that are pictures by their names.

    Args:
        address: `gs://BUCKET/PREFIX`, where the prefix is a folder.
        limits: What is accepted as a poster.

    Raises:
        TransferError: It is no such address.
    """

    is_remote = True

    def __init__(self, address: str, limits: ImageLimits) -> None:
        self._place, self._limits = Place.parse(address), limits
        self.identity: dict[str, Any] = {"kind": "bucket", "place": str(self._place)}

    def _reader(self, name: str) -> Callable[[], bytes]:
        address = f"gs://{self._place.bucket}/{self._place.below}{name}"
        return partial(read_object, address, self._limits.max_bytes)

    def _names(self) -> Iterator[str]:
        below = self._place.below
        with open_bucket(self._place, _ROLE) as bucket:
            yield from (blob.name.removeprefix(below) for blob in bucket.listing(below) if not blob.name.endswith("/"))


def read_object(address: str, max_bytes: int) -> bytes:
    """An object, no further than one byte beyond what is accepted.

    Only what is wrong with this one is an error of its row. While the bucket cannot be reached, or may not be read, the
    work as a whole has to stop.

    Raises:
        ImageNotFoundError: There is no such object.
        TransferError: The bucket cannot be read.
    """
    place = Place.parse(address)
    with explained(place, _ROLE):
        from google.api_core.exceptions import NotFound, RequestRangeNotSatisfiable

        bucket = _bucket(place.bucket)
        try:
            content: bytes = bucket.blob(place.name).download_as_bytes(
                end=max_bytes, raw_download=True, checksum=None, **bucket.ask
            )
        except NotFound as error:
            raise ImageNotFoundError("there is no such object") from error
        except RequestRangeNotSatisfiable:  # there is no first byte
            return b""
        return content


@cache
def _bucket(name: str) -> Bucket:
    """For the whole process; Google's client may be shared by threads."""
    return Bucket(connect(), name)
