"""A folder, a bucket, or any other place that fsspec can list and read."""

from __future__ import annotations

import base64
import logging
import os
import socket
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from onesheet.data.sources.base import Checksum, SourceFile, need_extra, retry
from onesheet.data.sources.naming import STAGING_SUFFIX, dataset_names
from onesheet.errors import FetchError, reason
from onesheet.system_files import is_system_name

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

MAX_DEPTH = 4
"""How many folders deep a picture may lie; guards against walking a whole disk."""
READERS = 16
CONNECT_S = 5.0
GOOGLE_ENDPOINT = "https://storage.googleapis.com"


Listing = dict[str, dict[str, Any]]
"""Path → what fsspec knows of the file: `name`, `size`, and more on some systems."""


class _DamagedError(OSError):
    """What arrived is not what was listed."""


class LocationSource:
    """Reads a data set through fsspec.

    Args:
        filesystem: An fsspec file system; used from several threads.
        root: Path in it.
        name: How the source may be called in an error.
        errors: What the file system raises when it cannot answer.
        listing: Lists all files below the root, as `find` of the file system does, which is the default.
    """

    def __init__(
        self,
        filesystem: Any,
        root: str,
        name: str,
        errors: tuple[type[Exception], ...],
        listing: Callable[[str], Listing] | None = None,
    ) -> None:
        self._filesystem = filesystem
        self._root = root.rstrip("/")
        self._name = name
        self._errors = errors
        self._listing = listing or self._find

    def files(self) -> list[SourceFile]:
        """See `Source.files`."""
        try:
            details = self._listing(self._root)
        except self._errors as error:
            raise FetchError(f"cannot list {self._name}: {reason(error)}") from error
        below = {path.removeprefix(self._root).lstrip("/"): info for path, info in details.items()}
        return [
            SourceFile(name, below[path]["name"], below[path].get("size"), _listed_checksum(below[path]))
            for name, path in dataset_names(below, self._name).items()
        ]

    def read(self, files: Sequence[SourceFile]) -> Iterator[tuple[SourceFile, bytes]]:
        """See `Source.read`."""
        with ThreadPoolExecutor(READERS) as readers:
            yield from zip(files, readers.map(self._read_file, files), strict=True)

    def _find(self, root: str) -> Listing:
        listing: Listing = self._filesystem.find(root, maxdepth=MAX_DEPTH, detail=True)
        return listing

    def _read_file(self, file: SourceFile) -> bytes:
        try:
            return retry(lambda: self._read_once(file), (ConnectionError, TimeoutError, _DamagedError))
        except self._errors as error:
            raise FetchError(f"cannot read {file.name} from {self._name}: {reason(error)}") from error

    def _read_once(self, file: SourceFile) -> bytes:
        content: bytes = self._filesystem.cat_file(file.key)
        if not file.matches(content):
            raise _DamagedError("it differs from its listed size or hash")
        return content


def open_location(source: str, name: str) -> LocationSource:
    """Open a folder, or an address `protocol://…` that fsspec knows.

    Raises:
        FetchError: There is no such folder, the protocol is not known, or its host does not answer.
        MissingExtraError: The library for it is not installed.
    """
    need_extra("fsspec", "data")
    if source.startswith(("gs://", "gcs://")):
        return _open_bucket(source, name)
    import fsspec

    try:
        filesystem, root = fsspec.url_to_fs(source if "://" in source else str(Path(source).expanduser()))
    except (ImportError, ValueError) as error:
        raise FetchError(f"cannot open {name}: {reason(error)}") from error
    if "file" not in filesystem.protocol:
        return LocationSource(filesystem, root, name, (OSError, ValueError))
    if not Path(root).is_dir():
        raise FetchError(f"no folder named {name}")
    return LocationSource(filesystem, root, name, (OSError,), _walk_folder)


def _walk_folder(root: str) -> Listing:
    """As fsspec lists a folder, but through links to folders, and without pipes and hidden or system folders."""
    listing: Listing = {}
    for folder, subfolders, names in os.walk(root, followlinks=True):
        depth = len(Path(folder).relative_to(root).parts)
        hidden = {
            name for name in subfolders if name.startswith(".") or name.endswith(STAGING_SUFFIX) or is_system_name(name)
        }
        subfolders[:] = set(subfolders) - hidden if depth + 1 < MAX_DEPTH else []
        for path in (Path(folder, name) for name in names):
            if path.is_file():
                listing[str(path)] = {"name": str(path), "size": path.stat().st_size}
    return listing


def _open_bucket(source: str, name: str) -> LocationSource:
    need_extra("gcsfs", "gcs")
    _check_reachable(_google_endpoint(), name)
    import aiohttp
    import gcsfs
    from google.api_core.exceptions import GoogleAPIError
    from google.auth.exceptions import GoogleAuthError

    # They log every error, with a traceback, before they raise it; ours says it once, in a line.
    for noisy in ("gcsfs", "google.auth"):
        logging.getLogger(noisy).setLevel(logging.CRITICAL)
    errors = (
        OSError,
        ValueError,
        aiohttp.ClientError,
        gcsfs.retry.ChecksumError,
        gcsfs.retry.HttpError,
        gcsfs.retry.NonRetryableError,
        GoogleAPIError,
        GoogleAuthError,
    )
    filesystem = gcsfs.GCSFileSystem(skip_instance_cache=True, use_listings_cache=False)
    return LocationSource(filesystem, filesystem._strip_protocol(source), name, errors)


def _google_endpoint() -> str:
    """Where gcsfs will look, in its own order."""
    from fsspec.config import conf

    endpoint = conf.get("gs", {}).get("endpoint_url") or os.environ.get("STORAGE_EMULATOR_HOST")
    if not endpoint or endpoint == "default":
        return GOOGLE_ENDPOINT
    return endpoint if "://" in endpoint else f"http://{endpoint}"


def _check_reachable(endpoint: str, name: str) -> None:
    """Fail in seconds: without this gcsfs tries for most of a minute."""
    address = urlsplit(endpoint)
    port = address.port or (443 if address.scheme == "https" else 80)
    try:
        socket.create_connection((address.hostname or "", port), CONNECT_S).close()
    except OSError as error:
        raise FetchError(f"cannot reach {name}: {reason(error)} ({address.netloc})") from error


def _listed_checksum(info: dict[str, Any]) -> Checksum | None:
    """What Cloud Storage lists, in base64; composed objects have no MD5."""
    if info.get("md5Hash"):
        return Checksum("md5", base64.b64decode(info["md5Hash"]).hex())
    if info.get("crc32c"):
        return Checksum("crc32c", base64.b64decode(info["crc32c"]).hex())
    return None
