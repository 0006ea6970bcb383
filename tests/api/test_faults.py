"""What goes wrong around the service, with real processes: what was answered is in the log, and nothing else breaks."""

from __future__ import annotations

import io
import os
import shutil
import socket
import sqlite3
import struct
import threading
import time
import zlib
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import httpx
import psutil
import pytest
from PIL import Image

from tests.processes import MAX_WAIT, run_command

if TYPE_CHECKING:
    from collections.abc import Iterator

OPERATOR = "secret"


def logged_ids(server) -> list[str]:
    return [str(kept.id) for kept in server.logged()]


def metric(server, name: str) -> float:
    """One series of the service."""
    lines = httpx.get(f"{server.url}/metrics").text.splitlines()
    return next(float(line.split()[1]) for line in lines if line.startswith(f"{name} "))


# ------------------------------------------------------------------------------------------------ the log's store


def test_a_store_that_goes_and_comes_back_loses_no_answer(serving, load, make_poster, postgres, postgres_log_url):
    server = serving(LOG_URL=postgres_log_url, WORKERS="2")
    server.wait_for_workers(2)
    clients = load(server.url, make_poster())
    clients.wait_for(50)
    postgres.stop()
    clients.wait_for(20, status=503)
    assert httpx.get(f"{server.url}/livez").status_code == 200
    postgres.start()
    clients.wait_for(50)
    clients.stop()

    assert set(clients.statuses) == {200, 503}
    assert clients.broken == 0
    assert clients.slowest < 5
    logged = logged_ids(server)
    assert len(logged) == len(set(logged))
    assert set(clients.ids) <= set(logged)
    # At most those whose commit took place when the connection broke, so that they were refused all the same.
    assert len(logged) - len(clients.ids) <= 4


def test_while_the_store_is_away_all_are_answered_and_counted_if_the_settings_say_so(
    serving, load, make_poster, postgres, postgres_log_url, eventually
):
    server = serving(LOG_URL=postgres_log_url, LOG_FAILURE="answer")
    clients = load(server.url, make_poster())
    clients.wait_for(20)
    postgres.stop()
    eventually(lambda: clients.ids.count(None) >= 20)
    postgres.start()
    clients.wait_for(50)
    clients.stop()

    assert set(clients.statuses) == {200}
    assert clients.broken == 0
    assert metric(server, "onesheet_log_failures_total") == clients.ids.count(None)
    logged = logged_ids(server)
    assert {name for name in clients.ids if name} <= set(logged)
    assert len(logged) == len(set(logged))


def test_a_store_that_hangs_holds_nobody_up(serving, load, make_poster, postgres, postgres_log_url):
    server = serving(LOG_URL=postgres_log_url, LOG_SECONDS="0.5")
    clients = load(server.url, make_poster())
    clients.wait_for(20)
    with postgres.hung():
        clients.wait_for(20, status=503)
        for path in ("/livez", "/readyz"):
            assert httpx.get(f"{server.url}{path}").status_code == 200
    clients.wait_for(50)
    clients.stop()

    assert set(clients.statuses) == {200, 503}
    logged = logged_ids(server)
    assert len(logged) == len(set(logged))
    assert set(clients.ids) <= set(logged)


