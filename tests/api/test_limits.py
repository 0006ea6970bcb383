"""Bodies over the limit are refused, however they are sent, and without being read."""

from __future__ import annotations

import asyncio
import json

import anyio
import httpx
import pytest

from onesheet.serving import create_app
from onesheet.serving.limits import MAX_JSON_BYTES, BodyLimit

pytestmark = pytest.mark.anyio

LIMIT = 100_000
MULTIPART = {"content-type": "multipart/form-data; boundary=x"}
HEAD = b'--x\r\nContent-Disposition: form-data; name="file"; filename="a.jpg"\r\n\r\n'
TAIL = b"\r\n--x--\r\n"


class Sender:
    """A body in chunks of 10 kB that remembers how much of it was asked for."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.sent = 0

    async def __aiter__(self):
        yield HEAD
        while self.sent < self.size:
            self.sent += 10_000
            yield b"\0" * 10_000
        yield TAIL


def assert_too_large(answer) -> None:
    assert (answer.status_code, answer.json()["type"]) == (413, "/problems/body_too_large")
    assert answer.headers["content-type"] == "application/problem+json"
    assert str(LIMIT) in answer.json()["detail"]


async def test_chunked_body_over_the_limit_is_cut_off(client):
    body = Sender(50 * LIMIT)
    assert_too_large(await client.post("/predict", content=body, headers=MULTIPART))
    assert body.sent <= LIMIT + 10_000


async def test_declared_length_over_the_limit_is_refused_unread(client):
    body = Sender(LIMIT)
    headers = {**MULTIPART, "content-length": str(LIMIT + 1)}
    assert_too_large(await client.post("/predict", content=body, headers=headers))
    assert body.sent == 0


@pytest.mark.parametrize("lie", ["10", "0", "-1", "many", "\u00b2"])
async def test_a_declared_length_that_lies_does_not_help(client, lie):
    headers = {**MULTIPART, "content-length": lie.encode("latin-1")}
    assert_too_large(await client.post("/predict", content=Sender(2 * LIMIT), headers=headers))


async def test_an_absurd_declared_length_is_no_server_error(client):
    headers = {**MULTIPART, "content-length": "9" * 5000}
    assert_too_large(await client.post("/predict", content=Sender(10), headers=headers))


async def test_a_body_of_exactly_the_limit_is_read(client):
    body = HEAD + b"\0" * (LIMIT - len(HEAD) - len(TAIL)) + TAIL
    answer = await client.post("/predict", content=body, headers=MULTIPART)
    assert (answer.status_code, answer.json()["type"]) == (400, "/problems/not_an_image")


async def test_other_protocols_pass(predictor):
    passed = []

    async def inner(scope, receive, send):
        passed.append(scope["type"])

    await BodyLimit(inner, max_bytes=1, max_bytes_at_once=1, seconds=1)({"type": "websocket"}, None, None)
    assert passed == ["websocket"]


# ------------------------------------------------------------------------------- the memory that all bodies share


class Upload:
    """One request whose body arrives as told, over ASGI.

    Args:
        app: The API.
        address: The client's.
        declared: Its Content-Length.
        path: Asked for.
    """

    def __init__(self, app, address: str, declared: int, path: str = "/predict") -> None:
        self._pieces: asyncio.Queue[dict] = asyncio.Queue()
        self.status: int | None = None
        self.headers: dict[bytes, bytes] = {}
        headers = [
            (b"host", b"onesheet.test"),
            (b"content-length", str(declared).encode()),
            (b"content-type", MULTIPART["content-type"].encode()),
        ]
        scope = {"type": "http", "method": "POST", "path": path, "raw_path": path.encode(), "query_string": b""}
        scope |= {"headers": headers, "client": (address, 1234), "server": ("onesheet.test", 80), "scheme": "http"}
        scope |= {"http_version": "1.1", "root_path": "", "asgi": {"version": "3.0"}}
        self._task = asyncio.create_task(app(scope, self._pieces.get, self._send))

    async def _send(self, message) -> None:
        if message["type"] == "http.response.start":
            self.status, self.headers = message["status"], dict(message["headers"])

    async def sends(self, body: bytes, more: bool = True) -> None:
        """Returns when it has been read."""
        self._pieces.put_nowait({"type": "http.request", "body": body, "more_body": more})
        with anyio.fail_after(60):
            while not self._pieces.empty() and not self._task.done():
                await asyncio.sleep(0)
            for _ in range(20):
                await asyncio.sleep(0)

    async def answered(self) -> int | None:
        """The status, after the client has left if it must be."""
        self._pieces.put_nowait({"type": "http.disconnect"})
        with anyio.fail_after(60):
            await self._task
        return self.status


@pytest.fixture
def shared(settings, predictor):
    """An API with room for four bodies of the largest size, of which a client may hold one."""
    return create_app(settings.model_copy(update={"max_upload_bytes_at_once": 4 * LIMIT}), predictor)


async def status_for(app, address: str, poster: bytes) -> int:
    transport = httpx.ASGITransport(app=app, client=(address, 1234))
    async with httpx.AsyncClient(transport=transport, base_url="http://onesheet.test") as client:
        return (await client.post("/predict", files={"file": poster})).status_code


async def test_what_is_declared_and_not_sent_takes_no_room(shared, make_poster):
    silent = [Upload(shared, "203.0.113.1", LIMIT) for _ in range(100)]
    for upload in silent:
        await upload.sends(HEAD)
    assert await status_for(shared, "203.0.113.1", make_poster()) == 200
    assert await status_for(shared, "203.0.113.2", make_poster()) == 200
    for upload in silent:
        await upload.answered()


@pytest.mark.parametrize("path", ["/predict", "/predict/batch", "/explain", "/similar"])
async def test_a_client_over_its_share_is_refused_and_the_others_do_not_notice(shared, make_poster, path):
    greedy = [Upload(shared, "203.0.113.1", LIMIT, path) for _ in range(2)]
    for upload in greedy:
        await upload.sends(HEAD + b"\0" * (LIMIT * 6 // 10))
    assert [upload.status for upload in greedy] == [None, 429]
    assert int(greedy[1].headers[b"retry-after"]) > 0
    assert await status_for(shared, "203.0.113.2", make_poster()) == 200
    for upload in greedy:
        await upload.answered()
    assert await status_for(shared, "203.0.113.1", make_poster()) == 200  # what it held is free again


async def test_addresses_of_one_ipv6_network_are_one_client(shared):
    uploads = [Upload(shared, f"2001:db8::{number}", LIMIT) for number in (1, 2)]
    for upload in uploads:
        await upload.sends(HEAD + b"\0" * (LIMIT * 6 // 10))
    assert [upload.status for upload in uploads] == [None, 429]
    for upload in uploads:
        await upload.answered()


async def test_all_clients_together_have_a_limit(shared, make_poster):
    uploads = [Upload(shared, f"203.0.113.{number}", LIMIT) for number in range(5)]
    for upload in uploads:
        await upload.sends(HEAD + b"\0" * (LIMIT * 9 // 10))
    assert [upload.status for upload in uploads] == [None, None, None, None, 503]
    for upload in uploads:
        await upload.answered()
    assert await status_for(shared, "203.0.113.9", make_poster()) == 200


async def test_clients_behind_a_trusted_proxy_are_told_apart(settings, predictor):
    told = {"trusted_proxies": "203.0.113.1", "max_upload_bytes_at_once": 4 * LIMIT, "rate_limit": 2}
    app = create_app(settings.model_copy(update=told), predictor)
    transport = httpx.ASGITransport(app=app, client=("203.0.113.1", 1234))
    async with httpx.AsyncClient(transport=transport, base_url="http://onesheet.test") as client:
        statuses = [
            (await client.get("/model", headers={"X-Forwarded-For": address})).status_code
            for address in ("198.51.100.1", "198.51.100.1", "198.51.100.1", "198.51.100.2")
        ]
    assert statuses == [200, 200, 429, 200]


async def test_json_is_short(settings, predictor, connect):
    app = create_app(settings.model_copy(update={"max_upload_bytes": 10 * MAX_JSON_BYTES}), predictor)
    body = json.dumps({"prediction_id": "x", "genres": ["Drama"] * MAX_JSON_BYTES}).encode()
    async with connect(app) as client:
        for path in ("/feedback", "/predict", "/admin/model"):
            answer = await client.post(path, content=body, headers={"content-type": "application/json"})
            assert (answer.status_code, answer.json()["type"]) == (413, "/problems/body_too_large"), path
            assert str(MAX_JSON_BYTES) in answer.json()["detail"]
        assert (await client.post("/feedback", content=body)).status_code == 413
