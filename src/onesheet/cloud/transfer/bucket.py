"""A bucket of Cloud Storage: how it is asked, and what its refusals mean."""

from __future__ import annotations

import contextlib
import errno
import http.client
import logging
import re
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from dataclasses import dataclass
from itertools import islice
from typing import Any, Final, TypeVar

from onesheet.console import extra
from onesheet.errors import TransferError, reason

TIMEOUT_S = 60.0
"""Seconds for a server to answer at all, and to stay silent in the middle of an answer."""
PATIENCE_S = 120.0
"""Seconds for which a request that fails for a passing reason is repeated."""
PAUSE_S = 1.0
"""Before it is repeated for the first time; later the pauses grow."""

_WORKERS: Final = 16
_PASSING: Final = (408, 429, 500, 502, 503, 504)
_ADDRESS: Final = re.compile(r"gs://(?P<bucket>[a-z0-9][a-z0-9._-]{1,220}[a-z0-9])(?:/(?P<name>.*))?", re.DOTALL)
_LOGIN: Final = "run `gcloud auth application-default login`"

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


@dataclass(frozen=True, slots=True)
class Place:
    """An address.

    Attributes:
        bucket: Its name.
        name: Of the object or prefix; empty for the bucket.
        folder: It can only be a prefix.
    """

    bucket: str
    name: str
    folder: bool

    @classmethod
    def parse(cls, address: str) -> Place:
        """Take an address apart.

        Raises:
            TransferError: It is none.
        """
        parsed = _ADDRESS.fullmatch(address)
        if parsed is None:
            raise TransferError(f"{address} is no address like gs://bucket/folder")
        name = (parsed["name"] or "").rstrip("/")
        return cls(parsed["bucket"], name, not name or address.endswith("/"))

    @property
    def below(self) -> str:
        """What the names of all objects below it begin with."""
        return f"{self.name}/" if self.name else ""

    def __str__(self) -> str:
        return f"gs://{self.bucket}/{self.name}".rstrip("/")


class Bucket:
    """A bucket, and how it is asked: within a time, and again while that may help.

    Attributes:
        blob: Makes Google's handle of an object.
        ask: Arguments of every request.

    Args:
        client: As `connect` has made it.
        name: Of the bucket.
        patience_s: Seconds for which a request that fails for a passing reason is repeated. (default: PATIENCE_S)
    """

    def __init__(self, client: Any, name: str, patience_s: float | None = None) -> None:
        from google.api_core.retry import Retry

        patience_s = patience_s or PATIENCE_S
        self._client = client
        self._bucket = client.bucket(name)
        self._ended = threading.Event()
        retry = Retry(predicate=self._worth_repeating, initial=PAUSE_S, maximum=20.0, timeout=patience_s)
        self.blob: Callable[..., Any] = self._bucket.blob
        self.ask = {"timeout": min(TIMEOUT_S, patience_s), "retry": retry}

    def listing(self, prefix: str, delimiter: str | None = None) -> Iterator[Any]:
        """All objects whose names begin so; with a delimiter, only to where it comes next.

        Raises:
            TransferError: There is no such bucket.
        """
        from google.api_core.exceptions import NotFound

        fields = "items(name,size,crc32c,generation),nextPageToken"
        options = {"prefix": prefix, "delimiter": delimiter, "fields": fields, **self.ask}
        try:
            yield from self._client.list_blobs(self._bucket, **options)
        except NotFound as error:
            raise TransferError(f"there is no bucket gs://{self._bucket.name}") from error

    def find(self, place: Place) -> Any | None:
        """The object of exactly this name."""
        return None if place.folder else self._bucket.get_blob(place.name, **self.ask)

    def parallel(self, work: Callable[[_Item], _Result], items: Iterable[_Item]) -> Iterator[_Result]:
        """What `work` makes of each item, as it comes; after an error nothing more is begun."""
        waiting = iter(items)
        with ThreadPoolExecutor(_WORKERS) as workers:
            try:
                running = {workers.submit(work, item) for item in islice(waiting, 2 * _WORKERS)}
                while running:
                    done, running = wait(running, return_when=FIRST_COMPLETED)
                    yield from (future.result() for future in done)
                    running |= {workers.submit(work, item) for item in islice(waiting, len(done))}
            except BaseException:
                self._ended.set()
                workers.shutdown(wait=False, cancel_futures=True)
                raise

    def check_going(self) -> None:
        """Be asked in the middle of long work.

        Raises:
            TransferError: Something else has failed, or the caller has had enough.
        """
        if self._ended.is_set():
            raise TransferError("it was ended")

    def _worth_repeating(self, error: BaseException) -> bool:
        import requests
        import urllib3
        from google.api_core.exceptions import GoogleAPICallError
        from google.auth.exceptions import TransportError
        from google.cloud.storage.exceptions import InvalidResponse

        if isinstance(error, InvalidResponse):
            # Google's library leaves the connection of a download that was refused open.
            error.response.close()
        if self._ended.is_set():
            return False
        if isinstance(error, GoogleAPICallError):
            return error.code in _PASSING
        if isinstance(error, InvalidResponse):
            return error.response.status_code in _PASSING
        broken = (requests.ConnectionError, requests.Timeout, requests.exceptions.ChunkedEncodingError)
        lower = (ConnectionError, TimeoutError, urllib3.exceptions.HTTPError, http.client.HTTPException)
        return isinstance(error, (*broken, *lower, TransportError))


