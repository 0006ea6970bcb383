"""Run the API on this machine until it is told to stop: in this process, or in several."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, closing, contextmanager, nullcontext, suppress
from functools import partial
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, Final

import structlog
import uvicorn
from prometheus_client import CollectorRegistry, Counter, values
from prometheus_client.multiprocess import mark_process_dead

from onesheet.listening import BACKLOG, address_of, listen
from onesheet.log import configure_logging
from onesheet.serving.choice import SharedChoice
from onesheet.serving.preflight import check_service
from onesheet.serving.protocol import BoundedHttpProtocol
from onesheet.supervisor import Heartbeat, Restart, Supervisor

if TYPE_CHECKING:
    from fastapi import FastAPI
    from structlog.typing import FilteringBoundLogger

    from onesheet.serving.service import PredictionService
    from onesheet.settings import Settings

# Less than the ten seconds that Cloud Run and `docker stop` leave before they kill.
_SHUTDOWN_SECONDS: Final = 8
# Beyond that: for what comes before and after uvicorn's own part in it.
_KILL_SECONDS: Final = 1
_KEEP_ALIVE_SECONDS: Final = 15

logger: FilteringBoundLogger = structlog.get_logger(__name__)


def serve(settings: Settings) -> None:
    """Serve the API until SIGTERM or Ctrl-C, then finish what is under way and return.

    Call it on the main thread, which is where signals arrive. SIGHUP loads the bundle again, beside the one that
    answers; so does a dead worker's successor, with the bundle that the others use.

    Args:
        settings: The address (port 0 takes any free one), the bundle, the limits and the logging.

    Raises:
        OnesheetError: Nothing can listen on this address, a setting is wrong, or no worker process can start.
    """
    configure_logging(settings.log_level, as_json=settings.log_json)
    check_service(settings)
    _allow_many_connections()
    with (
        closing(listen(settings.host, settings.port, settings.workers)) as listener,
        _admin_listener(settings) as admin,
        tempfile.TemporaryDirectory(prefix="onesheet-") as runtime,
        stopping_quietly(),
    ):
        logger.info("listening", url=address_of(listener), workers=settings.workers)
        choice = SharedChoice(Path(runtime, "bundle"))
        run = partial(_run, settings, choice, [listener, *admin])
        with _handler("SIGHUP", lambda *_: _reload(choice, settings)):
            run() if settings.workers == 1 else _supervise(run, settings)
    logger.info("stopped")


def _run(
    settings: Settings, choice: SharedChoice, sockets: list[socket.socket], heartbeat: Heartbeat | None = None
) -> None:
    """Serve in this process, which may have been started for it alone."""
    configure_logging(settings.log_level, as_json=settings.log_json)
    uvicorn.Server(_config(settings, choice, heartbeat)).run(sockets)


def _supervise(work: Callable[[Heartbeat], None], settings: Settings) -> None:
    """Serve in several processes."""
    with _shared_metrics() as restarts:

        def count(pid: int, problem: Restart) -> None:
            restarts.labels(problem).inc()
            mark_process_dead(pid)  # type: ignore[no-untyped-call]

        supervisor = Supervisor(
            work,
            settings.workers,
            timeout=settings.worker_timeout_seconds,
            grace=settings.drain_seconds + _SHUTDOWN_SECONDS + _KILL_SECONDS,
            on_restart=count,
        )
        with (
            _handler("SIGINT", lambda *_: supervisor.interrupt()),
            _handler("SIGTERM", lambda *_: supervisor.end()),
            _handler("SIGBREAK", lambda *_: supervisor.end()),
        ):
            supervisor.run()


def _reload(choice: SharedChoice, settings: Settings) -> None:
    chosen = choice.read()
    choice.write(chosen[0] if chosen else settings.bundle)


def _config(settings: Settings, choice: SharedChoice, heartbeat: Heartbeat | None) -> uvicorn.Config:
    return uvicorn.Config(
        partial(_application, settings, choice, heartbeat),
        factory=True,
        http=BoundedHttpProtocol,
        ws="none",
        log_config=None,
        log_level="warning",
        access_log=False,
        server_header=False,
        proxy_headers=False,  # the application's own middleware heeds those that the settings trust
        backlog=BACKLOG,
        timeout_keep_alive=_KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=_SHUTDOWN_SECONDS,
    )


def _application(settings: Settings, choice: SharedChoice, heartbeat: Heartbeat | None) -> FastAPI:
    from onesheet.serving.app import create_app

    app = create_app(settings, choice=choice)
    app.router.lifespan_context = _with_signals(
        app.router.lifespan_context, app.state.service, settings.drain_seconds, heartbeat
    )
    return app


def _with_signals(lifespan: Any, service: PredictionService, drain_seconds: float, heartbeat: Heartbeat | None) -> Any:
    """An application's lifespan that handles SIGTERM by draining first, and gives the supervisor its heartbeat."""
    beating = heartbeat.beating if heartbeat else nullcontext

    @asynccontextmanager
    async def with_signals(app: FastAPI) -> AsyncIterator[Any]:
        loop = asyncio.get_running_loop()
        exit_now: Any = signal.getsignal(signal.SIGTERM)

        def drain(number: int, frame: FrameType | None) -> None:
            service.announce_stop()
            loop.call_soon_threadsafe(loop.call_later, drain_seconds, exit_now, number, frame)

        with _handler("SIGTERM", drain):
            async with lifespan(app) as state, beating():
                yield state

    return with_signals


@contextmanager
def _handler(name: str, handle: Callable[[int, FrameType | None], Any]) -> Iterator[None]:
    """Let a signal be handled so, where there is such a signal."""
    if not hasattr(signal, name):
        yield
        return
    number = getattr(signal, name)
    previous = signal.signal(number, handle)
    try:
        yield
    finally:
        signal.signal(number, previous)


@contextmanager
def _shared_metrics() -> Iterator[Counter]:
    """Let the workers keep their metrics in files, see `onesheet.monitoring.metrics`; yields that of this process."""
    with tempfile.TemporaryDirectory(prefix="onesheet-metrics-") as folder:
        os.environ["PROMETHEUS_MULTIPROC_DIR"] = folder
        in_memory, values.ValueClass = values.ValueClass, values.MultiProcessValue()  # type: ignore[no-untyped-call]
        try:
            restarts = Counter(
                "onesheet_worker_restarts", "Worker restarts by reason.", ["reason"], registry=CollectorRegistry()
            )
            for problem in Restart:
                restarts.labels(problem)
            yield restarts
        finally:
            values.ValueClass = in_memory
            del os.environ["PROMETHEUS_MULTIPROC_DIR"]


def _allow_many_connections() -> None:
    """Every connection is an open file, and the usual limit is a thousand."""
    if sys.platform == "win32":  # which has no such limit
        return
    import resource

    with suppress(ValueError, OSError):  # not every system lets it be raised
        hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


@contextmanager
def _admin_listener(settings: Settings) -> Iterator[list[socket.socket]]:
    if settings.admin_port is None:
        yield []
        return
    with closing(listen(settings.host, settings.admin_port, settings.workers)) as listener:
        logger.info("listening for operators", url=address_of(listener))
        yield [listener]


@contextmanager
def stopping_quietly() -> Iterator[None]:
    """Let SIGTERM, Ctrl-C and Windows' Ctrl-Break be a normal end: uvicorn raises the signal again once it is done."""
    with (
        _handler("SIGTERM", signal.default_int_handler),
        _handler("SIGBREAK", signal.default_int_handler),
        suppress(KeyboardInterrupt),
    ):
        yield
