"""Request ids, the line that each request leaves in the log, and unexpected errors."""

from __future__ import annotations

import pytest

from onesheet.monitoring.metrics import Metrics
from onesheet.predictor import Predictor
from onesheet.serving import create_app
from onesheet.serving.context import RequestContext

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize("path", ["/livez", "/nowhere"])
async def test_a_harmless_request_id_comes_back(client, path):
    answer = await client.get(path, headers={"X-Request-ID": "Trace-1.a_b"})

    assert answer.headers["x-request-id"] == "Trace-1.a_b"


@pytest.mark.parametrize("proposed", ["", "a b", "x" * 65, "\u00e9", "a\nb", "<script>"])
async def test_any_other_is_replaced(client, proposed):
    answer = await client.get("/livez", headers={"X-Request-ID": proposed.encode()})

    assert answer.headers["x-request-id"] != proposed
    assert len(answer.headers["x-request-id"]) == 32


async def test_refused_bodies_carry_an_id_too(client):
    answer = await client.post("/predict", content=b"x" * 200_000)

    assert answer.status_code == 413
    assert answer.headers["x-request-id"]


async def test_each_request_leaves_one_line(read_log, client, make_poster):
    files = {"file": ("\x1b[31mevil\n.jpg", make_poster())}
    await client.post("/predict?topk=1", files=files, headers={"X-Request-ID": "first"})
    await client.get("/%1B%5B31m/a%20b", headers={"X-Request-ID": "second"})

    predict, lost = read_log()
    assert predict.pop("duration_ms") >= 0
    assert predict.pop("timestamp")
    assert predict == {
        "event": "request",
        "level": "info",
        "request_id": "first",
        "method": "POST",
        "path": "/predict",
        "status": 200,
    }
    assert (lost["request_id"], lost["status"], lost["path"]) == ("second", 404, "/%1B%5B31m/a%20b")


class BrokenPredictor(Predictor):
    def run(self, batch):
        raise ZeroDivisionError("a secret of the code")


async def test_an_unexpected_error_is_logged_and_not_shown(settings, tiny_bundle, connect, make_poster, read_log):
    from onesheet.bundle import load_bundle

    async with connect(create_app(settings, BrokenPredictor(load_bundle(tiny_bundle)))) as client:
        answer = await client.post("/predict", files={"file": make_poster()}, headers={"X-Request-ID": "unlucky"})
        assert (await client.get("/livez")).status_code == 200

    assert (answer.status_code, answer.json()["type"]) == (500, "/problems/internal_error")
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.headers["x-request-id"] == "unlucky"
    assert "secret" not in answer.text
    error, request = read_log()
    assert "a secret of the code" in error["exception"]
    assert "Traceback" in error["exception"]
    assert (error["request_id"], request["status"]) == ("unlucky", 500)


async def test_an_error_in_the_middle_of_an_answer_is_logged_and_nothing_more_is_sent(read_log):
    sent = []

    async def send(message):
        sent.append(message["type"])

    async def breaks(scope, receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": []})
        raise ZeroDivisionError

    scope = {"type": "http", "method": "GET", "path": "/breaks", "headers": []}
    await RequestContext(breaks, Metrics())(scope, None, send)

    assert sent == ["http.response.start"]
    error, request = read_log()
    assert "ZeroDivisionError" in error["exception"]
    assert request["status"] == 200
