"""The application: its parts put together, and nothing done before it is asked for."""

from __future__ import annotations

from contextlib import asynccontextmanager
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import anyio
from fastapi import FastAPI
from starlette.middleware import Middleware

from onesheet.serving.context import RequestContext
from onesheet.serving.limits import BodyLimit
from onesheet.serving.model import ModelService
from onesheet.serving.problems import install_problem_handlers
from onesheet.serving.routes import router
from onesheet.serving.schemas import Problem
from onesheet.settings import Settings

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from fastapi.routing import APIRoute

    from onesheet.predictor import Predictor

_DESCRIPTION = """Tells the genres of a film from its poster.

Every error is an RFC 9457 problem (`application/problem+json`) whose `type` is stable. Every answer carries
an `X-Request-ID`, the client's own or a new one, by which the request is found again in the server's log.
"""


def create_app(settings: Settings | None = None, predictor: Predictor | None = None) -> FastAPI:
    """Build the API.

    Args:
        settings: Default: read from the environment.
        predictor: Answers at once; without it the bundle that the settings name is loaded in the background
            when the application starts, and `/readyz` tells when that is done.
    """
    settings = settings or Settings()
    model = ModelService(settings, predictor)
    app = _Api(
        title="onesheet",
        version=version("onesheet"),
        description=_DESCRIPTION,
        lifespan=_lifespan,
        middleware=[Middleware(RequestContext), Middleware(BodyLimit, max_bytes=settings.max_upload_bytes)],
        generate_unique_id_function=_operation_id,
    )
    app.state.model = model
    install_problem_handlers(app)
    app.include_router(router)
    return app


class _Api(FastAPI):
    """FastAPI, whose OpenAPI document also defines the schema that all problem responses refer to."""

    def openapi(self) -> dict[str, Any]:
        document = super().openapi()
        document["components"]["schemas"]["Problem"] = Problem.model_json_schema()
        return document


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    async with anyio.create_task_group() as background:
        background.start_soon(app.state.model.load)
        yield
        background.cancel_scope.cancel()


def _operation_id(route: APIRoute) -> str:
    """Clients generated from the OpenAPI document name their methods after this."""
    return route.name
