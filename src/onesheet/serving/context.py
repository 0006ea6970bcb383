"""What surrounds every request: its id, its line in the log, its count, and an answer even when the code is wrong."""

from __future__ import annotations

import re
import time
from http import HTTPStatus
from typing import TYPE_CHECKING, Final
from urllib.parse import quote
from uuid import uuid4

import structlog
from starlette.datastructures import Headers
from starlette.requests import ClientDisconnect

from onesheet.serving.problems import INTERNAL_ERROR, problem_response
from onesheet.serving.proxies import route_path

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send
    from structlog.typing import FilteringBoundLogger

    from onesheet.monitoring.metrics import Metrics

HEADER: Final = "X-Request-ID"
_HEADER: Final = HEADER.lower().encode()
# Nobody reads it; it says in the log and the metrics that there was nobody left to answer (as nginx does).
CLIENT_LEFT: Final = 499
# Asked by machines, which hold no key.
PROBES: Final = frozenset({"/livez", "/readyz", "/health", "/metrics"})
# Asked with pictures; those of BentoML's clients too.
PICTURES: Final = frozenset(
    {
        *("/predict", "/predict/batch", "/explain", "/similar"),
        *("/bento/predict", "/bento/predict_url", "/bento/predict_many"),
    }
)
# Below this, operators.
ADMIN: Final = "/admin/"

_ACCEPTED_ID: Final = re.compile(r"[A-Za-z0-9._-]{1,64}")

# Answers are data: no page may show them in a frame, guess their type, or be told where the reader came from.
_SECURITY_HEADERS: Final = (
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),
    (b"cache-control", b"no-store"),
)

logger: FilteringBoundLogger = structlog.get_logger(__name__)


class RequestContext:
    """ASGI middleware: binds and returns the request id, logs and counts, makes an unexpected error a 500."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app = app
        self._metrics = metrics

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
                given = {name for name, _ in message["headers"]}
                own = [(_HEADER, request_id.encode()), *_SECURITY_HEADERS]
                message["headers"] = [*message["headers"], *(header for header in own if header[0] not in given)]
            await send(message)

        scope.setdefault("state", {})["id"] = request_id
        started = time.perf_counter()
        self._metrics.in_flight.inc()
        with structlog.contextvars.bound_contextvars(request_id=request_id):
            try:
                await self._app(scope, receive, send_with_id)
            except ClientDisconnect:
                status = CLIENT_LEFT
            except Exception:
                logger.exception("unexpected error")
                if status is None:
                    response = problem_response(INTERNAL_ERROR, "the server's log says more", scope)
                    await response(scope, receive, send_with_id)
            finally:
                self._metrics.in_flight.dec()
                self._metrics.requests.labels(scope["method"], _route(scope), str(status)).inc()
                problem = scope["state"].get("problem")
                if problem:
                    self._metrics.refused.labels(problem).inc()
                # Probes come every few seconds and have nothing to tell while all is well.
                log = logger.debug if status == HTTPStatus.OK and route_path(scope) in PROBES else logger.info
                log(
                    "request",
                    method=scope["method"],
                    path=quote(scope["path"]),
                    status=status,
                    duration_ms=round((time.perf_counter() - started) * 1000, 1),
                    **({"problem": problem} if problem else {}),
                )


def _route(scope: Scope) -> str:
    """The route's pattern: paths that nobody serves would each become a series of their own."""
    path = route_path(scope)
    refused_before = path if path in PICTURES else "other"
    return getattr(scope.get("route"), "path", refused_before)


def _request_id(proposed: str) -> str:
    """The client's own id where it is harmless in logs and headers, else a new one."""
    return proposed if _ACCEPTED_ID.fullmatch(proposed) else uuid4().hex
