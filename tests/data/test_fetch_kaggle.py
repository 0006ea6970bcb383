"""Fetching from Kaggle: its real client against a server on loopback that keeps the contract.

The client knows its hosts by name only, so it is sent to `http://localhost` (its own `LOCALHOST` environment) with
our server as the HTTP proxy: that way the server can listen on any free port.
"""

from __future__ import annotations

import base64
import hashlib
import io
import json
import sys
import threading
import time
import zipfile
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import pytest

from onesheet.data.fetch import fetch
from onesheet.data.progress import Progress
from onesheet.data.sources import kaggle
from onesheet.errors import FetchError
from tests.processes import MAX_WAIT, eventually, serve_in_thread

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

SOURCE = "kaggle:raman77768/movie-classifier"
CHUNK = 2**20
"""Bytes that the client writes at once, and so resumes at."""


@dataclass
class Kaggle:
    """What the server sends, and what it was asked for."""

    archive: bytes = b""
    hashed: bool = True
    status: int = 200
    cut_at: int | None = None
    held: threading.Event | None = None
    damaged: int = 0
    silent: bool = False
    asked: list[str] = field(default_factory=list)


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    kaggle: Kaggle

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        method = urlsplit(self.path).path.removeprefix("/api/v1/datasets.DatasetApiService/")
        self.kaggle.asked.append(method)
        if self.kaggle.silent:
            time.sleep(30)
        elif self.kaggle.status != 200:
            self._answer(self.kaggle.status, {"Content-Type": "application/json"}, b'{"message": "no"}')
        elif method == "GetDataset":
            details = {"currentVersionNumber": 3}
            headers = {"Content-Type": "application/json", "X-Kaggle-HubVersion": "999.0.0"}
            self._answer(200, headers, json.dumps(details).encode())
        else:
            self._answer(302, {"Location": "http://localhost/bucket/archive.zip"}, b"")

    def do_GET(self) -> None:
        span = self.headers.get("Range", "")
        self.kaggle.asked.append(f"archive {span}".strip())
        body = self.kaggle.archive
        md5 = base64.b64encode(hashlib.md5(body, usedforsecurity=False).digest()).decode()
        headers = {"Content-Type": "application/zip", "Accept-Ranges": "bytes"}
        if self.kaggle.hashed:
            headers["x-goog-hash"] = f"crc32c=AAAAAA==,md5={md5}"
        if self.kaggle.damaged:
            self.kaggle.damaged -= 1
            body = body[:100] + b"damage" + body[106:]
        if span:
            body = body[int(span.removeprefix("bytes=").removesuffix("-")) :]
        self._answer(206 if span else 200, headers, body)

    def _answer(self, status: int, headers: dict[str, str], body: bytes) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        cut, self.kaggle.cut_at = (self.kaggle.cut_at, None) if len(body) > 1000 else (None, self.kaggle.cut_at)
        self.wfile.write(body[:cut])
        if cut and self.kaggle.held:
            self.wfile.flush()
            self.kaggle.held.wait(MAX_WAIT)
        self.close_connection = cut is not None

    def log_message(self, *arguments: object) -> None:
        """Stay quiet."""


@pytest.fixture
def server(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Kaggle]:
    """Kaggle with the source's files in one folder of one archive."""
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        for path in sorted(source.rglob("*")):
            if path.is_file():
                archive.write(path, Path("Multi_Label_dataset") / path.relative_to(source))
        archive.writestr("../../../evil.txt", "evil")
        archive.writestr("Multi_Label_dataset/readme.txt", bytes(2 * CHUNK))
    contract = Kaggle(packed.getvalue())
    bound = type("Bound", (Handler,), {"kaggle": contract})
    with serve_in_thread(ThreadingHTTPServer(("127.0.0.1", 0), bound)) as http:
        monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{http.server_port}")
        _isolate(monkeypatch, tmp_path)
        yield contract


