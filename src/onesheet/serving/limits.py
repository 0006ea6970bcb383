"""Bodies that are too large are refused before they are kept anywhere, however they are sent."""

from __future__ import annotations

from typing import TYPE_CHECKING

from starlette.datastructures import Headers
from starlette.exceptions import HTTPException

from onesheet.serving.problems import BODY_TOO_LARGE, problem_response

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send


class BodyLimit:
    """ASGI middleware that answers 413 to a body of more than `max_bytes` bytes.

    A body that declares its length is refused unread; the others (chunked, or declared smaller than they are)
    are counted while they come in. The server discards the rest, so that the client gets to read the answer.
    """

    def __init__(self, app: ASGIApp, max_bytes: int) -> None:
        self._app = app
        self._max_bytes = max_bytes
        self._refusal = f"the request is larger than {max_bytes} bytes"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, unless its body is too large."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
        elif declared_length(scope) > self._max_bytes:
            await problem_response(BODY_TOO_LARGE, self._refusal, scope)(scope, receive, send)
        else:
            await self._app(scope, self._counted(receive), send)

    def _counted(self, receive: Receive) -> Receive:
        received = 0

        async def receive_counted() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            if received > self._max_bytes:
                raise HTTPException(BODY_TOO_LARGE.status, self._refusal)
            return message

        return receive_counted


def declared_length(scope: Scope) -> int:
    """The Content-Length in bytes; 0 when there is none, or none that can be believed."""
    value = Headers(scope=scope).get("content-length", "")
    # Cut, because Python refuses to parse thousands of digits; 19 already say "too large".
    return int(value[:19]) if value.isascii() and value.isdigit() else 0
