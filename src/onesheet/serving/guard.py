"""Who may ask, and how often."""

from __future__ import annotations

import hashlib
import hmac
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from starlette.datastructures import Headers

from onesheet.serving.context import ADMIN, PROBES
from onesheet.serving.problems import RATE_LIMITED, UNAUTHORIZED, problem_response
from onesheet.serving.proxies import route_path
from onesheet.serving.shares import client_of

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Receive, Scope, Send

# Clients that are remembered; the one that was silent longest is forgotten first.
_REMEMBERED: Final = 10_000


def digest(key: str) -> str:
    """What the settings hold of an API key: keys are long and random, so one round of SHA-256 hides them."""
    return hashlib.sha256(key.encode()).hexdigest()


class RateLimiter:
    """A bucket of requests for each client, which fills up again steadily.

    Args:
        per_minute: Requests that each client may make in a minute, and at once.
        clock: Seconds, never going back.
    """

    def __init__(self, per_minute: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._size = per_minute
        self._clock = clock
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def wait(self, client: str) -> float:
        """Take one request from a client's bucket.

        Returns:
            0 when there was one, else the seconds until there is.
        """
        now = self._clock()
        left, since = self._buckets.pop(client, (float(self._size), now))
        left = min(self._size, left + (now - since) * self._size / 60)
        allowed = left >= 1
        self._buckets[client] = (left - allowed, now)
        if len(self._buckets) > _REMEMBERED:
            self._buckets.popitem(last=False)
        return 0.0 if allowed else (1 - left) * 60 / self._size


class Guard:
    """ASGI middleware: 401 without a known API key, 429 for a client that asks too often.

    Operators have a token instead of a key, see `onesheet.serving.admin`.

    Args:
        app: What is guarded.
        keys: Digests of the accepted keys; none: everybody may ask.
        per_minute: See `RateLimiter`; None: no limit.
    """

    def __init__(self, app: ASGIApp, keys: frozenset[str], per_minute: int | None) -> None:
        self._app = app
        self._keys = keys
        self._limiter = RateLimiter(per_minute) if per_minute else None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, or say why not."""
        if scope["type"] != "http" or route_path(scope) in PROBES:
            await self._app(scope, receive, send)
            return
        client = client_of(scope)
        if self._keys and not route_path(scope).startswith(ADMIN):
            found = self._known(Headers(scope=scope))
            if found is None:
                headers = {"WWW-Authenticate": "Bearer"}
                detail = "send an API key: `Authorization: Bearer KEY`, or `X-API-Key: KEY`"
                await problem_response(UNAUTHORIZED, detail, scope, headers)(scope, receive, send)
                return
            client = found
        wait = self._limiter.wait(client) if self._limiter else 0.0
        if wait > 0:
            headers = {"Retry-After": str(int(wait) + 1)}
            await problem_response(RATE_LIMITED, "too many requests", scope, headers)(scope, receive, send)
            return
        await self._app(scope, receive, send)

    def _known(self, headers: Headers) -> str | None:
        """The digest of a known key; every digest is compared, each in the same time."""
        scheme, _, token = headers.get("authorization", "").partition(" ")
        given = [digest(headers.get("x-api-key", "")), digest(token.strip() if scheme.lower() == "bearer" else "")]
        found = [known for known in self._keys for one in given if hmac.compare_digest(known, one)]
        return found[0] if found else None
