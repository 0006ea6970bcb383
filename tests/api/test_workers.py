"""Several processes on one port: killed, given another bundle, told to stop; and clients that take their time."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys

import httpx
import psutil
import pytest

from onesheet.errors import OnesheetError
from onesheet.listening import listen
from tests.processes import MAX_WAIT


def logged_ids(server) -> set[str]:
    return {str(kept.id) for kept in server.logged()}


def test_a_killed_worker_is_replaced_and_no_answer_is_lost_from_the_log(serving, load, make_poster, eventually):
    server = serving(WORKERS="2")
    server.wait_for_workers(2)
    before = server.workers()
    clients = load(server.url, make_poster())
    clients.wait_for(50)
    os.kill(before[0], signal.SIGKILL)
    clients.wait_for(200)
    eventually(lambda: len(server.workers()) == 2 and before[0] not in server.workers())
    broken = clients.broken
    clients.wait_for(50)
    clients.stop()

    assert set(clients.statuses) <= {200, 503}
    assert clients.broken == broken <= 8  # the dead process held those of four clients; now and then one met it twice
    assert len(set(clients.ids)) == len(clients.ids)
    logged = logged_ids(server)
    assert set(clients.ids) <= logged
    assert len(logged) <= len(clients.ids) + clients.broken
    assert any(line["event"].startswith("worker died") for line in server.lines())
    assert server.stop() == 0


def restarts(server) -> dict[str, float]:
    """By reason, as Prometheus reads them."""
    found = re.findall(r'onesheet_worker_restarts_total{reason="(\w+)"} (.+)', httpx.get(f"{server.url}/metrics").text)
    return {reason: float(count) for reason, count in found}


def test_workers_that_start_slowly_are_waited_for(serving, tmp_path, monkeypatch):
    """For longer than a worker that has started may be silent, and than uvicorn's supervisor would wait."""
    slow = "import sys, time\nif '--multiprocessing-fork' in sys.orig_argv:\n    time.sleep(6)\n"
    (tmp_path / "sitecustomize.py").write_text(slow)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    server = serving(WORKERS="2", WORKER_TIMEOUT_SECONDS="5")
    assert restarts(server)["start_failed"] == 0
    assert [line for line in server.lines() if line["event"].startswith("worker")] == []


@pytest.mark.skipif(not hasattr(signal, "SIGSTOP"), reason="needs SIGSTOP")
def test_a_hung_worker_is_replaced_and_counted(serving, make_poster, eventually):
    server = serving(WORKERS="2", WORKER_TIMEOUT_SECONDS="2")
    server.wait_for_workers(2)
    hung = server.workers()[0]
    os.kill(hung, signal.SIGSTOP)
    eventually(lambda: re.search(rf'"worker hung.*"pid": {hung}\b|"pid": {hung}\b.*"worker hung', server.log()), 60)
    eventually(lambda: len(server.workers()) == 2, 60)
    assert hung not in server.workers()
    eventually(lambda: restarts(server)["hung"] >= 1, 60)
    assert httpx.post(f"{server.url}/predict", files={"file": make_poster()}, timeout=60).status_code == 200


