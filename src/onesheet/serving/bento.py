"""The same service for BentoML: its processes, its batching and its clients around our engine and our routes.

`onesheet.serving.bento_app:Onesheet` is what `bentoml serve` and a bentofile name.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import bentoml
from bentoml.exceptions import BentoMLException

from onesheet.errors import OnesheetError
from onesheet.monitoring.metrics import shared_folder
from onesheet.serving.app import create_app
from onesheet.serving.body import Upload
from onesheet.serving.choice import SharedChoice
from onesheet.serving.proxies import route_path
from onesheet.serving.routes import answer_content
from onesheet.settings import Settings

if TYPE_CHECKING:
    from fastapi import FastAPI
    from starlette.types import ASGIApp, Receive, Scope, Send

_PREFIX: Final = "/bento"
_GRACE_SECONDS: Final = 8.0


def build_service(settings: Settings) -> Any:
    """A BentoML service.

    It answers every route of the HTTP API, and beside them those of BentoML's own clients: `predict` and
    `predict_url`, and `predict_many`, whose calls BentoML's adaptive batching brings together.

    Args:
        settings: As for the other engine; `workers` is the number of processes.
    """
    folder = shared_folder()
    choice = SharedChoice(folder / "bundle") if folder else None
    app = create_app(settings, choice=choice, guarded=False)

    class Onesheet:
        """Tells the genres of a film from its poster."""

        @bentoml.api(route=f"{_PREFIX}/predict")
        async def predict(
            self, poster: Path, threshold: float | None = None, topk: int | None = None
        ) -> dict[str, Any]:
            """The genres of a poster, as `POST /predict` tells them."""
            with _as_bentoml_error():
                return await _answer(app, await _read(poster), threshold, topk)

        @bentoml.api(route=f"{_PREFIX}/predict_url")
        async def predict_url(
            self, context: bentoml.Context, image_url: str, threshold: float | None = None, topk: int | None = None
        ) -> dict[str, Any]:
            """The genres of a poster at an https address, where the settings allow that."""
            with _as_bentoml_error():
                if app.state.fetcher is None:
                    raise BentoMLException("this server fetches no addresses", error_code=HTTPStatus.FORBIDDEN)
                data = await app.state.fetcher.fetch(image_url, context.request.state.hold)
                return await _answer(app, Upload(data, None), threshold, topk)

        @bentoml.api(
            route=f"{_PREFIX}/predict_many",
            batchable=True,
            max_batch_size=settings.max_batch_files,
            max_latency_ms=int(settings.patience_seconds * 1000),
        )
        async def predict_many(self, posters: list[Path]) -> list[dict[str, Any]]:
            """An answer or an error for each of many posters; calls that come together are worked on together."""
            return list(await asyncio.gather(*(self._answer_or_error(poster) for poster in posters)))

        async def __is_ready__(self) -> bool:
            return bool(app.state.service.status == "ok")

        async def _answer_or_error(self, poster: Path) -> dict[str, Any]:
            try:
                return await _answer(app, await _read(poster), None, None)
            except OnesheetError as error:
                return {"error": error.to_dict()}

    built: Any = bentoml.service(**_options(settings))(bentoml.asgi_app(app, path="/")(Onesheet))
    for layer in app.state.middleware:
        built.add_asgi_middleware(layer.cls, **layer.kwargs)
    built.add_asgi_middleware(_Shortcut, api=app, paths=frozenset(app.openapi()["paths"]))
    return built


def _options(settings: Settings) -> dict[str, Any]:
    """For BentoML itself, whose own log, metrics and traces the mounted routes do not need."""
    return {
        "name": "onesheet",
        "workers": settings.workers,
        "logging": {"access": {"enabled": False}},
        "metrics": {"enabled": False},
        # It has no switch for the middleware that traces; so no request costs a span that nobody sees.
        "tracing": {"excluded_urls": ".*"},
        # Above our own patience, which refuses earlier and says when to come again.
        "traffic": {"timeout": settings.patience_seconds + settings.body_seconds + _GRACE_SECONDS},
    }


class _Shortcut:
    """ASGI middleware: requests for the API's own routes do not go through BentoML's context and router.

    Args:
        app: BentoML's.
        api: Ours; mounted in BentoML's too, which starts and stops it.
        paths: Of the routes.
    """

    def __init__(self, app: ASGIApp, api: ASGIApp, paths: frozenset[str]) -> None:
        self._app = app
        self._api = api
        self._paths = paths

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request to the one that it is for."""
        ours = scope["type"] == "http" and route_path(scope) in self._paths
        await (self._api if ours else self._app)(scope, receive, send)


async def _read(poster: Path) -> Upload:
    return Upload(await asyncio.to_thread(poster.read_bytes), None)


async def _answer(app: FastAPI, upload: Upload, threshold: float | None, topk: int | None) -> dict[str, Any]:
    answered = await app.state.service.answer(upload, threshold, topk, arrived=time.perf_counter(), request_id=None)
    return answer_content(answered, threshold)


@contextmanager
def _as_bentoml_error() -> Iterator[None]:
    try:
        yield
    except OnesheetError as error:
        raise BentoMLException(error.message, error_code=HTTPStatus(error.status)) from error
