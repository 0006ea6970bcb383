"""Files between this machine and Cloud Storage: only what is missing, verified, and gone on with after any end."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from onesheet.cloud.transfer.bucket import Place, open_bucket
from onesheet.cloud.transfer.fetching import fetch, remove_stale, wanted_files
from onesheet.cloud.transfer.files import is_file, local_files, readable
from onesheet.cloud.transfer.sending import Sending, verify

OnFile = Callable[[int, int | None], None]


@dataclass(frozen=True, slots=True)
class Transferred:
    """What has come of it.

    Attributes:
        files: Sent.
        skipped: Were there already.
        bytes: Sent.
    """

    files: int
    skipped: int
    bytes: int


def upload(source: Path, address: str, on_file: OnFile | None = None) -> Transferred:
    """Send a folder, or a file, as far as it is not there already.

    Args:
        source: All files below a folder, through links; or one file.
        address: gs://BUCKET/PREFIX for a folder, the object's own address for a file.
        on_file: Called with (done, total) in the thread of the caller.

    Raises:
        MissingExtraError: Google's client is not installed.
        TransferError: It cannot be read, or has not arrived as it is here. What has arrived stays.
    """
    place = Place.parse(address)
    with readable(source):
        files = local_files(source, place)
    with open_bucket(place, "roles/storage.objectUser") as bucket:
        prefix = {"prefix": place.below} if source.is_dir() else {"prefix": place.name, "delimiter": "/"}
        sending = Sending(bucket, {blob.name: blob for blob in bucket.listing(**prefix)})
        done = _counted(sending.send_all(files), len(files), on_file)
        if done.files:
            verify(sending.sent, bucket.listing(**prefix))
    return done


def download(address: str, target: Path, on_file: OnFile | None = None) -> Transferred:
    """Fetch everything below an address, or the one object that lies there, as far as it is not here already.

    Each file appears under its name in one step, when all of it is here and verified.

    Args:
        address: gs://BUCKET/PREFIX or gs://BUCKET/OBJECT; with a slash at its end it never means an object.
        target: Folder or file to make.
        on_file: Called with (done, total) in the thread of the caller.

    Raises:
        MissingExtraError: Google's client is not installed.
        TransferError: There is nothing, a name is not safe to write, it does not arrive whole, or the disk refuses.
            What has been fetched is kept.
    """
    place = Place.parse(address)
    with open_bucket(place, "roles/storage.objectViewer") as bucket:
        wanted = wanted_files(bucket, place, target)
        done = _counted(bucket.parallel(partial(fetch, bucket), wanted.items()), len(wanted), on_file)
        remove_stale(wanted)
    return done


def exists(address: str) -> bool:
    """Whether any object has this name, or lies below it.

    Raises:
        MissingExtraError: Google's client is not installed.
        TransferError: Nobody can tell; there may be no such bucket.
    """
    place = Place.parse(address)
    with open_bucket(place, "roles/storage.objectViewer") as bucket:
        return bucket.find(place) is not None or any(is_file(blob.name) for blob in bucket.listing(place.below))


def _counted(results: Iterator[int | None], total: int, on_file: OnFile | None) -> Transferred:
    """Sum up: of each file the bytes that were moved, or None if it was there already."""
    files = skipped = moved = 0
    for result in results:
        files, skipped, moved = files + (result is not None), skipped + (result is None), moved + (result or 0)
        if on_file:
            on_file(files + skipped, total)
    return Transferred(files, skipped, moved)
