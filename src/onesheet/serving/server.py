"""Run the API on this machine until it is told to stop: in this process, or in several."""

from __future__ import annotations

import asyncio
import errno
import os
import signal
import socket
import sys
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, closing, contextmanager, suppress
from functools import partial
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, Final

import structlog
import uvicorn
from prometheus_client.multiprocess import mark_process_dead
from uvicorn.supervisors import Multiprocess

from onesheet.errors import OnesheetError
from onesheet.log import configure_logging
from onesheet.serving.choice import SharedChoice
from onesheet.serving.preflight import check_service
from onesheet.serving.protocol import BoundedHttpProtocol

if TYPE_CHECKING:
    from fastapi import FastAPI
    from structlog.typing import FilteringBoundLogger

    from onesheet.serving.service import PredictionService
    from onesheet.settings import Settings

# Less than the ten seconds that Cloud Run and `docker stop` leave before they kill.
_SHUTDOWN_SECONDS: Final = 8
# Connections that wait for a worker to accept them; the system may allow fewer.
_BACKLOG: Final = 2048
_KEEP_ALIVE_SECONDS: Final = 15

logger: FilteringBoundLogger = structlog.get_logger(__name__)


def serve(settings: Settings) -> None:
    """Serve the API until SIGTERM or Ctrl-C, then finish what is under way and return.

    Call it on the main thread, which is where signals arrive. SIGHUP loads the bundle again, beside the one that
    answers; so does a dead worker's successor, with the bundle that the others use.

    Args:
        settings: The address (port 0 takes any free one), the bundle, the limits and the logging.

    Raises:
        OnesheetError: Nothing can listen on this address, or a setting is wrong.
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
        _run(_config(settings, choice), [listener, *admin], reload=partial(_reload, choice, settings))
    logger.info("stopped")


def _run(config: uvicorn.Config, sockets: list[socket.socket], reload: Callable[[], None]) -> None:
    if config.workers > 1:
        with _shared_metrics():
            _Workers(config, sockets, reload).run()
    else:
        with _handler("SIGHUP", lambda *_: reload()):
            uvicorn.Server(config).run(sockets)


def _reload(choice: SharedChoice, settings: Settings) -> None:
    chosen = choice.read()
    choice.write(chosen[0] if chosen else settings.bundle)


def _config(settings: Settings, choice: SharedChoice) -> uvicorn.Config:
    return uvicorn.Config(
        partial(_worker, settings, choice),
        factory=True,
        workers=settings.workers,
        http=BoundedHttpProtocol,
        ws="none",
        log_config=None,
        log_level="warning",
        access_log=False,
        server_header=False,
        proxy_headers=False,  # the application's own middleware heeds those that the settings trust
        backlog=_BACKLOG,
        timeout_keep_alive=_KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=_SHUTDOWN_SECONDS,
    )


def _worker(settings: Settings, choice: SharedChoice) -> FastAPI:
    """The application as one process runs it, in a process that may have been started for it alone."""
    from onesheet.serving.app import create_app

    configure_logging(settings.log_level, as_json=settings.log_json)
    if settings.workers > 1 and hasattr(signal, "SIGHUP"):
        # A closing terminal sends it to everybody; the supervisor acts on it.
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
    app = create_app(settings, choice=choice)
    app.router.lifespan_context = _heeding_signals(app.router.lifespan_context, app.state.service, settings)
    return app


class _Workers(Multiprocess):
    """uvicorn's own supervisor, which starts dead processes again; here SIGHUP loads a bundle and restarts nothing."""

    def __init__(self, config: uvicorn.Config, sockets: list[socket.socket], reload: Callable[[], None]) -> None:
        super().__init__(config, sockets)
        self._reload = reload

    def handle_hup(self) -> None:
        self._reload()

    def keep_subprocess_alive(self) -> None:
        before = {process.pid for process in self.processes}
        super().keep_subprocess_alive()
        for dead in before - {process.pid for process in self.processes}:
            logger.warning("worker died and was started again", pid=dead)
            mark_process_dead(dead)  # type: ignore[no-untyped-call]


