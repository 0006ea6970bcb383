"""Cloud Storage for tries: a bucket on loopback, behind a proxy that now and then fails as networks and servers do.

with FaultyBucket("posters", fault) as bucket: ...    # STORAGE_EMULATOR_HOST=bucket.address
"""

from __future__ import annotations

import http.client
import logging
import re
import signal
import socket
import threading
from collections import Counter
from collections.abc import Callable
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Literal, Self

from gcp_storage_emulator.server import create_server

Fault = Literal["503", "403", "401", "silence", "hang up", "half"]
"""`silence`: no answer until the client gives up; `hang up`: the connection ends; `half`: it ends within the answer."""

_NAME = re.compile(rb'"name": *"([^"]+)"')


def no_fault(method: str, name: str) -> Fault | None:
    """All goes well."""


def start_emulator(port: int, bucket: str) -> Any:
    """The emulator with one bucket, in memory."""
    logging.getLogger("gcp_storage_emulator").setLevel(logging.CRITICAL)
    server = create_server("127.0.0.1", port, in_memory=True, default_bucket=bucket)
    # With each upload it would write down the list of all objects, which takes the longer the more there are.
    server._storage._write_config_to_file = lambda: None
    server.start()
    server._api._httpd.handle_error = lambda *_: None  # a client that has gone is no news
    return server


def serve_emulator(port: int, bucket: str) -> None:
    """The same, for a process that does nothing else."""
    start_emulator(port, bucket)
    signal.pause()


def free_port() -> int:
    """Nobody listens there now."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


class FaultyBucket:
    """A bucket whose requests may fail.

    Args:
        bucket: Its name.
        fault: Called with the method and the object's name (or the path) of each request: what goes wrong with it.

    Attributes:
        address: For `STORAGE_EMULATOR_HOST`.
        uploaded: How often each object has arrived.
        faults: How often each went wrong.
    """

    def __init__(self, bucket: str, fault: Callable[[str, str], Fault | None] = no_fault) -> None:
        self.fault = fault
        self.uploaded: Counter[str] = Counter()
        self.downloaded: Counter[str] = Counter()
        self.faults: Counter[str] = Counter()
        self.closing = threading.Event()
        self.port = free_port()
        self.emulator = start_emulator(self.port, bucket)
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), partial(_Handler, self))
        self._server.handle_error = lambda *_: None  # a client that was killed is no news
        self._server.daemon_threads = True
        self.address = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self.closing.set()
        self._server.shutdown()
        self._server.server_close()
        self.emulator.stop()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def __init__(self, bucket: FaultyBucket, *arguments: Any) -> None:
        self.bucket = bucket
        super().__init__(*arguments)

    def handle_one_request(self) -> None:
        try:
            super().handle_one_request()
        except OSError:  # the client has gone
            self.close_connection = True

    def log_message(self, *_: Any) -> None:
        """Say nothing."""

    def answer(self) -> None:
        """Pass the request on and its answer back, unless something goes wrong."""
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        named = _NAME.search(body)
        name = named[1].decode() if named else self.path
        fault = self.bucket.fault(self.command, name)
        if fault:
            self.bucket.faults[fault] += 1
        if fault == "silence":
            self.bucket.closing.wait()
        if fault in ("silence", "hang up"):
            self.close_connection = True
        elif fault in ("503", "403", "401"):
            self.reply(int(fault), b'{"error": {"message": "so it was ordered"}}')
        else:
            status, answer = self.ask_emulator(body)
            if self.command == "POST" and status == 200:
                self.bucket.uploaded[name] += 1
            if self.command == "GET" and "alt=media" in self.path and status == 200 and not fault:
                self.bucket.downloaded[name] += 1
            self.reply(status, answer, cut=fault == "half")

    do_GET = do_POST = do_PUT = do_DELETE = do_PATCH = do_HEAD = answer  # noqa: N815

    def ask_emulator(self, body: bytes) -> tuple[int, bytes]:
        """Status and body of its answer."""
        connection = http.client.HTTPConnection("127.0.0.1", self.bucket.port)
        connection.request(self.command, self.path, body, dict(self.headers))
        answer = connection.getresponse()
        return answer.status, answer.read()

    def reply(self, status: int, body: bytes, *, cut: bool = False) -> None:
        """Answer the client."""
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[: len(body) // 2] if cut else body)
        self.close_connection = self.close_connection or cut