@contextmanager
def small_disk(folder: Path, size: str) -> Iterator[None]:
    """A file system of its own, which can be filled."""
    folder.mkdir()
    mounted = run_command(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", folder])
    if mounted.returncode:
        if os.environ.get("ONESHEET_REQUIRE_ALL") == "1":
            pytest.fail(f"no disk can be mounted: {mounted.stderr.decode()}")
        pytest.skip("no disk can be mounted; root may")
    try:
        yield
    finally:
        run_command(["umount", "-l", folder], check=True)


def fill(path: Path) -> None:
    """Write until there is no room left."""
    with path.open("wb", buffering=0) as filler, suppress(OSError):
        while True:
            filler.write(b"\0" * 4096)


def test_a_full_disk_loses_no_answer(serving, load, make_poster, tmp_path):
    disk = tmp_path / "disk"
    with small_disk(disk, "8m"):
        server = serving(LOG_URL=f"sqlite:///{disk}/log.db", WORKERS="2")
        server.wait_for_workers(2)
        clients = load(server.url, make_poster())
        clients.wait_for(20)
        fill(disk / "filler")
        clients.wait_for(20, status=503)
        assert httpx.get(f"{server.url}/readyz").status_code == 200
        (disk / "filler").unlink()
        clients.wait_for(50)
        clients.stop()

        assert set(clients.statuses) == {200, 503}
        assert clients.broken == 0
        assert Counter(clients.ids) == Counter(logged_ids(server))
        assert server.stop() == 0


def test_a_log_that_is_replaced_under_the_service_loses_no_answer(serving, load, make_poster, tmp_path):
    folder = tmp_path / "logs"
    folder.mkdir()
    path, backup, old = folder / "log.db", tmp_path / "backup.db", tmp_path / "old.db"
    server = serving(LOG_URL=f"sqlite:///{path}", WORKERS="2")
    server.wait_for_workers(2)
    clients = load(server.url, make_poster())
    clients.wait_for(8)
    clients.stop()
    with closing(sqlite3.connect(path)) as log, closing(sqlite3.connect(backup)) as copy:
        log.backup(copy)
    with closing(sqlite3.connect(old)) as other:
        other.executescript("CREATE TABLE other (x); INSERT INTO other VALUES (zeroblob(500000))")

    for replace in (
        path.unlink,
        lambda: path.rename(folder / "rotated.db"),
        lambda: shutil.copy(backup, path),
        lambda: shutil.copy(old, path),
        lambda: Path(shutil.copy(old, folder / "new.db")).rename(path),
        lambda: path.with_name("log.db-wal").unlink(),
        # Renamed first, for the service puts a new file into a folder as long as it is there.
        lambda: shutil.rmtree(folder.rename(tmp_path / "removed")) or folder.mkdir(),
    ):
        before = load(server.url, make_poster(), 2)
        before.wait_for(8)
        replace()
        after = load(server.url, make_poster(), 2)
        after.wait_for(8)
        for clients in (before, after):
            clients.stop()
            assert set(clients.statuses) <= {200, 503}
            assert clients.broken == 0
        assert set(after.ids) <= set(logged_ids(server))

    assert httpx.get(f"{server.url}/readyz").status_code == 200
    assert any(line["event"] == "prediction log opened again" for line in server.lines())
    assert not [line for line in server.lines() if line["event"] == "unexpected error"]


def test_another_disk_in_the_place_of_the_logs_loses_no_answer(serving, load, make_poster, tmp_path):
    disk = tmp_path / "disk"
    with small_disk(disk, "16m"):
        server = serving(LOG_URL=f"sqlite:///{disk}/log.db")
        clients = load(server.url, make_poster(), 2)
        clients.wait_for(20)
        run_command(["umount", "-l", disk], check=True)
        run_command(["mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", disk], check=True)
        after = load(server.url, make_poster(), 2)
        after.wait_for(20)
        clients.stop()
        after.stop()
        assert set(after.statuses) <= {200, 503}
        assert set(after.ids) <= set(logged_ids(server))


# ------------------------------------------------------------------------------------------------------ the model


def test_a_bundle_that_is_damaged_during_the_swap_leaves_the_old_one_answering(
    serving, load, make_poster, tiny_bundle, next_bundle, eventually
):
    server = serving(WORKERS="2", ADMIN_TOKEN=OPERATOR)
    server.wait_for_workers(2)
    clients = load(server.url, make_poster())
    whole, damaged = (next_bundle / "model.onnx").read_bytes(), threading.Event()

    def swap(bundle: Path) -> int:
        return httpx.post(
            f"{server.url}/admin/model",
            json={"bundle": str(bundle)},
            headers={"Authorization": f"Bearer {OPERATOR}"},
            timeout=MAX_WAIT,
        ).status_code

    def damage() -> None:
        while not damaged.is_set():
            for content in (whole[:-1], whole):
                (next_bundle / "model.onnx").write_bytes(content)
                time.sleep(0.005)

    vandal = threading.Thread(target=damage)
    vandal.start()
    found = Counter(swap(bundle) for _ in range(15) for bundle in (next_bundle, tiny_bundle))
    damaged.set()
    vandal.join()
    (next_bundle / "model.onnx").write_bytes(whole)
    assert swap(next_bundle) == 200
    shutil.rmtree(next_bundle)  # it is nobody's business any more
    eventually(lambda: {kept.model_version for kept in server.logged()[-50:]} == {"2.0.0"})
    before = len(server.logged())
    clients.wait_for(30)
    clients.stop()

    assert set(found) == {200, 422}
    assert set(clients.statuses) == {200}
    assert clients.broken == 0
    logged = server.logged()
    assert Counter(clients.ids) == Counter(str(kept.id) for kept in logged)
    assert {kept.model_version for kept in logged} == {"1.2.3", "2.0.0"}
    assert {kept.model_version for kept in logged[before:]} == {"2.0.0"}


def test_a_service_that_tries_a_graph_without_end_answers_on_and_ends_when_it_is_told_to(
    serving, make_poster, endless_bundle
):
    server = serving(ADMIN_TOKEN=OPERATOR)
    with ThreadPoolExecutor(1) as pool:
        swap = pool.submit(
            httpx.post,
            f"{server.url}/admin/model",
            json={"bundle": str(endless_bundle)},
            headers={"Authorization": f"Bearer {OPERATOR}"},
            timeout=100,
        )
        process = psutil.Process(server.process.pid)
        before = process.cpu_times().user
        while process.cpu_times().user < before + 0.5:
            time.sleep(0.02)
        assert httpx.post(f"{server.url}/predict", files={"file": make_poster()}).status_code == 200
        assert server.stop() == 0
        with suppress(httpx.TransportError):
            swap.result()


# ------------------------------------------------------------------------------------------------- hostile clients

FORM = b"Content-Type: multipart/form-data; boundary=x\r\n"
PART = b'--x\r\nContent-Disposition: form-data; name="file"; filename="a.jpg"\r\n\r\n'


def exchange(server, request: bytes, *, close: bool = False) -> bytes:
    """The status line that a request of our own making gets; empty when the connection is closed without one."""
    with socket.create_connection(server.address) as connection:
        connection.settimeout(MAX_WAIT)
        connection.sendall(request)
        if close:
            return b""
        try:
            return connection.recv(65536).split(b"\r\n")[0]
        except ConnectionResetError:
            return b""


@pytest.mark.parametrize(
    ("headers", "body", "status"),
    [
        (b"Content-Length: 1000000000000\r\n", PART, b"413"),
        (b"Content-Length: " + b"9" * 5000 + b"\r\n", PART, b"400"),
        (b"Content-Length: -1\r\n", PART, b"400"),
        (b"Content-Length: many\r\n", PART, b"400"),
        (b"Content-Length: 10\r\nContent-Length: 20\r\n", PART, b"400"),
        (b"Content-Length: 10\r\nTransfer-Encoding: chunked\r\n", b"0\r\n\r\n", b"400"),
        (b"Content-Length: 10\r\n", PART + b"\xff" * 500, b"422"),
        (b"Content-Length: 100000\r\n", PART, b"408"),
        (b"Transfer-Encoding: chunked\r\n", b"ffffffffffffffff\r\n" + PART, b"408"),
        (b"Transfer-Encoding: chunked\r\n", b"10000\r\n" + b"x" * 0x10000 + b"\r\n", b"400"),
        (b"Transfer-Encoding: chunked\r\n", (b"8000\r\n" + b"x" * 0x8000 + b"\r\n") * 40, b"4"),
    ],
)
def test_a_length_that_lies_ends_in_a_refusal(serving, headers, body, status):
    server = serving(MAX_UPLOAD_BYTES="1000000", BODY_SECONDS="1")
    request = b"POST /predict HTTP/1.1\r\nHost: x\r\n" + FORM + headers + b"\r\n" + body
    assert exchange(server, request).startswith(b"HTTP/1.1 " + status)
    assert exchange(server, b"GET /readyz HTTP/1.1\r\nHost: x\r\n\r\n") == b"HTTP/1.1 200 OK"
    assert server.logged() == []
    assert server.mistakes() == []


def test_a_client_that_leaves_in_the_middle_is_noted_and_nothing_more(serving, eventually):
    server = serving()
    head = b"POST /predict HTTP/1.1\r\nHost: x\r\n" + FORM + b"Content-Length: 100000\r\n\r\n"
    exchange(server, head + PART, close=True)
    eventually(lambda: any(line.get("status") == 499 for line in server.lines()))
    assert all(line["level"] == "info" for line in server.lines())
    assert server.logged() == []


@pytest.mark.parametrize("path", [b"/feedback", b"/admin/model", b"/predict/batch"])
def test_a_body_that_does_not_come_is_waited_for_on_no_route(serving, path):
    server = serving(BODY_SECONDS="0.5", ADMIN_TOKEN=OPERATOR)
    form = path == b"/predict/batch"
    kind, begun = (FORM, b"--x\r\n") if form else (b"Content-Type: application/json\r\n", b"{")
    head = b"POST " + path + b" HTTP/1.1\r\nHost: x\r\n" + kind + b"Content-Length: 50\r\n"
    head += b"Authorization: Bearer " + OPERATOR.encode() + b"\r\n\r\n"
    assert exchange(server, head + begun).startswith(b"HTTP/1.1 408")


def test_addresses_of_this_machine_are_not_asked_however_they_are_written(serving):
    server = serving(ALLOW_IMAGE_URL="true")
    with socket.create_server(("127.0.0.1", 0)) as canary:
        port = canary.getsockname()[1]
        hosts = ["127.0.0.1", "localhost", "2130706433", "0x7f000001", "0177.0.0.1", "127.1", "0", "0.0.0.0"]  # noqa: S104
        hosts += [
            "[::1]",
            "[::ffff:127.0.0.1]",
            "[::ffff:7f00:1]",
            "[64:ff9b::7f00:1]",
            "[::]",
            "localhost.",
            "①②⑦.0.0.1",
        ]
        for host in hosts:
            answer = httpx.post(
                f"{server.url}/predict", json={"image_url": f"https://{host}:{port}/"}, timeout=MAX_WAIT
            )
            assert answer.status_code == 422, (host, answer.text)
        canary.settimeout(0.2)
        with pytest.raises(TimeoutError):
            canary.accept()
    assert server.logged() == []


def encoded(kind: str, size: tuple[int, int] = (64, 64), **options) -> bytearray:
    sink = io.BytesIO()
    Image.new("RGB", size, "red").save(sink, kind, **options)
    return bytearray(sink.getvalue())


def png_chunk(name: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


# Their pixels are intact, and nothing else of them is read.
METADATA_BOMBS = ("PNG with a text of 300 MB", "PNG with a profile of 300 MB")


@pytest.fixture(scope="module")
def bombs() -> dict[str, bytes]:
    """Small files that would be enormous, or endless, in each format that is accepted."""
    jpeg = encoded("JPEG")
    frame = jpeg.index(b"\xff\xc0")
    jpeg[frame + 5 : frame + 9] = struct.pack(">HH", 65000, 65000)
    progressive = encoded("JPEG", progressive=True)
    frame = progressive.index(b"\xff\xc2")
    progressive[frame + 5 : frame + 9] = struct.pack(">HH", 30000, 30000)
    gif = encoded("GIF")
    gif[6:10] = struct.pack("<HH", 65000, 65000)
    webp = encoded("WEBP", lossless=True)
    webp[21:25] = struct.pack("<I", (16383 << 14) | 16383)
    lossy = encoded("WEBP")
    at = lossy.index(b"\x9d\x01\x2a") + 3
    lossy[at : at + 4] = struct.pack("<HH", 16383, 16383)
    png, pixels = b"\x89PNG\r\n\x1a\n", png_chunk(b"IDAT", zlib.compress(b"\0" * 100_000_000, 9))
    end = png_chunk(b"IEND", b"")

    def header(side: int) -> bytes:
        return png_chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0))

    small = bytes(encoded("PNG"))
    text = b"comment\0\0" + zlib.compress(b"x" * 300_000_000, 9)
    return {
        "JPEG": bytes(jpeg),
        "progressive JPEG": bytes(progressive),
        "GIF": bytes(gif),
        "lossless WebP": bytes(webp),
        "lossy WebP": bytes(lossy),
        "PNG": png + header(60_000) + pixels + end,
        METADATA_BOMBS[0]: small[:33] + png_chunk(b"zTXt", text) + small[33:],
        METADATA_BOMBS[1]: small[:33] + png_chunk(b"iCCP", text) + small[33:],
    }


def cost(server) -> tuple[float, int]:
    """Seconds of a core that a server has used, and bytes of memory."""
    process = psutil.Process(server.process.pid)
    return sum(process.cpu_times()[:2]), process.memory_info().rss


def test_bombs_cost_neither_time_nor_memory(serving, bombs):
    server = serving()
    for kind, data in bombs.items():
        seconds, memory = cost(server)
        answer = httpx.post(f"{server.url}/predict", files={"file": data})
        expected = (200,) if kind in METADATA_BOMBS else (400, 413)
        assert answer.status_code in expected, (kind, answer.text)
        assert cost(server)[0] - seconds < 2, kind
        assert cost(server)[1] - memory < 100e6, kind
    assert httpx.get(f"{server.url}/readyz").status_code == 200
    assert len(server.logged()) == len(METADATA_BOMBS)
