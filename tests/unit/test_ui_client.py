"""The page's client: against a server that answers what a test tells it to."""

from __future__ import annotations

import json
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from onesheet.errors import ApiError, ApiUnavailableError, InvalidRequestError, MissingExtraError
from onesheet.ui.address import find_api
from onesheet.ui.client import ApiClient
from tests.processes import serve_in_thread


class Scripted(BaseHTTPRequestHandler):
    """Gives the answers of `script` in turn: status, headers, content."""

    protocol_version = "HTTP/1.1"
    script: list
    seen: list

    def do_GET(self):
        self.reply()

    def do_POST(self):
        self.reply()

    def reply(self):
        length = int(self.headers.get("content-length", 0))
        self.seen.append((self.command, self.path, dict(self.headers), self.rfile.read(length)))
        status, headers, content = self.script.pop(0)
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for name, value in {**headers, "content-length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


@pytest.fixture
def server():
    Scripted.script, Scripted.seen = [], []
    with serve_in_thread(ThreadingHTTPServer(("127.0.0.1", 0), Scripted)) as running:
        yield f"http://127.0.0.1:{running.server_port}"


@pytest.fixture
def connect():
    """`connect(url, key=None)`: a client, closed at the end."""
    clients = []

    def made(*arguments):
        clients.append(ApiClient(*arguments))
        return clients[-1]

    yield made
    for client in clients:
        client._http.close()


def problem(status, detail, **headers):
    return status, headers, {"type": "/problems/x", "status": status, "detail": detail}


def test_it_asks_for_all_genres_and_sends_its_key(server, connect):
    Scripted.script = [(200, {}, {"topk": []})]
    assert connect(server + "/", "secret").predict("a b.jpg", b"picture", 24) == {"topk": []}
    method, path, headers, body = Scripted.seen[0]
    assert (method, path) == ("POST", "/predict?topk=24")
    assert headers["X-API-Key"] == "secret"
    assert b'filename="a b.jpg"' in body
    assert b"picture" in body


def test_a_busy_api_is_asked_again_when_it_says(server, connect):
    Scripted.script = [problem(503, "busy", **{"retry-after": "0"}), (200, {}, {"topk": []})]
    assert connect(server).predict("a.jpg", b"", 3) == {"topk": []}
    assert len(Scripted.seen) == 2


def test_nobody_waits_for_ever(server, connect):
    Scripted.script = [problem(503, "the service has too much to do", **{"retry-after": "7"})]
    with pytest.raises(ApiUnavailableError, match=r"^The service has too much to do\. .* try again in a moment\.$"):
        connect(server)._send("GET", "/model", patience=0)


@pytest.mark.parametrize(
    ("answer", "kind", "sentence"),
    [
        (problem(400, "the file is no picture"), ApiError, "The file is no picture."),
        (
            problem(413, "the body is too large"),
            ApiError,
            "The body is too large. The picture is too large; try a smaller one.",
        ),
        (
            problem(415, "this server fetches no addresses"),
            ApiError,
            "This server fetches no addresses. This API takes no links; save the picture and drop the file instead.",
        ),
        (
            problem(401, "send a key"),
            ApiUnavailableError,
            "Send a key. The API wants a key; whoever runs this page sets it as ONESHEET_API_KEY.",
        ),
        (
            problem(429, "slow down"),
            ApiUnavailableError,
            "Slow down. Those were too many requests; wait a minute and try again.",
        ),
        ((500, {}, b"<html>"), ApiUnavailableError, "The API answered with status 500."),
        ((404, {}, []), ApiError, "The API answered with status 404."),
    ],
)
def test_errors_are_sentences_that_say_what_to_do(server, connect, answer, kind, sentence):
    Scripted.script = [answer]
    with pytest.raises(ApiError) as told:
        connect(server).model()
    assert (type(told.value), told.value.message) == (kind, sentence)


def test_an_api_that_is_not_there(connect):
    with pytest.raises(ApiUnavailableError, match=r"cannot be reached.*goes on by itself"):
        connect("http://127.0.0.1:9").check_ready()


def test_every_question_goes_where_it_should(server, connect):
    Scripted.script = [
        (200, {}, {"explanations": [1]}),
        (200, {}, {"similar": [2]}),
        (201, {}, {}),
        (200, {}, b"# card"),
        (200, {}, {"answers": 0}),
        (200, {}, {"topk": []}),
        (200, {}, {"runs": [], "latest": None}),
        (200, {}, b"<html>"),
    ]
    client = connect(server)
    assert client.explain(b"x") == [1]
    assert client.similar(b"x", 6) == [2]
    client.send_feedback("0f8b2c9e-6a53-4f0e-9f0b-0a4f6f1c7d21", ["Drama"])
    assert client.card() == "# card"
    assert client.activity(24, 30) == {"answers": 0}
    client.predict_link("https://films.example/a.jpg", 3)
    assert client.drift(30) == {"runs": [], "latest": None}
    assert client.drift_report("0f8b2c9e-6a53-4f0e-9f0b-0a4f6f1c7d21") == b"<html>"
    assert [seen[:2] for seen in Scripted.seen] == [
        ("POST", "/explain"),
        ("POST", "/similar?k=6"),
        ("POST", "/feedback"),
        ("GET", "/model/card"),
        ("GET", "/activity?hours=24&buckets=30"),
        ("POST", "/predict?topk=3"),
        ("GET", "/drift?limit=30"),
        ("GET", "/drift/0f8b2c9e-6a53-4f0e-9f0b-0a4f6f1c7d21/report"),
    ]
    assert json.loads(Scripted.seen[2][3]) == {
        "prediction_id": "0f8b2c9e-6a53-4f0e-9f0b-0a4f6f1c7d21",
        "genres": ["Drama"],
    }
    assert json.loads(Scripted.seen[5][3]) == {"image_url": "https://films.example/a.jpg"}


# ------------------------------------------------------------------------------------------------ where it is


@pytest.fixture
def cloud_run(server):
    """Google's own client, which asks our server."""
    from google.auth.credentials import AnonymousCredentials
    from google.cloud.run_v2 import ServicesClient
    from google.cloud.run_v2.services.services.transports import ServicesRestTransport

    transport = ServicesRestTransport(
        host=server.removeprefix("http://"), credentials=AnonymousCredentials(), url_scheme="http"
    )
    return ServicesClient(transport=transport)


SERVICES = "projects/films/locations/europe-west1/services"


def test_a_service_is_found_in_cloud_runs_list(server, cloud_run):
    Scripted.script = [
        (200, {}, {"services": [{"name": f"{SERVICES}/other", "uri": "https://other.run.app"}], "nextPageToken": "2"}),
        (200, {}, {"services": [{"name": f"{SERVICES}/api", "uri": "https://api-x.run.app"}]}),
    ]
    assert find_api("cloudrun://films/europe-west1/api", cloud_run) == "https://api-x.run.app"
    assert [seen[1].partition("?")[0] for seen in Scripted.seen] == [f"/v2/{SERVICES}"] * 2


def test_a_service_that_is_not_there(server, cloud_run):
    Scripted.script = [(200, {}, {})]
    with pytest.raises(ApiError, match="no Cloud Run service api in project films, region europe-west1"):
        find_api("cloudrun://films/europe-west1/api", cloud_run)


def test_a_list_that_cannot_be_read(server, cloud_run):
    Scripted.script = [(403, {}, {"error": {"code": 403, "message": "not yours", "status": "PERMISSION_DENIED"}})]
    with pytest.raises(ApiError, match=r"cannot be listed: 403.*not yours"):
        find_api("cloudrun://films/europe-west1/api", cloud_run)


def test_an_address_is_taken_as_it_is():
    assert find_api("https://onesheet.example.com/") == "https://onesheet.example.com"


@pytest.mark.parametrize(
    "url",
    [
        *("", "localhost:8000", "ftp://x", "cloudrun://films/api", "cloudrun:///a/b"),
        *("http://", "http://:80", "http://[::1", "http://[x]:1", "http://api:port", "http://api:99999"),
    ],
)
def test_no_address(url):
    with pytest.raises(InvalidRequestError, match="cloudrun://PROJECT/REGION/SERVICE"):
        find_api(url)


def test_without_googles_client(monkeypatch):
    monkeypatch.setitem(sys.modules, "google.cloud.run_v2", None)
    with pytest.raises(MissingExtraError, match=r"onesheet\[cloudrun\]"):
        find_api("cloudrun://films/europe-west1/api")
