"""Answers that are rendered once for many requests."""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Final, Generic, TypeVar

from starlette.responses import Response

if TYPE_CHECKING:
    from starlette.requests import Request

# Sub-paths under which the documentation is asked for; a client may choose them where a proxy passes its headers on.
_MAX_SUB_PATHS: Final = 16

# Between two renderings, as a multiple of the time that one takes: threads of Python slow each other down.
_REST: Final = 4

_Rendered = TypeVar("_Rendered")


class Constant:
    """A body that is kept as bytes, with an ETag.

    Args:
        body: What is answered.
        media_type: Its `Content-Type`.
    """

    def __init__(self, body: bytes, media_type: str) -> None:
        self._body = body
        self._headers = {
            "Content-Type": media_type,
            "ETag": f'"{hashlib.sha256(body).hexdigest()[:32]}"',
            "Cache-Control": "private, no-cache",
        }

    def response(self, request: Request) -> Response:
        """The body, or 304 where the client has it already."""
        known = request.headers.get("If-None-Match", "")
        if self._headers["ETag"] in (tag.strip().removeprefix("W/") for tag in known.split(",")):
            return Response(status_code=304, headers=self._headers)
        return Response(self._body, headers=self._headers)


def rendered_once(endpoint: Callable[[Request], Awaitable[Response]]) -> Callable[[Request], Awaitable[Response]]:
    """An endpoint whose answer depends on nothing but the sub-path, rendered once for each."""
    rendered: dict[str, Constant] = {}

    async def answer(request: Request) -> Response:
        sub_path = request.scope.get("root_path", "")
        if sub_path not in rendered:
            if len(rendered) >= _MAX_SUB_PATHS:
                rendered.clear()
            response = await endpoint(request)
            rendered[sub_path] = Constant(bytes(response.body), response.headers["Content-Type"])
        return rendered[sub_path].response(request)

    return answer


class Coalesced(Generic[_Rendered]):
    """Renders on a thread, once for all requests that came before it began, and for a fifth of the time at most.

    Args:
        render: What takes time; never called twice at once.
    """

    def __init__(self, render: Callable[[], _Rendered]) -> None:
        self._render = render
        self._one_at_a_time = asyncio.Lock()
        self._rest_until = 0.0
        self._next: asyncio.Task[_Rendered] | None = None

    async def get(self) -> _Rendered:
        """What was rendered after this call."""
        if self._next is None:
            self._next = asyncio.create_task(self._run())
        return await asyncio.shield(self._next)

    async def _run(self) -> _Rendered:
        async with self._one_at_a_time:
            await asyncio.sleep(self._rest_until - time.monotonic())
            self._next = None
            started = time.monotonic()
            try:
                return await asyncio.to_thread(self._render)
            finally:
                ended = time.monotonic()
                self._rest_until = ended + _REST * (ended - started)
