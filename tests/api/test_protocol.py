"""HTTP/1.1 itself: heads, Host, trailers, pipelined requests, and clients that do not read; over real sockets."""

from __future__ import annotations

import asyncio
import json
import re
import socket
import threading
from contextlib import closing
from functools import partial
from typing import TYPE_CHECKING

import pytest
import uvicorn

from onesheet.serving import protocol
from onesheet.serving.protocol import HEAD_BYTES, BoundedHttpProtocol

if TYPE_CHECKING:
    from collections.abc import Iterator

Address = tuple[str, int]
LARGE = b"x" * 30_000_000


async def describe(scope, receive, send) -> None:
    """Answers with the path, the headers' names and the length of the body; /large with 30 MB."""
    length, more = 0, True
    while more:
        message = await receive()
        length += len(message.get("body", b""))
        more = message.get("more_body", False)
    names = [name.decode() for name, _ in scope["headers"]]
    told = json.dumps({"path": scope["path"][:100], "headers": names, "length": length}).encode()
    body = LARGE if scope["path"] == "/large" else told
    await send(
        {
            "type": "http.response.start",
            "status": 200,
            "headers": [(b"content-length", str(len(body)).encode())],
        }
    )
    await send({"type": "http.response.body", "body": body})


@pytest.fixture(scope="module")
def address() -> Iterator[Address]:
    """A server in this process."""
    with closing(socket.create_server(("127.0.0.1", 0))) as listener:
        config = uvicorn.Config(describe, http=BoundedHttpProtocol, lifespan="off", log_config=None, access_log=False)
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, args=([listener],))
        thread.start()
        try:
            yield listener.getsockname()
        finally:
            server.should_exit = server.force_exit = True
            thread.join(60)


def exchange(address: Address, *pieces: bytes) -> bytes:
    """All that comes back until the server ends the connection."""
    with socket.create_connection(address) as connection:
        connection.settimeout(60)
        for piece in pieces:
            connection.sendall(piece)
        answer = b""
        while received := connection.recv(65536):
            answer += received
    return answer


def statuses(answers: bytes) -> list[int]:
    return [int(status) for status in re.findall(rb"HTTP/1\.1 (\d+) ", answers)]


def bodies(answers: bytes) -> list[dict]:
    return [json.loads(found) for found in re.findall(rb"\r\n\r\n(\{[^}]*\})", answers)]


GET = b"GET %b HTTP/1.1\r\nHost: films.example\r\n%b\r\n"
PLAIN = GET % (b"/first", b"")
LAST = GET % (b"/last", b"Connection: close\r\n")
FIT = HEAD_BYTES - 100
CHUNKED = b"POST /first HTTP/1.1\r\nHost: films.example\r\nTransfer-Encoding: chunked\r\n\r\n"

