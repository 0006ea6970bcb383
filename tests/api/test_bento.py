"""The service under BentoML: the same routes, and those of its own clients."""

from __future__ import annotations

import json
import os
import socket
import sys
from pathlib import Path

import httpx
import pytest

from onesheet.errors import InvalidRequestError, MissingExtraError, OnesheetError
from onesheet.serving.bento_server import serve_with_bentoml
from tests.processes import MAX_WAIT, run_command

pytest.importorskip("bentoml")

OPERATOR = "secret"
CLIENT = Path(__file__).parents[2] / "examples" / "bentoml_client.py"


OPTIONS = ("--engine", "bentoml", "--workers", "2")
SETTINGS = {"MAX_UPLOAD_BYTES": "100000", "THREADS": "1", "ADMIN_TOKEN": OPERATOR}


@pytest.fixture(scope="module", autouse=True)
def _home(tmp_path_factory):
    """Where BentoML keeps what it keeps."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("BENTOML_HOME", str(tmp_path_factory.mktemp("bentoml")))
        yield


@pytest.fixture(scope="module")
def server(serving_all, _home):
    return serving_all(*OPTIONS, **SETTINGS)


def ask(server, *posters):
    """BentoML's own client, in a process of its own: it leaves a folder to the garbage collector."""
    command = [sys.executable, str(CLIENT), server.url, *map(str, posters)]
    done = run_command(command)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def answered(server):
    """Posters that were answered, of its two processes."""
    lines = httpx.get(f"{server.url}/metrics").text.splitlines()
    return sum(float(line.split()[1]) for line in lines if line.startswith("prediction_latency_seconds_count"))


def test_every_route_of_the_api_answers_as_it_does_elsewhere(server, make_poster):
    before = answered(server)
    answer = httpx.post(f"{server.url}/predict?topk=1", files={"file": make_poster("blue")})
    assert answer.json()["topk"][0]["label"] == "Drama"
    assert answer.json()["prediction_id"] in {str(kept.id) for kept in server.logged()}

    broken = httpx.post(f"{server.url}/predict", files={"file": b"no picture"})
    assert (broken.status_code, broken.json()["type"]) == (400, "/problems/not_an_image")
    assert httpx.get(f"{server.url}/model").json()["name"] == "tiny"
    assert httpx.get(f"{server.url}/health").json()["status"] == "ok"
    assert answered(server) == before + 1


def test_bentomls_own_client_predicts(server, make_poster, tmp_path):
    poster = tmp_path / "poster.jpg"
    poster.write_bytes(make_poster("red"))
    (answer,) = ask(server, poster)
    assert answer["topk"][0]["label"] == "Romance"
    assert answer["prediction_id"]


def test_posters_that_come_together_are_answered_each_by_its_own(server, make_poster, tmp_path):
    paths = []
    for name, data in (("a.jpg", make_poster("blue")), ("b.jpg", b"no picture"), ("c.jpg", make_poster("white"))):
        (tmp_path / name).write_bytes(data)
        paths.append(tmp_path / name)
    blue, broken, white = ask(server, *paths)
    assert blue["topk"][0]["label"] == "Drama"
    assert broken["error"]["code"] == "not_an_image"
    assert white["topk"][0]["label"] == "Comedy"


def test_its_own_routes_are_guarded_too(server, make_poster):
    large = httpx.post(f"{server.url}/bento/predict", files={"poster": b"\0" * 200_000})
    assert (large.status_code, large.json()["type"]) == (413, "/problems/body_too_large")
    broken = httpx.post(f"{server.url}/bento/predict", files={"poster": b"no picture"})
    assert broken.status_code == 400
    closed = httpx.post(f"{server.url}/bento/predict_url", json={"image_url": "https://films.example/"})
    assert closed.status_code == 403


def test_another_bundle_is_taken_by_all_its_processes_and_they_stop_when_asked(serving, next_bundle, make_poster):
    server = serving(*OPTIONS, **SETTINGS)
    answer = httpx.post(
        f"{server.url}/admin/model", json={"bundle": str(next_bundle)}, headers={"Authorization": f"Bearer {OPERATOR}"}
    )
    assert answer.json() == {"name": "tiny", "version": "2.0.0"}
    server.wait_for_models("2.0.0", 2)
    versions = [
        httpx.post(f"{server.url}/predict", files={"file": make_poster()}).json()["model"]["version"] for _ in range(20)
    ]
    assert set(versions) == {"2.0.0"}
    metrics = httpx.get(f"{server.url}/metrics").text
    assert metrics.count("process_resident_memory_bytes{") == 2
    assert server.stop() == 0


def test_slow_clients_are_cut_off(server):
    with socket.create_connection(server.address) as connection:
        connection.sendall(b"POST /predict HTTP/1.1\r\nHost: x\r\n")
        connection.settimeout(MAX_WAIT)
        assert connection.recv(4096).split(b"\r\n")[0] == b"HTTP/1.1 408 Request Timeout"


def test_a_taken_port_is_told_before_bentoml_starts(settings, monkeypatch):
    monkeypatch.setattr(os, "execve", lambda *_: pytest.fail("it started"))
    with socket.create_server(("127.0.0.1", 0)) as other, pytest.raises(OnesheetError, match="the port is taken"):
        serve_with_bentoml(settings.model_copy(update={"port": other.getsockname()[1]}))


def test_a_port_for_operators_is_not_to_be_had(settings, monkeypatch):
    monkeypatch.setattr(os, "execve", lambda *_: pytest.fail("it started"))
    with pytest.raises(InvalidRequestError, match="ONESHEET_ADMIN_PORT"):
        serve_with_bentoml(settings.model_copy(update={"admin_port": 9000}))


def test_without_bentoml_the_extra_is_named(settings, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=r"onesheet\[bento\]"):
        serve_with_bentoml(settings)