def test_workers_that_cannot_start_end_the_service_with_the_reason(tiny_bundle, tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    missing = "import sys\nsys.modules['opentelemetry.instrumentation.asgi'] = None\n"
    (tmp_path / "sitecustomize.py").write_text(missing)
    environment = {"ONESHEET_WORKERS": "2", "ONESHEET_OTLP_ENDPOINT": "http://127.0.0.1:1", "ONESHEET_PORT": "0"}
    done = subprocess.run(
        [sys.executable, "-m", "onesheet", "serve", "--bundle", str(tiny_bundle)],
        env={**os.environ, **environment},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    last = done.stderr.splitlines()[-1]
    assert last == "onesheet: no worker process can start: traces need OpenTelemetry: install onesheet[tracing]"
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("engine", ["fastapi", "bentoml"])
def test_workers_end_with_a_supervisor_that_is_killed(serving, eventually, tmp_path, monkeypatch, engine):
    """As by the system when memory is short: what held the port is gone, and the service can be started again."""
    monkeypatch.setenv("BENTOML_HOME", str(tmp_path / "bentoml"))
    server = serving("--engine", engine, WORKERS="2")
    family = psutil.Process(server.process.pid).children(recursive=True)
    assert len(family) >= 2
    if engine == "fastapi" and sys.platform == "linux":
        psutil.Process(server.workers()[0]).suspend()  # it cannot notice by itself
    server.process.kill()
    eventually(lambda: not any(process.is_running() for process in family), 60)
    listen(*server.address).close()


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere the processes share one socket")
def test_connections_that_come_at_once_are_dealt_out(serving):
    server = serving(WORKERS="2")
    server.wait_for_workers(2)
    connections = [socket.create_connection(server.address) for _ in range(60)]
    for connection in connections:
        connection.sendall(b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n")
        assert b"200" in connection.recv(4096).split(b"\r\n")[0]
    held = [server.connections(pid, psutil.CONN_ESTABLISHED) for pid in server.workers()]
    for connection in connections:
        connection.close()
    assert sum(held) == 60
    assert min(held) > 10  # by chance once in a hundred million times


def test_a_port_is_not_shared_with_another_service(serving):
    server = serving(WORKERS="2")
    with pytest.raises(OnesheetError, match="the port is taken"):
        listen(*server.address, workers=2)


def test_metrics_are_those_of_all_workers_whichever_is_asked(serving, make_poster):
    server = serving(WORKERS="2")
    server.wait_for_workers(2)
    for _ in range(12):
        httpx.post(f"{server.url}/predict", files={"file": make_poster()})
    for _ in range(6):
        lines = httpx.get(f"{server.url}/metrics").text.splitlines()
        assert "prediction_latency_seconds_count 12.0" in lines
        assert 'onesheet_requests_total{method="POST",route="/predict",status="200"} 12.0' in lines
        assert "onesheet_requests_in_flight 1.0" in lines
        assert 'onesheet_model_info{name="tiny",version="1.2.3"} 1.0' in lines
        for pid in server.workers():
            assert any(line.startswith(f'process_resident_memory_bytes{{pid="{pid}"}}') for line in lines)
            assert any(line.startswith(f'process_cpu_seconds_total{{pid="{pid}"}}') for line in lines)


@pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="needs SIGHUP")
@pytest.mark.parametrize("workers", ["1", "2"])
def test_sighup_loads_the_bundle_again_and_drops_nothing(serving, load, make_poster, workers):
    server = serving(WORKERS=workers)
    clients = load(server.url, make_poster())
    clients.wait_for(20)
    server.wait_for_models("1.2.3", int(workers))
    server.process.send_signal(signal.SIGHUP)
    server.wait_for_models("1.2.3", 2 * int(workers))
    clients.wait_for(20)
    clients.stop()

    assert set(clients.statuses) == {200}
    assert clients.broken == 0
    assert server.stop() == 0


@pytest.mark.parametrize("workers", ["1", "2"])
def test_what_was_accepted_is_answered_before_it_stops(serving, load, make_poster, workers):
    server = serving(WORKERS=workers, DRAIN_SECONDS="0.2")
    clients = load(server.url, make_poster())
    clients.wait_for(50)
    assert server.stop() == 0
    clients.stop()

    assert set(clients.statuses) == {200}
    assert set(clients.ids) == logged_ids(server)


def test_a_server_that_stops_first_says_that_it_is_not_ready(serving, make_poster, eventually):
    server = serving(DRAIN_SECONDS="60")
    server.process.send_signal(signal.SIGTERM)
    eventually(lambda: httpx.get(f"{server.url}/readyz").status_code == 503)
    assert httpx.get(f"{server.url}/livez").status_code == 200
    assert httpx.post(f"{server.url}/predict", files={"file": make_poster()}).status_code == 200


# --------------------------------------------------------------------------------------------------- slow clients


def received(connection: socket.socket) -> bytes:
    connection.settimeout(MAX_WAIT)
    answer = b""
    while piece := connection.recv(65536):
        answer += piece
    return answer


def test_slow_clients_are_cut_off_and_the_others_do_not_notice(serving, make_poster):
    server = serving(BODY_SECONDS="1")
    head = b"POST /predict HTTP/1.1\r\nHost: x\r\n"
    form = b"Content-Length: 500\r\nContent-Type: multipart/form-data; boundary=x\r\n\r\n--x\r\n"
    silent = [socket.create_connection(server.address) for _ in range(200)]
    heads = [socket.create_connection(server.address) for _ in range(200)]
    bodies = [socket.create_connection(server.address) for _ in range(200)]
    for connection in heads:
        connection.sendall(head)
    for connection in bodies:
        connection.sendall(head + form)

    assert httpx.post(f"{server.url}/predict", files={"file": make_poster()}).status_code == 200
    for connection in bodies:
        with connection:
            assert b"408" in connection.recv(65536).split(b"\r\n")[0]
    for connection in (*heads, *silent):
        with connection:
            assert received(connection).split(b"\r\n")[0] == b"HTTP/1.1 408 Request Timeout"
    assert httpx.get(f"{server.url}/livez").status_code == 200


def test_headers_that_never_end_are_cut_off(serving):
    server = serving()
    with socket.create_connection(server.address) as connection:
        connection.sendall(b"GET /livez HTTP/1.1\r\nX-Long: " + b"x" * 300_000)
        assert received(connection).split(b"\r\n")[0] == b"HTTP/1.1 431 Request Header Fields Too Large"
    assert httpx.get(f"{server.url}/livez").status_code == 200


def test_a_connection_is_used_for_several_requests(serving):
    with httpx.Client() as client:
        url = serving().url
        assert [client.get(f"{url}/livez").status_code for _ in range(3)] == [200] * 3