@contextlib.contextmanager
def open_bucket(place: Place, role: str) -> Iterator[Bucket]:
    """Open the bucket; whatever is raised meanwhile becomes one sentence.

    Raises:
        MissingExtraError: Google's client is not installed.
        TransferError: As `explained`.
    """
    with explained(place, role), contextlib.closing(connect()) as client:
        yield Bucket(client, place.bucket)


def connect() -> Any:
    """Google's client of Cloud Storage."""
    from google.cloud.storage import Client

    # More workers than connections that are kept is nothing to warn of.
    logging.getLogger("urllib3.connectionpool").setLevel(logging.ERROR)
    # No request here needs a project, and the client would refuse to guess one.
    return Client(project=None)


@contextlib.contextmanager
def explained(place: Place, role: str) -> Iterator[None]:
    """Turn whatever is raised into one sentence.

    Args:
        place: What is asked for.
        role: What allows it.

    Raises:
        MissingExtraError: Google's client is not installed.
        TransferError: In place of errors of Google, the network and the disk, which are its cause.
    """
    with extra("gcs"):
        import google_crc32c  # noqa: F401
        import urllib3
        from google.api_core.exceptions import GoogleAPIError
        from google.auth.exceptions import GoogleAuthError

    broken = (OSError, urllib3.exceptions.HTTPError, http.client.HTTPException)
    try:
        yield
    except (GoogleAPIError, GoogleAuthError, *broken) as error:
        raise TransferError(_explain(error, place, role)) from error


def _explain(error: BaseException, place: Place, role: str) -> str:
    import requests
    from google.api_core import exceptions
    from google.auth.exceptions import GoogleAuthError, TransportError

    if isinstance(error, exceptions.RetryError) and error.cause:
        error = error.cause
    if isinstance(error, exceptions.NotFound):
        return f"somebody else has changed {place} meanwhile: run it again ({said(error)})"
    if isinstance(error, exceptions.Forbidden):
        return f"no permission for {place}: ask for the role {role} on the bucket ({said(error)})"
    if isinstance(error, exceptions.Unauthorized):
        return f"Google does not accept the credentials here ({said(error)}): {_LOGIN}"
    if isinstance(error, exceptions.ClientError) and error.code not in _PASSING:
        return f"Google refuses what was asked of {place}: {said(error)}"
    if isinstance(error, GoogleAuthError) and not isinstance(error, TransportError):
        return f"there are no Google credentials here that work: {_LOGIN}"
    if isinstance(error, OSError) and not isinstance(error, (ConnectionError, TimeoutError, requests.RequestException)):
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            return "the disk is full; what has been fetched is kept: make room and run it again"
        return f"a file here cannot be read or written: {reason(error)}"
    return f"{place} cannot be reached: {said(error)}; what got through stays: run it again to go on"


def said(error: BaseException) -> str:
    """What Google answered, or else what lies at the bottom of an error."""
    response = getattr(error, "response", None)
    if response is not None:
        try:
            return str(response.json()["error"]["message"])
        except (ValueError, LookupError, TypeError):
            return f"HTTP status {response.status_code}"
    while inner := error.__cause__ or error.__context__:
        error = inner
    return reason(error)
