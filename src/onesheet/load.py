"""Load for an HTTP server, from the machine that it runs on: cheap enough to leave the server its cores."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final

import httptools
import httpx
import numpy as np
from uvicorn.loops.auto import auto_loop_factory

from onesheet.errors import OnesheetError

_OK: Final = 200
_HTTP_PORT: Final = 80


@dataclass(slots=True)
class LoadResult:
    """What came back.

    Attributes:
        seconds: How long the load lasted.
        statuses: Answers by HTTP status.
        latencies: Seconds of each answer with status 200.
    """

    seconds: float
    statuses: Counter[int] = field(default_factory=Counter)
    latencies: list[float] = field(default_factory=list)

    def forget(self) -> None:
        """Begin anew."""
        self.statuses.clear()
        self.latencies.clear()

    @property
    def per_second(self) -> float:
        """Answers with status 200."""
        return len(self.latencies) / self.seconds

    def percentile_ms(self, percent: float) -> float:
        """Latency that this share of the answers stayed under, in milliseconds; NaN without any."""
        return float(np.percentile(self.latencies, percent)) * 1e3 if self.latencies else float("nan")


def upload_request(url: str, field_name: str, data: bytes) -> bytes:
    """A form with one file as it goes over the wire, headers and all."""
    request = httpx.Request("POST", url, files={field_name: ("poster.jpg", data)})
    body = request.read()
    headers = "".join(f"{name}: {value}\r\n" for name, value in request.headers.items())
    return f"POST {request.url.raw_path.decode()} HTTP/1.1\r\n{headers}\r\n".encode() + body


def run_load(
    url: str, requests: Sequence[bytes], *, connections: int, seconds: float, warm_up: float = 0.0, pause: float = 0.0
) -> LoadResult:
    """Send requests over kept connections, each as soon as the answer to the last one is there, or a pause later.

    Args:
        url: Of the server; its path does not matter.
        requests: Sent in turn, again and again.
        connections: How many requests are under way at any time, or users where they pause.
        seconds: How long; answers that come later do not count.
        warm_up: Seconds before that, of the same load; answers that come so early do not count either.
        pause: Seconds between an answer and the next request; connections then start one after another.

    Raises:
        OnesheetError: The server cannot be reached, or closes a connection.
    """
    with asyncio.Runner(loop_factory=auto_loop_factory()) as runner:
        return runner.run(_run(url, itertools.cycle(requests), connections, seconds, warm_up, pause))


async def _run(
    url: str, requests: Iterator[bytes], connections: int, seconds: float, warm_up: float, pause: float
) -> LoadResult:
    address = httpx.URL(url)
    loop = asyncio.get_running_loop()
    result = LoadResult(seconds)
    failed: asyncio.Future[None] = loop.create_future()
    opened: list[_Connection] = []
    try:
        for _ in range(connections):
            _, connection = await loop.create_connection(
                lambda: _Connection(requests, result, failed, pause), address.host, address.port or _HTTP_PORT
            )
            opened.append(connection)
        for number, connection in enumerate(opened):
            loop.call_later(pause * number / connections, connection.send)
        for length in filter(None, (warm_up, seconds)):  # even a wait of no length may see an answer, to be forgotten
            result.forget()
            await asyncio.wait({failed}, timeout=length)
    except OSError as error:
        raise OnesheetError(f"cannot reach {url}") from error
    finally:
        for connection in opened:
            connection.close()
    if failed.done():
        raise OnesheetError(f"{url} closed a connection under load")
    return result


class _Connection(asyncio.Protocol):
    """Asks, reads the answer to its end, and asks again."""

    def __init__(
        self, requests: Iterator[bytes], result: LoadResult, failed: asyncio.Future[None], pause: float
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._pause = pause
        self._requests = requests
        self._result = result
        self._failed = failed
        self._closed = False
        self._sent = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    def send(self) -> None:
        """The next request."""
        if self._closed:
            return
        self._parser = httptools.HttpResponseParser(self)
        self._sent = time.perf_counter()
        self._transport.write(next(self._requests))  # type: ignore[attr-defined]

    def data_received(self, data: bytes) -> None:
        if not self._closed:
            self._parser.feed_data(data)

    def on_message_complete(self) -> None:
        """Called by the parser at the end of an answer."""
        status = self._parser.get_status_code()
        self._result.statuses[status] += 1
        if status == _OK:
            self._result.latencies.append(time.perf_counter() - self._sent)
        self._loop.call_later(self._pause, self.send)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002
        if not self._closed and not self._failed.done():
            self._failed.set_result(None)

    def close(self) -> None:
        """Forget the answer that is under way."""
        self._closed = True
        self._transport.close()
