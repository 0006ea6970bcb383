"""Run the API on this machine until it is told to stop."""

from __future__ import annotations

import errno
import signal
import socket
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Final

import structlog
import uvicorn

from onesheet.errors import OnesheetError
from onesheet.log import configure_logging
from onesheet.serving.app import create_app

if TYPE_CHECKING:
    from collections.abc import Iterator

    from structlog.typing import FilteringBoundLogger

    from onesheet.settings import Settings

# Less than the ten seconds that Cloud Run and `docker stop` leave before they kill.
_SHUTDOWN_SECONDS: Final = 8

logger: FilteringBoundLogger = structlog.get_logger(__name__)


def serve(settings: Settings) -> None:
    """Serve the API until SIGTERM or Ctrl-C, then finish what is under way and return.

    Call it on the main thread, which is where signals arrive.

    Args:
        settings: The address (port 0 takes any free one), the bundle, the limits and the logging.

    Raises:
        OnesheetError: Nothing can listen on this address.
    """
    configure_logging(settings.log_level, as_json=settings.log_json)
    with _listen(settings.host, settings.port) as listener, _stopping_quietly():
        config = uvicorn.Config(
            create_app(settings),
            log_config=None,
            log_level="warning",
            access_log=False,
            server_header=False,
            timeout_graceful_shutdown=_SHUTDOWN_SECONDS,
        )
        logger.info("listening", url=_url(listener))
        uvicorn.Server(config).run(sockets=[listener])
    logger.info("stopped")


def _listen(host: str, port: int) -> socket.socket:
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server((host, port), family=family)
    except (OSError, UnicodeError) as error:
        raise OnesheetError(f"cannot listen on {host}, port {port}: {_reason(error)}") from error


def _reason(error: OSError | UnicodeError) -> str:
    if isinstance(error, socket.gaierror | UnicodeError):
        return "no such address"
    if error.errno == errno.EADDRINUSE:
        return "the port is taken; name another one, or 0 for any free one"
    return (error.strerror or "the system refuses").lower()


def _url(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


@contextmanager
def _stopping_quietly() -> Iterator[None]:
    """Let SIGTERM and Ctrl-C be a normal end: uvicorn raises the signal again once it is done."""
    previous = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        with suppress(KeyboardInterrupt):
            yield
    finally:
        signal.signal(signal.SIGTERM, previous)
