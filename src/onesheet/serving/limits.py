"""Bodies that are too large, or do not come, are refused before they are kept anywhere, however they are sent."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from starlette.datastructures import Headers
from starlette.exceptions import HTTPException

from onesheet.serving.problems import BODY_TOO_LARGE, REQUEST_TIMEOUT, problem_response

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send


class BodyLimit:
    """ASGI middleware that answers 413 to a body of more than `max_bytes` bytes, 408 to one that is not there in time.

    A body that declares its length is refused unread; the others (chunked, or declared smaller than they are)
    are counted while they come in. The server discards the rest, so that the client gets to read the answer.

    Args:
        app: What reads the bodies.
        max_bytes: Largest body.
        seconds: From the end of the headers to the end of the body.
    """

    def __init__(self, app: ASGIApp, max_bytes: int, seconds: float) -> None:
        self._app = app
        self._max_bytes = max_bytes
        self._seconds = seconds
        self._refusal = f"the request is larger than {max_bytes} bytes"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, unless its body is too large."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
        elif declared_length(scope) > self._max_bytes:
            await problem_response(BODY_TOO_LARGE, self._refusal, scope)(scope, receive, send)
        else:
            await self._app(scope, self._bounded(receive), send)

    def _bounded(self, receive: Receive) -> Receive:
        received = 0
        deadline: float | None = asyncio.get_running_loop().time() + self._seconds

        async def receive_bounded() -> Message:
            nonlocal received, deadline
            try:
                async with asyncio.timeout_at(deadline):
                    message = await receive()
            except TimeoutError as error:
                detail = f"the body did not arrive within {self._seconds:g} seconds"
                raise HTTPException(REQUEST_TIMEOUT.status, detail) from error
            received += len(message.get("body", b""))
            if received > self._max_bytes:
                raise HTTPException(BODY_TOO_LARGE.status, self._refusal)
            if not message.get("more_body", False):
                deadline = None  # what comes after the body is the end of the connection, whenever that may be
            return message

        return receive_bounded


def declared_length(scope: Scope) -> int:
    """The Content-Length in bytes; 0 when there is none, or none that can be believed."""
    value = Headers(scope=scope).get("content-length", "")
    # Cut, because Python refuses to parse thousands of digits; 19 already say "too large".
    return int(value[:19]) if value.isascii() and value.isdigit() else 0
