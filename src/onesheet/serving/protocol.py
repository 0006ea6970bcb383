"""HTTP/1.1 for untrusted clients: uvicorn's own protocol, with the limits that it lacks.

uvicorn limits neither the size nor the time of a request's head, nor of the trailers of a chunked body, nor the time of
a body that the application does not read, nor the number of pipelined requests, nor the time that a client takes to
read its answers. The time of a body that is read is limited by `BodyLimit`.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Any, ClassVar, Final
from weakref import WeakKeyDictionary

import httptools
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from onesheet.serving.context import PROBES
from onesheet.serving.problems import (
    HEAD_TOO_LARGE,
    MALFORMED_REQUEST,
    MEDIA_TYPE,
    REQUEST_TIMEOUT,
    HttpProblem,
    problem_content,
    problem_response,
)

HEAD_SECONDS: Final = 10
# Of request line and headers, and again of the trailers.
HEAD_BYTES: Final = 32 * 1024
# More than the settings allow to a body that is read.
BODY_SECONDS: Final = 90
# A client that does not read this many bytes in this time gets no more; an answer that is smaller must be read whole.
ANSWER_SECONDS: Final = 30
ANSWER_BYTES: Final = 16 * 1024
# In which a refused client may end what it was sending; closed earlier, it could lose the answer to a TCP reset.
LINGER_SECONDS: Final = 2
# Given to the parser at once: it cannot be stopped, and 256 kB hold ten thousand pipelined requests.
_HEAD_PIECE: Final = 512
_BODY_PIECE: Final = 4096
_STARTS_IN_A_TURN: Final = 2
# Whatever the sub-path.
_PROBES: Final = tuple(PROBES)
_HOST: Final = re.compile(rb"[^\s/?#@\\,]*")
_MAPPED: Final = "::ffff:"


class _Flow(FlowControl):
    """Flow control that does not resume reading while requests that were read are held back."""

    held = False

    def resume_reading(self) -> None:
        """Called whenever the application asks for more, and after every answer."""
        if not self.held:
            super().resume_reading()


class _Turns:
    """Starts requests in the order in which they came, few in each turn of the event loop, probes at once.

    Between two turns the loop accepts one connection and reads what has arrived: with hundreds of requests in each turn
    a new client would wait for seconds.

    Args:
        loop: The event loop that answers.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._waiting: deque[Callable[[], None]] = deque()

    def add(self, start: Callable[[], None]) -> None:
        """Call `start` when it is its turn."""
        self._waiting.append(start)
        if len(self._waiting) == 1:
            self._loop.call_soon(self._take)

    def _take(self) -> None:
        for _ in range(min(_STARTS_IN_A_TURN, len(self._waiting))):
            self._waiting.popleft()()
        if self._waiting:
            self._loop.call_soon(self._take)


# Of each event loop.
_TURNS: Final = WeakKeyDictionary[asyncio.AbstractEventLoop, _Turns]()


