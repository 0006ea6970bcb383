"""What surrounds every request: its id, its line in the log, and an answer even when the code is wrong."""

from __future__ import annotations

import re
import time
from typing import TYPE_CHECKING, Final
from urllib.parse import quote
from uuid import uuid4

import structlog
from starlette.datastructures import Headers, MutableHeaders

from onesheet.serving.problems import INTERNAL_ERROR, problem_response

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send
    from structlog.typing import FilteringBoundLogger

HEADER: Final = "X-Request-ID"

_ACCEPTED_ID: Final = re.compile(r"[A-Za-z0-9._-]{1,64}")

logger: FilteringBoundLogger = structlog.get_logger(__name__)


class RequestContext:
    """ASGI middleware: binds and returns the request id, logs one line, makes an unexpected error a 500."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, and say what became of it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request_id = _request_id(Headers(scope=scope).get(HEADER, ""))
        status: int | None = None

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                MutableHeaders(scope=message)[HEADER] = request_id
            await send(message)

        started = time.perf_counter()
        with structlog.contextvars.bound_contextvars(request_id=request_id):
            try:
                await self._app(scope, receive, send_with_id)
            except Exception:
                logger.exception("unexpected error")
                if status is None:
                    response = problem_response(INTERNAL_ERROR, "the server's log says more", scope)
                    await response(scope, receive, send_with_id)
            finally:
                logger.info(
                    "request",
                    method=scope["method"],
                    path=quote(scope["path"]),
                    status=status,
                    duration_ms=round((time.perf_counter() - started) * 1000, 1),
                )


def _request_id(proposed: str) -> str:
    """The client's own id where it is harmless in logs and headers, else a new one."""
    return proposed if _ACCEPTED_ID.fullmatch(proposed) else uuid4().hex
