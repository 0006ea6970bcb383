"""The drift service: compares when it is asked to and at regular times, and tells Prometheus what was found last."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from datetime import UTC, datetime, timedelta
from importlib.metadata import version
from typing import TYPE_CHECKING, Annotated, Any, Final

import structlog
import uvicorn
from fastapi import FastAPI, Query, Response
from fastapi.responses import RedirectResponse
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, generate_latest

from onesheet.bundle import load_bundle
from onesheet.errors import OnesheetError, OverloadedError, UnknownDriftRunError, WebhookError
from onesheet.listening import address_of, listen
from onesheet.log import configure_logging
from onesheet.monitoring.drift.metrics import LatestRun
from onesheet.monitoring.drift.run import find_drift
from onesheet.monitoring.drift.webhook import tell_of_drift
from onesheet.predictionlog import DriftRun, DriftRuns, PredictionLog
from onesheet.serving.drift_routes import report_response
from onesheet.serving.preflight import open_log
from onesheet.serving.problems import install_problem_handlers, problem_responses
from onesheet.serving.protocol import BoundedHttpProtocol
from onesheet.serving.routing import complete_routes
from onesheet.serving.server import stopping_quietly

if TYPE_CHECKING:
    from structlog.typing import FilteringBoundLogger

    from onesheet.settings import Settings

_USED_SETTINGS: Final = ("bundle", "drift_", "log_url", "registry_url", "registry_artifacts", "registry_model")

logger: FilteringBoundLogger = structlog.get_logger(__name__)


class Watch:
    """Makes one comparison at a time.

    Args:
        log: Of the answers.
        settings: The bundle, and how long a window is.
    """

    def __init__(self, log: PredictionLog, settings: Settings) -> None:
        self._log, self._settings = log, settings
        self._busy = threading.Lock()
        self.registry = CollectorRegistry()
        self.registry.register(LatestRun(log))
        self._failures = Counter(
            "onesheet_drift_failures", "Comparisons, and messages about them, that failed.", registry=self.registry
        )

    def run(self, hours: float | None = None, *, with_report: bool = True) -> dict[str, Any]:
        """Compare the last hours, or as many as the settings say, with the bundle's reference.

        Raises:
            OverloadedError: One is under way.
            OnesheetError: As `find_drift` and `load_bundle` do.
        """
        if not self._busy.acquire(blocking=False):
            raise OverloadedError("a comparison is under way; ask for the latest in a moment", retry_after=10)
        try:
            until = datetime.now(UTC)
            since = until - timedelta(hours=hours or self._settings.drift_hours)
            found = find_drift(self._log, load_bundle(self._settings.bundle), since, until, with_report=with_report)
            self._tell()
        except Exception:
            self._failures.inc()
            raise
        finally:
            self._busy.release()
        if found.report_error:
            logger.error("no report", reason=found.report_error)
        tell = logger.warning if found.is_blind and found.other_models else logger.info
        tell("drift", verdict=found.verdict, n=found.n, summary=found.summary)
        return found.to_dict()

    def _tell(self) -> None:
        try:
            told = tell_of_drift(self._log, self._settings)
        except WebhookError as error:
            # What was found is worth an answer all the same.
            self._failures.inc()
            logger.error("nobody was told of the drift", reason=error.message)
        else:
            if told:
                logger.info("told of the drift")

    async def run_regularly(self, hours: float) -> None:
        """At once and then every so many hours, until cancelled; a failure is logged and counted."""
        while True:
            try:
                await asyncio.to_thread(self.run)
            except OverloadedError:
                logger.info("a comparison is under way already")
            except OnesheetError as error:
                logger.error("drift not judged", code=error.code, reason=error.message)
            except Exception:
                # Whatever it was, the next one may succeed; the counter of failures has an alert.
                logger.exception("drift not judged")
            await asyncio.sleep(hours * 3600)


def create_drift_app(settings: Settings, log: PredictionLog) -> FastAPI:
    """Build the service.

    Args:
        settings: The bundle, the window, and how often to compare.
        log: Its tables must be there.
    """
    watch = Watch(log, settings)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        hours = settings.drift_every_hours
        regularly = asyncio.create_task(watch.run_regularly(hours)) if hours else None
        yield
        if regularly:
            regularly.cancel()

    app = FastAPI(title="onesheet drift", version=version("onesheet"), lifespan=lifespan)
    install_problem_handlers(app)

    @app.post("/drift/run", responses=problem_responses(OverloadedError))
    def run(hours: Annotated[float | None, Query(gt=0, le=24 * 366)] = None, report: bool = True) -> dict[str, Any]:
        """Compare the last hours with the reference; the result is also kept, and a report unless none is wanted."""
        return watch.run(hours, with_report=report)

    @app.get("/drift/latest", responses=problem_responses(UnknownDriftRunError))
    def latest() -> dict[str, Any]:
        """What was found last, by whomever."""
        return _latest(log).result

    @app.get("/drift/latest/report", responses=problem_responses(UnknownDriftRunError), response_class=Response)
    def latest_report() -> Response:
        """The same with histograms, as one page."""
        return report_response(DriftRuns(log).report(_latest(log).id))

    @app.get("/", include_in_schema=False)
    def index() -> RedirectResponse:
        """For people who come by with a browser."""
        return RedirectResponse("drift/latest/report")

    @app.get("/metrics")
    def metrics() -> Response:
        """For Prometheus."""
        return Response(generate_latest(watch.registry), media_type=CONTENT_TYPE_LATEST)

    @app.get("/livez")
    async def livez() -> dict[str, str]:
        """Answers as long as the process does."""
        return {"status": "ok"}

    @app.get("/readyz")
    def readyz() -> dict[str, str]:
        """Whether the log can be read."""
        DriftRuns(log).latest()
        return {"status": "ok"}

    complete_routes(app)
    return app


def _latest(log: PredictionLog) -> DriftRun:
    for found in DriftRuns(log).latest():
        return found
    raise UnknownDriftRunError("nothing has been compared yet; POST /drift/run does")


def watch(settings: Settings) -> None:
    """Serve until SIGTERM or Ctrl-C.

    Raises:
        OnesheetError: Nothing can listen there, the log cannot be opened, or a setting is wrong.
    """
    configure_logging(settings.log_level, as_json=settings.log_json)
    settings.check(name for name in type(settings).model_fields if name.startswith(_USED_SETTINGS))
    for text in settings.warnings(["drift_port"]):
        logger.warning("setting ignored", reason=text)
    with (
        closing(open_log(settings)) as log,
        closing(listen(settings.drift_host, settings.drift_port)) as listener,
    ):
        log.migrate()
        logger.info("listening", url=address_of(listener))
        config = uvicorn.Config(
            create_drift_app(settings, log),
            http=BoundedHttpProtocol,
            log_config=None,
            log_level="warning",
            access_log=False,
        )
        with stopping_quietly():
            uvicorn.Server(config).run([listener])
