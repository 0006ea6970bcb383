"""The application: its parts put together, and nothing done before it is asked for."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, Final

from fastapi import FastAPI
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware

from onesheet.errors import MissingExtraError, ShareExceededError
from onesheet.monitoring.metrics import Metrics
from onesheet.serving.admin import router as admin
from onesheet.serving.admission import Admission
from onesheet.serving.choice import SharedChoice
from onesheet.serving.context import HEADER, PROBES, RequestContext
from onesheet.serving.drift_routes import router as drift
from onesheet.serving.fetch import FetchLimits, ImageFetcher
from onesheet.serving.guard import Guard
from onesheet.serving.insight_routes import router as insights
from onesheet.serving.insights import Insights
from onesheet.serving.limits import BodyLimit
from onesheet.serving.preflight import check_access
from onesheet.serving.problems import (
    BODY_TOO_LARGE,
    RATE_LIMITED,
    REQUEST_TIMEOUT,
    UNAUTHORIZED,
    Kind,
    install_problem_handlers,
    problem_responses,
)
from onesheet.serving.proxies import BehindProxy
from onesheet.serving.rendered import Coalesced, rendered_once
from onesheet.serving.routes import router
from onesheet.serving.routing import complete_routes
from onesheet.serving.schemas import Problem
from onesheet.serving.service import PredictionService
from onesheet.settings import Settings, listed

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from onesheet.predictor import Predictor
    from onesheet.serving.tracing import Tracing

# After which a process that is one of several takes requests, whether its model is loaded or not.
_LOADING_SECONDS: Final = 5

# Asked for where the settings hold keys.
_KEYS: Final = {
    "APIKey": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
    "APIKeyAsBearer": {"type": "http", "scheme": "bearer"},
}

_DESCRIPTION = """Tells the genres of a film from its poster.

Every error is an RFC 9457 problem (`application/problem+json`) whose `type` is stable. Every answer carries
an `X-Request-ID`, the client's own or a new one, by which the request is found again in the server's log.
"""


def create_app(
    settings: Settings | None = None,
    predictor: Predictor | None = None,
    choice: SharedChoice | None = None,
    *,
    guarded: bool = True,
) -> FastAPI:
    """Build the API.

    Args:
        settings: Default: read from the environment.
        predictor: Answers at once; without it the bundle that the settings name is loaded in the background
            when the application starts, and `/readyz` tells when that is done.
        choice: Tells this process which bundle another one has chosen since; default: it serves alone.
        guarded: False where another application wraps this one in the middleware of `app.state.middleware`.

    Raises:
        InvalidRequestError: A setting is wrong, or the API would be open by mistake.
    """
    settings = settings or Settings()
    check_access(settings)
    metrics, tracing = Metrics(), _tracing(settings)
    service = PredictionService(settings, metrics, predictor, choice, on_stages=tracing.stages if tracing else None)
    middleware = [*([tracing.middleware()] if tracing else []), *_middleware(settings, metrics, service)]
    app = _Api(
        title="onesheet",
        version=version("onesheet"),
        description=_DESCRIPTION,
        lifespan=_lifespan,
        middleware=middleware if guarded else [],
        # Ours says more, and only where an endpoint is set.
        telemetry={"tracing": False, "metrics": False, "logs": False, "auto_configure": False},
    )
    app.state.settings = settings
    app.state.service = service
    app.state.metrics = metrics
    app.state.tracing = tracing
    app.state.middleware = middleware
    app.state.rendered_metrics = Coalesced(metrics.render)
    app.state.fetcher = None
    app.state.insights = Insights(service.recorder.log)
    install_problem_handlers(app)
    # Not included as routers, which FastAPI looks through anew for every request, and before its own pages of
    # documentation: a quarter less time for a request that does little.
    app.router.routes[:0] = [*router.routes, *insights.routes, *drift.routes, *admin.routes]
    complete_routes(app)
    return app


def _tracing(settings: Settings) -> Tracing | None:
    if settings.otlp_endpoint is None:
        return None
    try:
        from onesheet.serving.tracing import Tracing
    except ImportError as error:
        raise MissingExtraError("traces need OpenTelemetry: install onesheet[tracing]") from error
    return Tracing(settings.otlp_endpoint)


def _middleware(settings: Settings, metrics: Metrics, service: PredictionService) -> list[Middleware]:
    """Outermost first; each costs every request a little, so those with nothing to do are left out."""
    origins, keys = listed(settings.cors_origins), frozenset(listed(settings.api_keys))
    proxies, root_path = listed(settings.trusted_proxies), settings.root_path
    cors = Middleware(
        CORSMiddleware,
        allow_origins=origins,
        allow_methods=["GET", "POST"],
        allow_headers=["Authorization", "X-API-Key", HEADER],
        expose_headers=[HEADER, "Retry-After"],
    )
    guard = Middleware(Guard, keys=keys, per_minute=settings.rate_limit)
    return [
        *([Middleware(BehindProxy, proxies=proxies, root_path=root_path)] if proxies or root_path else []),
        Middleware(RequestContext, metrics=metrics),
        *([cors] if origins else []),
        *([guard] if keys or settings.rate_limit else []),
        Middleware(Admission, service=service, metrics=metrics),
        Middleware(
            BodyLimit,
            max_bytes=settings.max_upload_bytes,
            max_bytes_at_once=settings.max_upload_bytes_at_once,
            seconds=settings.body_seconds,
        ),
    ]


class _Api(FastAPI):
    """FastAPI, whose OpenAPI document also says what the middleware does: keys, limits, and the shape of problems."""

    def add_route(self, path: str, route: Any, *args: Any, **options: Any) -> None:
        """Called by FastAPI for its pages of documentation, which are always the same."""
        super().add_route(path, rendered_once(route), *args, **options)

    def openapi(self) -> dict[str, Any]:
        if self.openapi_schema is None:
            document = super().openapi()
            components = document["components"]
            components["schemas"]["Problem"] = Problem.model_json_schema()
            components.setdefault("securitySchemes", {}).update(_KEYS)
            for path, operations in document["paths"].items():
                for method, operation in operations.items():
                    _describe_middleware(operation, guarded=path not in PROBES, has_body=method == "post")
        return self.openapi_schema or {}


def _describe_middleware(operation: dict[str, Any], *, guarded: bool, has_body: bool) -> None:
    kinds: list[Kind] = []
    if guarded:
        kinds += [UNAUTHORIZED, RATE_LIMITED]
    if has_body:
        kinds += [REQUEST_TIMEOUT, BODY_TOO_LARGE, ShareExceededError]
    for status, response in problem_responses(*kinds).items():
        operation["responses"].setdefault(str(status), response)
    if guarded and "security" not in operation:
        operation["security"] = [{}, *({name: []} for name in _KEYS)]


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    state = app.state
    if state.settings.allow_image_url:
        limits = FetchLimits(state.settings.max_upload_bytes, state.settings.image_url_seconds)
        state.fetcher = ImageFetcher(limits)
    # Not awaited when the server stops: a slow download must not hold it up.
    running = asyncio.create_task(state.service.run())
    forgetting = asyncio.create_task(state.service.recorder.forget_old_answers())
    if state.settings.workers > 1:
        # The others answer meanwhile; without its model this one would only refuse what they could do.
        await state.service.wait_until_loaded(_LOADING_SECONDS)
    yield
    running.cancel()
    forgetting.cancel()
    await asyncio.wait([forgetting])
    if state.fetcher:
        await state.fetcher.close()
    await asyncio.to_thread(state.insights.close)
    await state.service.stop()
    if state.tracing:
        await asyncio.to_thread(state.tracing.close)
