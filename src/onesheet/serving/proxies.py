"""What reverse proxies change: the client's address, the scheme, and the sub-path that the API is served below."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from starlette.datastructures import Headers
from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Receive, Scope, Send

_PREFIX_HEADER: Final = "X-Forwarded-Prefix"
_PREFIX: Final = re.compile(r"(/[A-Za-z0-9._~-]+)+")
_MAX_PREFIX: Final = 200


class BehindProxy:
    """ASGI middleware: finds the client behind trusted proxies, and the sub-path of the API.

    The proxy may strip the sub-path or pass it on: afterwards `root_path` is the sub-path and `path` begins with it, as
    ASGI wants it.

    Args:
        app: The application.
        proxies: Addresses and networks whose `X-Forwarded-…` headers are believed; `*`: of every peer.
        root_path: The sub-path, such as `/films`; empty: what a trusted proxy sends as `X-Forwarded-Prefix`.
    """

    def __init__(self, app: ASGIApp, proxies: list[str], root_path: str) -> None:
        self._headers = ProxyHeadersMiddleware(app, trusted_hosts=proxies)  # type: ignore[arg-type]
        self._root_path = root_path

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on with what was found."""
        if scope["type"] == "http" and (prefix := self._root_path or self._forwarded_prefix(scope)):
            scope["root_path"] = prefix
            if not f"{scope['path']}/".startswith(f"{prefix}/"):
                scope["path"] = prefix + scope["path"]
        await self._headers(scope, receive, send)  # type: ignore[arg-type]

    def _forwarded_prefix(self, scope: Scope) -> str:
        peer = scope["client"][0] if scope.get("client") else None
        if peer not in self._headers.trusted_hosts:
            return ""
        prefix = Headers(scope=scope).get(_PREFIX_HEADER, "").rstrip("/")
        return prefix if len(prefix) <= _MAX_PREFIX and _PREFIX.fullmatch(prefix) else ""


def route_path(scope: Scope) -> str:
    """The path of a request below the sub-path, as routes name it."""
    path: str = scope["path"]
    return path.removeprefix(scope.get("root_path", ""))
