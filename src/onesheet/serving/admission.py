"""Pictures that could not be answered in time are refused before anything of them is read, or anything else is done."""

from __future__ import annotations

from typing import TYPE_CHECKING

from onesheet.errors import OnesheetError
from onesheet.serving.context import PICTURES
from onesheet.serving.problems import problem_of
from onesheet.serving.proxies import route_path

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Receive, Scope, Send

    from onesheet.monitoring.metrics import Metrics
    from onesheet.serving.service import PredictionService


class Admission:
    """ASGI middleware: 503 where the service has too much to do, or no model; cheap, for then there are many of them.

    Args:
        app: Reads and answers pictures.
        service: Knows what it could do in time.
        metrics: Told of pictures that get no answer.
    """

    def __init__(self, app: ASGIApp, service: PredictionService, metrics: Metrics) -> None:
        self._app = app
        self._service = service
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, or say when to come again."""
        if scope["type"] == "http" and scope["method"] == "POST" and route_path(scope) in PICTURES:
            try:
                self._service.engine.check_admission()
            except OnesheetError as error:
                self._metrics.prediction_error.inc()
                await problem_of(error, scope)(scope, receive, send)
                return
        await self._app(scope, receive, send)
