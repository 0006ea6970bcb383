"""The load generator counts what came back, and is told when nothing does."""

from __future__ import annotations

import itertools
import socket
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING

import pytest

from onesheet.errors import OnesheetError
from onesheet.load import run_load, upload_request
from tests.processes import MAX_WAIT, serve_in_thread

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


class Picky(BaseHTTPRequestHandler):
    """Answers every second request with 503; keeps what it was sent."""

    protocol_version = "HTTP/1.1"
    numbers = itertools.count()
    bodies: list[bytes]

    def do_POST(self) -> None:
        self.bodies.append(self.rfile.read(int(self.headers["content-length"])))
        content = b"x" * 70_000  # comes in several pieces
        self.send_response(503 if next(self.numbers) % 2 else 200)
        self.send_header("content-length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        """Nothing."""


@pytest.fixture
def server() -> Iterator[str]:
    Picky.bodies = []
    with serve_in_thread(ThreadingHTTPServer(("127.0.0.1", 0), Picky)) as running:
        yield f"http://127.0.0.1:{running.server_port}"


def long_enough(measure: Callable[[float], bool], seconds: float) -> float:
    """So many seconds, or twice as many, again and again: on a busy machine little happens in each."""
    while not measure(seconds):
        assert seconds < MAX_WAIT
        seconds *= 2
    return seconds


def test_answers_are_counted_by_status(server: str) -> None:
    requests = [upload_request(f"{server}/predict", "file", poster) for poster in (b"first", b"second")]
    result = None

    def both_are_seen(seconds: float) -> bool:
        nonlocal result
        Picky.bodies.clear()
        result = run_load(server, requests, connections=3, seconds=seconds)
        return result.statuses.keys() == {200, 503}

    seconds = long_enough(both_are_seen, 0.5)
    assert result.statuses.total() <= len(Picky.bodies) <= result.statuses.total() + 3
    assert len(result.latencies) == result.statuses[200]
    assert result.per_second == result.statuses[200] / seconds
    assert 0 < result.percentile_ms(50) <= result.percentile_ms(100)
    for poster in (b"first", b"second"):
        assert sum(poster in body for body in Picky.bodies) >= len(Picky.bodies) // 2 - 3


def test_what_is_answered_while_it_warms_up_does_not_count(server: str) -> None:
    requests = [upload_request(f"{server}/predict", "file", b"poster")]
    result = None

    def some_are_seen(seconds: float) -> bool:
        nonlocal result
        Picky.bodies.clear()
        result = run_load(server, requests, connections=1, seconds=seconds, warm_up=2 * seconds)
        return 0 < result.statuses.total() < len(Picky.bodies)

    long_enough(some_are_seen, 0.3)
    assert len(result.latencies) == result.statuses[200]


def test_users_pause_between_requests(server: str) -> None:
    requests = [upload_request(f"{server}/predict", "file", b"poster")]

    def all_have_asked(seconds: float) -> bool:
        Picky.bodies.clear()
        run_load(server, requests, connections=4, seconds=seconds, pause=0.5)
        return len(Picky.bodies) >= 4

    seconds = long_enough(all_have_asked, 0.7)
    # Each at its own moment of the first half second, and then once in half a second at most.
    assert len(Picky.bodies) <= 4 * (1 + seconds / 0.5)


def test_a_server_that_is_not_there() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    with pytest.raises(OnesheetError, match="cannot reach http://127"):
        run_load(url, [b""], connections=1, seconds=1)


def test_a_server_that_hangs_up() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def hang_up() -> None:
            listener.accept()[0].close()

        thread = threading.Thread(target=hang_up)
        thread.start()
        with pytest.raises(OnesheetError, match="closed a connection under load"):
            run_load(f"http://127.0.0.1:{listener.getsockname()[1]}", [b"GET /"], connections=1, seconds=20)
        thread.join()
