"""HTTP/1.1 for clients that cannot be trusted to hurry, or to stop: uvicorn's own, with bounds that it lacks.

uvicorn bounds neither the time nor the size of request line and headers, nor the time of a body that nobody reads;
one that is read is `BodyLimit`'s business.
"""

from __future__ import annotations

import asyncio
from http import HTTPStatus
from typing import Any, ClassVar, Final

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

HEAD_SECONDS: Final = 10
HEAD_BYTES: Final = 32 * 1024
# More than the settings allow to a body that is read.
BODY_SECONDS: Final = 90


class BoundedHttpProtocol(HttpToolsProtocol):
    """Closes a connection whose next request does not come in time, or whose headers do not end.

    Attributes:
        open_connections: Those of this process.

    Raises nothing; the client reads 408 or 431 if it still reads and has no answer yet.
    """

    open_connections: ClassVar[int] = 0

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._head_timer: asyncio.TimerHandle | None = None
        self._head_bytes = 0
        self._body_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """From here on the first request is expected."""
        BoundedHttpProtocol.open_connections += 1
        super().connection_made(transport)
        self._expect_head()

    def data_received(self, data: bytes) -> None:
        """Called for every piece that arrives, at most 256 kB of it at once."""
        super().data_received(data)
        if self._head_timer is not None:
            self._head_bytes += len(data)
            if self._head_bytes > HEAD_BYTES:
                self._refuse(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE)

    def on_message_begin(self) -> None:
        """Called at the first byte of a request."""
        super().on_message_begin()
        self._expect_head()

    def on_headers_complete(self) -> None:
        """Called after the empty line that ends the headers."""
        self._forget_head()
        self._body_timer = self.loop.call_later(BODY_SECONDS, self.transport.close)
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        """Called at the last byte of a request."""
        self._forget_body()
        super().on_message_complete()

    def connection_lost(self, exc: Exception | None) -> None:
        """Whoever closed it."""
        self._forget_head()
        self._forget_body()
        BoundedHttpProtocol.open_connections -= 1
        super().connection_lost(exc)

    def _expect_head(self) -> None:
        self._forget_head()
        self._head_bytes = 0
        self._head_timer = self.loop.call_later(HEAD_SECONDS, self._refuse, HTTPStatus.REQUEST_TIMEOUT)

    def _forget_head(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _forget_body(self) -> None:
        if self._body_timer is not None:
            self._body_timer.cancel()
            self._body_timer = None

    def _refuse(self, status: HTTPStatus) -> None:
        self._forget_head()
        if not self.transport.is_closing():
            head = f"HTTP/1.1 {status.value} {status.phrase}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
            self.transport.write(head.encode())
            self.transport.close()
