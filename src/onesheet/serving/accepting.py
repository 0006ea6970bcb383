"""Accept connections so that processes which listen on one socket share them evenly: those of BentoML.

Otherwise the first process to wake takes all that have come, and keeps them: of two processes one may serve everybody.
Here each takes one at a time, and lets the others go first for the longer, the more it holds already. That costs a new
connection some turns of the event loop; where we open the sockets, the kernel deals connections out for nothing.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

import structlog
import uvloop

from onesheet.serving.protocol import BoundedHttpProtocol

if TYPE_CHECKING:
    from structlog.typing import FilteringBoundLogger

COURTESY_SECONDS: Final = 0.0002
MAX_COURTESY_SECONDS: Final = 0.004
EXHAUSTED_SECONDS: Final = 1.0

logger: FilteringBoundLogger = structlog.get_logger(__name__)


class TurnTakingLoop(uvloop.Loop):
    """uvloop, whose servers take turns with those of other processes."""

    async def create_server(self, protocol_factory: Any, *args: Any, **options: Any) -> Any:
        """As asyncio's; only a socket that is handed over may be shared with other processes."""
        if options.get("sock") is None or options.get("ssl") is not None:
            return await super().create_server(protocol_factory, *args, **options)
        options["sock"].listen(options["backlog"])
        return TurnTakingServer(self, protocol_factory, options["sock"])


def loop_factory(**_: object) -> Callable[[], asyncio.AbstractEventLoop]:
    """As uvicorn wants one for its `loop` setting."""
    return TurnTakingLoop


class TurnTakingServer:
    """Accepts one connection at a time; has of asyncio.Server what uvicorn asks for.

    Args:
        loop: Waits for connections.
        protocol_factory: Makes what speaks with each.
        listener: Listens already.
    """

    def __init__(
        self, loop: asyncio.AbstractEventLoop, protocol_factory: Callable[[], asyncio.Protocol], listener: socket.socket
    ) -> None:
        self.sockets = (listener,)
        self._loop = loop
        self._factory = protocol_factory
        self._listener = listener
        self._turn: asyncio.TimerHandle | None = None
        self._arriving: set[asyncio.Task[Any]] = set()
        self._closed = False
        listener.setblocking(False)
        self._wait()

    def close(self) -> None:
        """Accept no more."""
        if not self._closed:
            self._closed = True
            self._loop.remove_reader(self._listener)
            if self._turn is not None:
                self._turn.cancel()

    async def wait_closed(self) -> None:
        """Wait for connections that are just being made."""
        if self._arriving:
            await asyncio.wait(self._arriving)

    def _wait(self) -> None:
        if not self._closed:
            self._loop.add_reader(self._listener, self._let_others_go_first)

    def _let_others_go_first(self) -> None:
        self._loop.remove_reader(self._listener)
        courtesy = min(COURTESY_SECONDS * BoundedHttpProtocol.open_connections, MAX_COURTESY_SECONDS)
        self._turn = self._loop.call_later(courtesy, self._accept)

    def _accept(self) -> None:
        try:
            connection, _ = self._listener.accept()
        except (BlockingIOError, ConnectionAbortedError):  # another process was faster, or the client has left
            self._wait()
        except OSError as error:
            logger.error("cannot accept connections", reason=error.strerror)
            self._turn = self._loop.call_later(EXHAUSTED_SECONDS, self._wait)
        else:
            arriving = self._loop.create_task(self._loop.connect_accepted_socket(self._factory, connection))
            self._arriving.add(arriving)
            arriving.add_done_callback(self._arriving.discard)
            self._wait()