class BoundedHttpProtocol(HttpToolsProtocol):
    """Refuses heads that are too large, too slow or ambiguous, and closes connections that make no progress.

    A refusal is a problem document with status 400, 408 or 431. It comes after the answers to earlier requests on the
    same connection, and ends the connection.

    Attributes:
        open_connections: Connections that this process holds.
    """

    open_connections: ClassVar[int] = 0
    flow: _Flow

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._held = bytearray()
        self._in_body = False
        self._refusal: HttpProblem | None = None
        # Of the head, or the trailers, as far as the parser has reported them; and what came since its last report.
        self._head_bytes = self._unreported_bytes = 0
        self._head_timer: asyncio.TimerHandle | None = None
        self._body_timer: asyncio.TimerHandle | None = None
        self._answer_timer: asyncio.TimerHandle | None = None
        self._answers = 0

    # ------------------------------------------------------------------------------------- the connection's events

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Start to wait for the first request."""
        BoundedHttpProtocol.open_connections += 1
        super().connection_made(transport)
        self.flow = _Flow(transport)
        if self.client and self.client[0].startswith(_MAPPED):  # IPv4 on a socket for both: one client, one name
            self.client = (self.client[0].removeprefix(_MAPPED), self.client[1])
        self._watch_head()

    def data_received(self, data: bytes) -> None:
        """Parse what arrived, or hold it back while parsed requests wait for their turn."""
        if self._refusal is None:
            self._held += data
            self._parse()

    def on_response_complete(self) -> None:
        """Go on with what was held back."""
        self._answers += 1
        super().on_response_complete()
        self._watch_reader()
        if self._refusal is not None and not self._busy():
            self._send_refusal(self._refusal)
        elif self._refusal is None:
            self._parse()

    def pause_writing(self) -> None:
        """The client reads more slowly than it is answered."""
        super().pause_writing()
        self._watch_reader()

    def connection_lost(self, exc: Exception | None) -> None:
        """Release everything, whoever closed it."""
        self._held.clear()
        self._stop_head_timer()
        self._stop_body_timer()
        if self._answer_timer is not None:
            self._answer_timer.cancel()
        BoundedHttpProtocol.open_connections -= 1
        super().connection_lost(exc)

    # ----------------------------------------------------------------------------------------- the parser's events

    def on_message_begin(self) -> None:
        """Called at the first byte of a request."""
        super().on_message_begin()
        self._head_bytes = self._unreported_bytes = 0
        self._restart_head_timer()

    def on_url(self, url: bytes) -> None:
        """Called for every part of the request's target."""
        self._count_head(len(url))
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        """Called for every header, and for trailers, which nobody reads: they must not pass for headers."""
        self._count_head(len(name) + len(value) + len(": \r\n"))
        if not self._in_body:
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """Called after the empty line that ends the headers."""
        if self.parser.should_upgrade():
            return
        if not self._names_one_host():
            raise ValueError("no Host header, several, or one that is no host")
        self._stop_head_timer()
        self._in_body = True
        self._head_bytes = self._unreported_bytes = 0
        self._body_timer = self.loop.call_later(BODY_SECONDS, self.transport.close)
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """Called for every part of the body."""
        self._unreported_bytes = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        """Called at the last byte of a request."""
        if self.parser.should_upgrade():
            return
        self._in_body = False
        self._head_bytes = self._unreported_bytes = 0
        self._stop_body_timer()
        super().on_message_complete()

    # ---------------------------------------------------------------------------------------------------- reading

    def _parse(self) -> None:
        """Parse until several requests wait; then nothing is read until they are answered, so that all clients are."""
        while self._held and not self.pipeline and self._refusal is None and not self.transport.is_closing():
            size = _BODY_PIECE if self._in_body else _HEAD_PIECE
            piece = bytes(self._held[:size])
            del self._held[:size]
            self._unreported_bytes += len(piece)
            self._feed(piece)
            if self._head_bytes + self._unreported_bytes > HEAD_BYTES and self._refusal is None:
                self._refuse(HEAD_TOO_LARGE)
        was_held, self.flow.held = self.flow.held, bool(self._held)
        if self._held:
            self.flow.pause_reading()
        elif was_held and not self.pipeline:
            self.flow.resume_reading()
        self._watch_head()

    def _feed(self, piece: bytes) -> None:
        self._unset_keepalive_if_required()
        try:
            self.parser.feed_data(piece)
        except httptools.HttpParserUpgrade as upgrade:
            if self.parser.get_method() == b"CONNECT":
                self._refuse(MALFORMED_REQUEST)
            else:
                self._ignore_upgrade(piece[upgrade.args[0] :])
        except httptools.HttpParserError:
            self.logger.warning("invalid HTTP request refused")
            self._refuse(HEAD_TOO_LARGE if self._head_bytes > HEAD_BYTES else MALFORMED_REQUEST)

    def _ignore_upgrade(self, rest: bytes) -> None:
        """Parse the head again without its Upgrade header, with which the parser would drop the body.

        Java's HTTP client asks for HTTP/2 in this way, with every request.
        """
        head = b"%b %b HTTP/%b\r\n" % (self.parser.get_method(), self.url, self.parser.get_http_version().encode())
        head += b"".join(b"%b: %b\r\n" % header for header in self.headers if header[0] != b"upgrade") + b"\r\n"
        self.parser = httptools.HttpRequestParser(self)
        self.parser.set_dangerous_leniencies(lenient_data_after_close=True)
        self._held[:0] = head + rest

    def _count_head(self, size: int) -> None:
        self._unreported_bytes = 0
        self._head_bytes += size
        if self._head_bytes > HEAD_BYTES:
            raise ValueError("the head is too large")

    def _names_one_host(self) -> bool:
        hosts = [value for name, value in self.headers if name == b"host"]
        if not hosts:
            return bool(self.parser.get_http_version() == "1.0")
        return len(hosts) == 1 and _HOST.fullmatch(hosts[0]) is not None

    def _busy(self) -> bool:
        """Whether an answer is under way."""
        return bool(self.pipeline) or (self.cycle is not None and not self.cycle.response_complete)

    def _start_asgi_task(self, cycle: Any, app: Any) -> None:
        start = partial(super()._start_asgi_task, cycle, app)
        if cycle.scope["path"].endswith(_PROBES):
            start()
        else:
            _TURNS.setdefault(self.loop, _Turns(self.loop)).add(start)

    # ------------------------------------------------------------------------------------------------------ timers

    def _watch_head(self) -> None:
        """Wait for a head, unless something else is waited for: a body, an answer, or the keep-alive time-out."""
        if (
            self._in_body
            or self._refusal
            or self._busy()
            or self.timeout_keep_alive_task
            or self.transport.is_closing()
        ):
            self._stop_head_timer()
        elif self._head_timer is None:
            self._restart_head_timer()

    def _restart_head_timer(self) -> None:
        self._stop_head_timer()
        self._head_timer = self.loop.call_later(HEAD_SECONDS, self._refuse, REQUEST_TIMEOUT)

    def _stop_head_timer(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _stop_body_timer(self) -> None:
        if self._body_timer is not None:
            self._body_timer.cancel()
            self._body_timer = None

    def _watch_reader(self) -> None:
        """See to it that what was written is read."""
        if self._answer_timer is None and (unread := self.transport.get_write_buffer_size()):
            self._answer_timer = self.loop.call_later(ANSWER_SECONDS, self._check_reader, unread, self._answers)

    def _check_reader(self, unread: int, answers: int) -> None:
        self._answer_timer = None
        left = self.transport.get_write_buffer_size()
        if left and answers == self._answers and left > unread - ANSWER_BYTES:
            self.transport.abort()
        else:
            self._watch_reader()

    # ---------------------------------------------------------------------------------------------------- refusing

    def _refuse(self, kind: HttpProblem) -> None:
        """End the connection with a problem, once the requests before it are answered."""
        self._refusal = kind
        self._held.clear()
        self._stop_head_timer()
        if self._in_body and self.pipeline:  # it is the last of those that wait
            self.pipeline[0] = (self.cycle, _refusing(kind))
        elif self._in_body and self.cycle.response_started:
            self.transport.close()
        elif self._in_body or not self._busy():
            self._send_refusal(kind)

    def _send_refusal(self, kind: HttpProblem) -> None:
        if self.transport.is_closing():
            return
        if self._in_body:  # the application waits for the rest of it
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        body = json.dumps(problem_content(kind, kind.title, instance="")).encode()
        head = STATUS_LINE[kind.status] + b"content-type: %b\r\ncontent-length: %d\r\nconnection: close\r\n\r\n"
        self.transport.write(head % (MEDIA_TYPE.encode(), len(body)) + body)
        self.transport.write_eof()
        self.flow.held = False
        self.flow.resume_reading()
        self._stop_body_timer()
        self._body_timer = self.loop.call_later(LINGER_SECONDS, self.transport.close)


def _refusing(kind: HttpProblem) -> Any:
    """An ASGI application that answers one problem."""

    async def refuse(scope: Any, receive: Any, send: Any) -> None:
        response = problem_response(kind, kind.title, scope, {"Connection": "close"})
        await response(scope, receive, send)

    return refuse