def _isolate(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("KAGGLE_API_ENVIRONMENT", "LOCALHOST")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    for name in ("no_proxy", "NO_PROXY", "HTTP_PROXY", "KAGGLE_API_TOKEN", "KAGGLE_USERNAME", "KAGGLE_KEY"):
        monkeypatch.delenv(name, raising=False)


def same_posters(out: Path, source: Path) -> bool:
    names = [path.relative_to(source) for path in source.rglob("*") if path.is_file()]
    return all((out / name).read_bytes() == (source / name).read_bytes() for name in names)


def test_brings_the_posters_and_nothing_else(
    server: Kaggle, source: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    seen: list[Progress] = []
    receipt = fetch(SOURCE, tmp_path / "a" / "b" / "raw", progress=seen.append)
    assert same_posters(tmp_path / "a" / "b" / "raw", source)
    assert (receipt.files, receipt.source) == (41, SOURCE)
    assert server.asked == ["GetDataset", "DownloadDataset", "archive"]
    assert capfd.readouterr() == ("", ""), "the client prints, but not on our terminal"
    assert list((tmp_path / "a" / "b").iterdir()) == [tmp_path / "a" / "b" / "raw"]
    assert not list(tmp_path.rglob("evil.txt"))
    assert not (tmp_path / "home").exists(), "its cache is inside our staging folder"
    client = [p for p in seen if p.step == "downloading" and p.total_files is None]
    assert client, "something is shown while the client downloads"


@pytest.mark.parametrize("hashed", [True, False])
def test_goes_on_where_the_connection_broke(
    server: Kaggle, source: Path, tmp_path: Path, no_pauses: None, hashed: bool
) -> None:
    server.cut_at, server.hashed = CHUNK + 5000, hashed
    fetch(SOURCE, tmp_path / "raw")
    assert server.asked[-1] == f"archive bytes={CHUNK}-"
    assert same_posters(tmp_path / "raw", source)


def test_goes_on_where_it_was_killed(
    server: Kaggle, source: Path, tmp_path: Path, kill_in_the_middle: Callable[..., None]
) -> None:
    server.cut_at, server.held = CHUNK + 5000, threading.Event()
    kill_in_the_middle(SOURCE, tmp_path / "raw", size=CHUNK)
    eventually(lambda: _is_gone(str(tmp_path)))  # the client ends with us; two of them would spoil the archive
    server.held.set()
    fetch(SOURCE, tmp_path / "raw")
    assert server.asked[-1] == f"archive bytes={CHUNK}-"
    assert same_posters(tmp_path / "raw", source)


def _is_gone(argument: str) -> bool:
    """Whether no process has this in its command line any more."""
    return argument.encode() not in b"".join(map(_command_line, Path("/proc").glob("[0-9]*")))


def _command_line(process: Path) -> bytes:
    try:
        return (process / "cmdline").read_bytes()
    except OSError:  # it has just ended
        return b""


@pytest.mark.parametrize("hashed", [True, False])
def test_damaged_archive_is_fetched_again(
    server: Kaggle, source: Path, tmp_path: Path, no_pauses: None, hashed: bool
) -> None:
    server.damaged, server.hashed = 1, hashed
    fetch(SOURCE, tmp_path / "raw")
    assert server.asked.count("archive") == 2
    assert same_posters(tmp_path / "raw", source)


@pytest.mark.parametrize(
    ("status", "message"),
    [
        (401, r"Kaggle refuses raman77768/movie-classifier \(HTTP 401\): .* set KAGGLE_API_TOKEN, or KAGGLE_USERNAME"),
        (403, r"Kaggle refuses raman77768/movie-classifier \(HTTP 403\): .* set KAGGLE_API_TOKEN"),
        (404, "Kaggle has no data set raman77768/movie-classifier"),
        (503, "Kaggle cannot send raman77768/movie-classifier: 503 Server Error"),
    ],
)
def test_refusals_say_what_to_do(server: Kaggle, tmp_path: Path, no_pauses: None, status: int, message: str) -> None:
    server.status = status
    with pytest.raises(FetchError, match=message) as caught:
        fetch(SOURCE, tmp_path / "raw")
    assert "\n" not in caught.value.message
    assert len(server.asked) == (4 if status == 503 else 1), "only what may pass is tried again"


def test_no_network_is_told_in_seconds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _isolate(monkeypatch, tmp_path)
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    start = time.monotonic()
    with pytest.raises(FetchError, match="cannot reach Kaggle for raman77768/movie-classifier: check the network"):
        fetch(SOURCE, tmp_path / "raw")
    assert time.monotonic() - start < MAX_WAIT


def test_silent_host_is_given_up(server: Kaggle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    server.silent = True
    monkeypatch.setattr(kaggle, "STALLED_S", 0.4)
    monkeypatch.setattr(kaggle, "POLL_S", 0.1)
    with pytest.raises(FetchError, match="Kaggle has sent nothing for"):
        fetch(SOURCE, tmp_path / "raw")


def test_client_that_breaks_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KAGGLE_API_ENVIRONMENT", "MOON")
    with pytest.raises(FetchError, match=r"Kaggle's client failed: .*MOON"):
        fetch(SOURCE, tmp_path / "raw")


def test_client_that_says_nothing_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "false")
    with pytest.raises(FetchError, match="Kaggle's client failed: it says nothing"):
        fetch(SOURCE, tmp_path / "raw")