def _heeding_signals(lifespan: Any, service: PredictionService, settings: Settings) -> Any:
    """An application's lifespan, during which SIGTERM first turns load balancers away."""

    @asynccontextmanager
    async def heeding(app: FastAPI) -> AsyncIterator[Any]:
        loop = asyncio.get_running_loop()
        exit_now: Any = signal.getsignal(signal.SIGTERM)

        def drain(number: int, frame: FrameType | None) -> None:
            service.announce_stop()
            loop.call_soon_threadsafe(loop.call_later, settings.drain_seconds, exit_now, number, frame)

        with _handler("SIGTERM", drain):
            async with lifespan(app) as state:
                yield state

    return heeding


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
def _shared_metrics() -> Iterator[None]:
    """Let the workers keep their metrics in files, see `onesheet.monitoring.metrics`."""
    with tempfile.TemporaryDirectory(prefix="onesheet-metrics-") as folder:
        os.environ["PROMETHEUS_MULTIPROC_DIR"] = folder
        try:
            yield
        finally:
            del os.environ["PROMETHEUS_MULTIPROC_DIR"]


def _allow_many_connections() -> None:
    """Every connection is an open file, and the usual limit is a thousand."""
    if sys.platform == "win32":  # which has no such limit
        return
    import resource

    with suppress(ValueError, OSError):  # not every system lets it be raised
        hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def listen(host: str, port: int, workers: int = 1) -> socket.socket:
    """A socket for one process to listen on, or for several.

    Raises:
        OnesheetError: Nothing can listen there; the message says why.
    """
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        listener = socket.create_server((host, port), family=family, backlog=_BACKLOG)
        if workers == 1 or sys.platform != "linux":
            return listener
        with listener:
            address = listener.getsockname()
        return _SharedPort.bound(family, address)
    except (OSError, UnicodeError) as error:
        raise OnesheetError(f"cannot listen on {host}, port {port}: {_reason(error)}") from error


class _SharedPort(socket.socket):
    """A port that each process opens anew, so that the kernel deals connections out to all of them (SO_REUSEPORT).

    Where processes accept from one socket, the first to wake takes all that have come, and keeps them; see also
    `onesheet.serving.accepting`, for sockets that somebody else has opened.
    """

    @classmethod
    def bound(cls, family: socket.AddressFamily, address: Any) -> _SharedPort:
        """Reserves the port without listening: the process that starts the others takes no connections."""
        opened = cls(family, socket.SOCK_STREAM)
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if sys.platform != "win32":  # which does not have it, and does without such a port
            opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if family == socket.AF_INET6:
            opened.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        opened.bind(address)
        return opened

    def __reduce__(self) -> tuple[Any, ...]:
        """How it reaches another process."""
        return type(self).bound, (self.family, self.getsockname())


@contextmanager
def _admin_listener(settings: Settings) -> Iterator[list[socket.socket]]:
    if settings.admin_port is None:
        yield []
        return
    with closing(listen(settings.host, settings.admin_port, settings.workers)) as listener:
        logger.info("listening for operators", url=address_of(listener))
        yield [listener]


def _reason(error: OSError | UnicodeError) -> str:
    if isinstance(error, socket.gaierror | UnicodeError):
        return "no such address"
    if error.errno == errno.EADDRINUSE:
        return "the port is taken; name another one, or 0 for any free one"
    return (error.strerror or "the system refuses").lower()


def address_of(listener: socket.socket) -> str:
    """Where to reach a listener by HTTP."""
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


@contextmanager
def stopping_quietly() -> Iterator[None]:
    """Let SIGTERM, Ctrl-C and Windows' Ctrl-Break be a normal end: uvicorn raises the signal again once it is done."""
    with (
        _handler("SIGTERM", signal.default_int_handler),
        _handler("SIGBREAK", signal.default_int_handler),
        suppress(KeyboardInterrupt),
    ):
        yield
