"""Limits of request bodies: size, time, and memory over all requests; applied while a body is received."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from starlette.datastructures import Headers
from starlette.exceptions import HTTPException

from onesheet.errors import OverloadedError
from onesheet.serving.context import PICTURES
from onesheet.serving.problems import BODY_TOO_LARGE, REQUEST_TIMEOUT, problem_response, retry_headers
from onesheet.serving.proxies import route_path
from onesheet.serving.shares import SharedBudget, client_of

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

# JSON becomes many times as large when it is parsed, and nothing that clients send as JSON is long.
MAX_JSON_BYTES: Final = 64 * 1024
# Of the memory for all bodies; but a client may always send one body of the largest size.
_SHARE_OF_A_CLIENT: Final = 1 / 4


class BodyLimit:
    """ASGI middleware: 413 for a body that is too large, 408 for a slow one, 429 or 503 where there is no room for it.

    A body that declares a larger length is refused unread. Memory is counted as bytes arrive, whatever was declared,
    until the request is answered. The server discards the rest of a refused body, so that the client gets to read the
    answer.

    `request.state.hold` counts further bytes that a request needs, such as those of a fetched picture.

    Args:
        app: What reads the bodies.
        max_bytes: Largest body; of bodies that are no pictures, see `MAX_JSON_BYTES`.
        max_bytes_at_once: Of all requests under way.
        seconds: From the end of the headers to the end of the body.
    """

    def __init__(self, app: ASGIApp, max_bytes: int, max_bytes_at_once: int, seconds: float) -> None:
        self._app = app
        self._max_bytes = max_bytes
        self._seconds = seconds
        total = max(max_bytes, max_bytes_at_once)
        self._memory = SharedBudget(total, max(max_bytes, int(total * _SHARE_OF_A_CLIENT)), "bytes")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, unless its body is too large."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        limit = self._limit(route_path(scope), headers.get("content-type", ""))
        if _declared_length(headers) > limit:
            await problem_response(BODY_TOO_LARGE, _refusal(limit), scope)(scope, receive, send)
            return
        with self._memory.holding(client_of(scope)) as hold:
            scope.setdefault("state", {})["hold"] = hold
            await self._app(scope, self._bounded(receive, limit, hold), send)

    def _limit(self, path: str, content_type: str) -> int:
        is_picture = path in PICTURES and not content_type.lower().startswith("application/json")
        return self._max_bytes if is_picture else min(self._max_bytes, MAX_JSON_BYTES)

    def _bounded(self, receive: Receive, limit: int, hold: Callable[[int], None]) -> Receive:
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
            size = len(message.get("body", b""))
            received += size
            if received > limit:
                raise HTTPException(BODY_TOO_LARGE.status, _refusal(limit))
            try:
                hold(size)
            except OverloadedError as error:
                # FastAPI takes any other exception for a malformed body.
                raise HTTPException(error.status, error.message, retry_headers(error)) from error
            if not message.get("more_body", False):
                deadline = None  # what comes after the body is the end of the connection, whenever that may be
            return message

        return receive_bounded


def _refusal(limit: int) -> str:
    return f"the request is larger than {limit} bytes"


def _declared_length(headers: Headers) -> int:
    """The Content-Length in bytes; 0 when there is none, or none that can be believed."""
    value = headers.get("content-length", "")
    # Cut, because Python refuses to parse thousands of digits; 19 already say "too large".
    return int(value[:19]) if value.isascii() and value.isdigit() else 0
