"""Connections: accepted in turns, given up when nothing comes, and not lost when the system has no room."""

from __future__ import annotations

import asyncio
import errno
import socket
import threading
import time
from contextlib import ExitStack, closing, contextmanager
from typing import TYPE_CHECKING

import pytest
import uvicorn

from onesheet.serving import accepting, protocol
from onesheet.serving.accepting import TurnTakingLoop
from onesheet.serving.protocol import BoundedHttpProtocol
from tests.processes import MAX_WAIT

if TYPE_CHECKING:
    from collections.abc import Iterator


class Exhausted(socket.socket):
    """A listener whose system is out of files at first."""

    failures = 1

    def accept(self):
        if self.failures:
            self.failures -= 1
            raise OSError(errno.EMFILE, "Too many open files")
        return super().accept()


@contextmanager
def listening(kind: type[socket.socket] = socket.socket) -> Iterator[tuple[socket.socket, tuple[str, int]]]:
    with closing(kind(socket.AF_INET, socket.SOCK_STREAM)) as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        yield listener, listener.getsockname()


async def answer_at_once(scope, receive, send) -> None:
    """Reads no body."""
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"0")]})
    await send({"type": "http.response.body", "body": b""})


@contextmanager
def serving_on(listener: socket.socket) -> Iterator[None]:
    config = uvicorn.Config(
        answer_at_once,
        http=BoundedHttpProtocol,
        loop="onesheet.serving.accepting:TurnTakingLoop",
        lifespan="off",
        log_config=None,
        access_log=False,
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, args=([listener],))
    thread.start()
    try:
        yield
    finally:
        server.should_exit = True
        thread.join(MAX_WAIT)


def ask(address: tuple[str, int], request: bytes = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n") -> socket.socket:
    """A connection on which the first answer has been read."""
    connection = socket.create_connection(address)
    connection.settimeout(MAX_WAIT)
    connection.sendall(request)
    assert connection.recv(4096).startswith(b"HTTP/1.1 200")
    return connection


def test_a_body_that_nobody_reads_is_not_waited_for_for_ever(monkeypatch):
    monkeypatch.setattr(protocol, "BODY_SECONDS", 0.3)
    with listening() as (listener, address), serving_on(listener):
        with ask(address, b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\nabc") as connection:
            assert connection.recv(4096) == b""
        ask(address).close()


def test_the_more_connections_a_process_has_the_longer_it_lets_others_go_first(monkeypatch):
    """Whether they take their chance is up to the system; that they have one is seen by the time."""
    monkeypatch.setattr(accepting, "COURTESY_SECONDS", 0.1)  # or nothing could be told from it
    monkeypatch.setattr(accepting, "MAX_COURTESY_SECONDS", 0.25)
    waits = []
    with listening() as (listener, address), serving_on(listener), ExitStack() as held:
        for _ in range(5):
            started = time.monotonic()
            held.enter_context(ask(address))
            waits.append(time.monotonic() - started)
    # At least; a busy machine may add to it.
    assert all(wait > expected for wait, expected in zip(waits, (0, 0.09, 0.19, 0.24, 0.24), strict=True))


def test_a_system_without_room_is_told_and_asked_again(monkeypatch, read_log):
    monkeypatch.setattr(accepting, "EXHAUSTED_SECONDS", 0.1)
    with listening(Exhausted) as (listener, address), serving_on(listener):
        ask(address).close()
    (line,) = [line for line in read_log() if line["level"] == "error"]
    assert (line["event"], line["reason"]) == ("cannot accept connections", "Too many open files")


def test_after_closing_nothing_is_accepted():
    async def close_at_once(listener: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        server = await loop.create_server(asyncio.Protocol, sock=listener, backlog=10)
        server.close()
        server.close()
        await server.wait_closed()

    with listening() as (listener, address):
        with asyncio.Runner(loop_factory=TurnTakingLoop) as runner:
            runner.run(close_at_once(listener))
        with socket.create_connection(address) as connection:  # the system takes it; nobody else does
            connection.settimeout(0.2)
            with pytest.raises(TimeoutError):
                connection.recv(1)


def test_other_servers_are_the_loops_own():
    async def serve_by_address() -> str:
        loop = asyncio.get_running_loop()
        server = await loop.create_server(asyncio.Protocol, "127.0.0.1", 0)
        server.close()
        return type(server).__module__

    with asyncio.Runner(loop_factory=TurnTakingLoop) as runner:
        assert runner.run(serve_by_address()).startswith("uvloop")