TOO_LARGE = {
    "one long header": GET % (b"/", b"X-Long: " + b"x" * HEAD_BYTES + b"\r\n"),
    "many headers": GET % (b"/", b"X-Many: 1\r\n" * (HEAD_BYTES // 10)),
    "a long target": GET % (b"/" + b"x" * HEAD_BYTES, b""),
    "a header that does not end": b"GET / HTTP/1.1\r\nX-Long: " + b"x" * (2 * HEAD_BYTES),
    "blanks before a value": GET % (b"/", b"X-Long:" + b" " * (2 * HEAD_BYTES) + b"1\r\n"),
    "empty lines before a request": b"\r\n" * 2 * HEAD_BYTES + PLAIN,
    "trailers": CHUNKED + b"3\r\nabc\r\n0\r\n" + b"X-Many: 1\r\n" * (HEAD_BYTES // 10) + b"\r\n",
    "a trailer that does not end": CHUNKED + b"3\r\nabc\r\n0\r\nX-Long: " + b"x" * (2 * HEAD_BYTES),
    "an extension of a chunk": CHUNKED + b"3;" + b"x" * (2 * HEAD_BYTES) + b"\r\nabc\r\n0\r\n\r\n",
}


def in_pieces(request: bytes, size: int) -> list[bytes]:
    return [request[start : start + size] for start in range(0, len(request), size)]


@pytest.mark.parametrize("request_", TOO_LARGE.values(), ids=TOO_LARGE)
@pytest.mark.parametrize("size", [10**9, 1000], ids=["at once", "in pieces"])
def test_a_head_over_the_limit_is_refused_however_it_arrives(address, request_, size):
    answer = exchange(address, *in_pieces(request_, size))
    assert statuses(answer) == [431]
    (problem,) = bodies(answer)
    assert (problem["type"], problem["status"]) == ("/problems/head_too_large", 431)


@pytest.mark.parametrize("name", ["many headers", "a long target", "trailers", "a header that does not end"])
def test_requests_before_it_are_answered_first(address, name):
    answer = exchange(address, PLAIN + PLAIN + TOO_LARGE[name])
    assert statuses(answer) == [200, 200, 431]


@pytest.mark.parametrize("size", [10**9, 1000, 1], ids=["at once", "in pieces", "byte by byte"])
def test_a_head_within_the_limit_passes_however_it_arrives(address, size):
    head = GET % (b"/last", b"Connection: close\r\nX-Long: " + b"x" * (FIT - 100) + b"\r\n")
    answer = exchange(address, PLAIN, *in_pieces(head, size)) if size > 1 else exchange(address, *in_pieces(head, 7))
    assert statuses(answer)[-1] == 200


def test_large_bodies_do_not_count_as_heads(address):
    large = b"POST /first HTTP/1.1\r\nHost: x\r\nContent-Length: 300000\r\n\r\n" + b"x" * 300_000
    answer = exchange(address, large + large + LAST)
    assert statuses(answer) == [200] * 3
    assert [body["length"] for body in bodies(answer)] == [300_000, 300_000, 0]


def test_a_body_in_many_small_chunks_is_read(address):
    answer = exchange(address, CHUNKED + b"1\r\nx\r\n" * 50_000 + b"0\r\n\r\n" + LAST)
    assert [body["length"] for body in bodies(answer)] == [50_000, 0]


def test_trailers_are_no_headers(address):
    answer = exchange(address, CHUNKED + b"3\r\nabc\r\n0\r\nX-Api-Key: stolen\r\n\r\n" + LAST)
    first = bodies(answer)[0]
    assert (first["headers"], first["length"]) == (["host", "transfer-encoding"], 3)


@pytest.mark.parametrize(
    "hosts",
    [[], ["a.example", "a.example"], ["a.example", "b.example"], ["a b"], ["a/b"], ["user@a.example"], ["a,b"]],
)
def test_a_request_that_names_no_host_or_two_is_refused(address, hosts):
    head = b"GET / HTTP/1.1\r\n" + b"".join(b"Host: %b\r\n" % host.encode() for host in hosts) + b"\r\n"
    answer = exchange(address, PLAIN + head)
    assert statuses(answer) == [200, 400]
    assert bodies(answer)[-1]["type"] == "/problems/malformed_request"


@pytest.mark.parametrize(
    "head",
    [
        b"GET / HTTP/1.0\r\n\r\n",
        b"GET / HTTP/1.0\r\nHost: a.example\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost:\r\nConnection: close\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: [::1]:8000\r\nConnection: close\r\n\r\n",
    ],
)
def test_a_request_that_names_one_or_need_not_is_answered(address, head):
    assert statuses(exchange(address, head)) == [200]


@pytest.mark.parametrize(
    "request_", [b"nonsense\r\n\r\n", b"CONNECT a.example:443 HTTP/1.1\r\nHost: a.example\r\n\r\n"]
)
def test_nonsense_gets_a_problem(address, request_):
    answer = exchange(address, request_)
    assert b"application/problem+json" in answer
    assert bodies(answer)[0]["type"] == "/problems/malformed_request"


def test_a_broken_body_gets_one_answer(address):
    answer = exchange(address, PLAIN + CHUNKED + b"nonsense\r\n")
    assert statuses(answer) == [200, 400]
    assert statuses(exchange(address, CHUNKED + b"nonsense\r\n")) == [400]


def test_an_upgrade_that_is_not_offered_is_ignored(address):
    """As Java's HTTP client asks for HTTP/2."""
    upgrade = b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAEAAEAAAAIAAAABAAMAAABk\r\n"
    post = b"POST /first HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n" + upgrade + b"\r\nabc"
    with socket.create_connection(address) as connection:
        connection.settimeout(60)
        for _ in range(2):
            connection.sendall(post)
            assert bodies(connection.recv(65536))[0]["length"] == 3


def test_thousands_of_pipelined_requests_are_answered_in_turn(address):
    """Of one client that sends as much as it can, and of another that asks once meanwhile."""
    greedy = socket.create_connection(address)
    greedy.settimeout(60)
    count = 20_000
    sender = threading.Thread(target=greedy.sendall, args=(PLAIN * (count - 1) + LAST,))
    sender.start()
    received = greedy.recv(1000)
    other = exchange(address, LAST)
    while piece := greedy.recv(1_000_000):
        received += piece
    sender.join(60)
    greedy.close()
    assert statuses(other) == [200]
    assert received.count(b"HTTP/1.1 200") == count


def test_pipelined_requests_that_wait_are_not_parsed_and_not_read(address, monkeypatch):
    most = 0

    start = BoundedHttpProtocol._start_asgi_task

    def counting(self, cycle, app):
        nonlocal most
        most = max(most, len(self.pipeline), len(self._held) // 4096)
        start(self, cycle, app)

    monkeypatch.setattr(BoundedHttpProtocol, "_start_asgi_task", counting)
    answer = exchange(address, PLAIN * 20_000 + LAST)
    assert answer.count(b"HTTP/1.1 200") == 20_001
    assert most < 200


def test_in_a_turn_of_the_event_loop_few_requests_start_in_their_order():
    """Between the turns new clients are accepted, and probes answered."""
    started: list[int] = []
    per_turn: list[int] = []

    async def run() -> None:
        turns = protocol._Turns(asyncio.get_running_loop())
        for number in range(20):
            turns.add(partial(started.append, number))
        while len(started) < 20:
            before = len(started)
            await asyncio.sleep(0)
            per_turn.append(len(started) - before)

    asyncio.run(run())
    assert started == list(range(20))
    assert max(per_turn) <= 4


def test_a_client_that_does_not_read_its_answer_is_cut_off(address, monkeypatch, eventually):
    monkeypatch.setattr(protocol, "ANSWER_SECONDS", 0.2)
    with socket.create_connection(address) as connection:
        connection.sendall(GET % (b"/large", b""))
        eventually(lambda: BoundedHttpProtocol.open_connections == 1)
        eventually(lambda: BoundedHttpProtocol.open_connections == 0)
