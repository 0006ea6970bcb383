"""Bodies over the limit are refused, however they are sent, and without being read."""

from __future__ import annotations

import pytest

from onesheet.serving.limits import BodyLimit

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

    await BodyLimit(inner, max_bytes=1, seconds=1)({"type": "websocket"}, None, None)
    assert passed == ["websocket"]
