"""`serve` on a real socket: started, asked, stopped."""

from __future__ import annotations

import errno
import os
import signal
import socket
import threading
from contextlib import closing

import httpx
import pytest

from onesheet.errors import OnesheetError
from onesheet.listening import address_of, listen
from onesheet.predictor import Predictor
from onesheet.serving import serve
from tests.processes import MAX_WAIT


def test_it_answers_and_stops_cleanly_on_sigterm(serving, make_poster):
    server = serving()
    answer = httpx.post(f"{server.url}/predict", files={"file": make_poster("blue")})
    assert answer.json()["topk"][0]["label"] == "Drama"
    assert "server" not in answer.headers

    assert server.stop() == 0
    lines = server.lines()
    assert lines[-1]["event"] == "stopped"
    assert [line["status"] for line in lines if line.get("path") == "/predict"] == [200]


def test_a_client_that_sends_too_much_still_reads_the_answer(serving):
    url = serving(MAX_UPLOAD_BYTES="100000").url

    def chunks():
        yield b'--x\r\nContent-Disposition: form-data; name="file"; filename="a.jpg"\r\n\r\n'
        for _ in range(400):
            yield b"\0" * 50_000

    declared = httpx.post(f"{url}/predict", files={"file": b"\0" * 20_000_000})
    chunked = httpx.post(
        f"{url}/predict",
        content=chunks(),
        headers={"content-type": "multipart/form-data; boundary=x"},
    )
    for answer in (declared, chunked):
        assert (answer.status_code, answer.json()["type"]) == (413, "/problems/body_too_large")


def test_a_client_that_leaves_in_the_middle_does_no_harm(serving, make_poster):
    server = serving()
    with socket.create_connection(server.address) as connection:
        connection.sendall(
            b"POST /predict HTTP/1.1\r\nHost: onesheet\r\nContent-Length: 9000\r\n"
            b"Content-Type: multipart/form-data; boundary=x\r\n\r\n--x\r\n"
        )
    assert httpx.post(f"{server.url}/predict", files={"file": make_poster()}).status_code == 200
    assert server.stop(signal.SIGINT) == 0
    assert "Traceback" not in server.log()
    assert [line["status"] for line in server.lines() if line.get("path") == "/predict"] == [499, 200]


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_it_returns_normally_and_leaves_the_signals_as_they_were(
    settings, wait_until_ready, eventually, free_port, how
):
    port = free_port()

    def stop_when_ready() -> None:
        # Another test may have taken the port, and its server may be the one that is ready.
        eventually(lambda: signal.getsignal(how) not in before)
        wait_until_ready(f"http://127.0.0.1:{port}")
        os.kill(os.getpid(), how)

    before = (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM))
    stopper = threading.Thread(target=stop_when_ready)
    stopper.start()
    serve(settings.model_copy(update={"port": port}))
    stopper.join()
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before


def test_what_is_under_way_is_finished_before_it_stops(
    settings, make_poster, monkeypatch, wait_until_ready, eventually, free_port
):
    port, serving, busy, statuses = free_port(), threading.Event(), threading.Event(), []
    may_end = threading.Event()
    run = Predictor.run

    def slow_run(self, batch):
        if serving.is_set():  # and not only warming up
            busy.set()
            may_end.wait(MAX_WAIT)
        return run(self, batch)

    def is_stopping() -> bool:
        try:
            socket.create_connection(("127.0.0.1", port)).close()
        except ConnectionRefusedError:
            return True
        return False

    def ask() -> None:
        answer = httpx.post(f"http://127.0.0.1:{port}/predict", files={"file": make_poster()})
        statuses.append(answer.status_code)

    def stop_when_busy() -> None:
        wait_until_ready(f"http://127.0.0.1:{port}")
        serving.set()
        client = threading.Thread(target=ask)
        client.start()
        busy.wait(MAX_WAIT)
        os.kill(os.getpid(), signal.SIGTERM)
        eventually(is_stopping)
        may_end.set()
        client.join()

    monkeypatch.setattr(Predictor, "run", slow_run)
    stopper = threading.Thread(target=stop_when_busy)
    stopper.start()
    serve(settings.model_copy(update={"port": port}))
    stopper.join()
    assert statuses == [200]


@pytest.mark.parametrize(
    ("host", "taken", "reason"),
    [
        ("127.0.0.1", True, "the port is taken"),
        ("no such host", False, "no such address"),
        ("..", False, "no such address"),
        ("192.0.2.1", False, "cannot assign requested address"),
    ],
)
def test_an_address_that_cannot_be_had_is_told_in_one_line(settings, host, taken, reason):
    with closing(socket.create_server(("127.0.0.1", 0))) as other:
        port = other.getsockname()[1] if taken else 0
        with pytest.raises(OnesheetError, match=f"cannot listen on {host}, port {port}: {reason}"):
            serve(settings.model_copy(update={"host": host, "port": port}))


needs_ipv6 = pytest.mark.skipif(not socket.has_dualstack_ipv6(), reason="needs IPv6")


@needs_ipv6
def test_an_ipv6_address_is_written_as_urls_want_it():
    with closing(listen("::1", 0)) as listener:
        assert address_of(listener) == f"http://[::1]:{listener.getsockname()[1]}"


@needs_ipv6
@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize(
    ("host", "reached_at"),
    [("::", ["127.0.0.1", "::1"]), ("::1", ["::1"]), ("0.0.0.0", ["127.0.0.1"])],  # noqa: S104  that is the point
)
def test_all_addresses_of_ipv6_are_those_of_ipv4_too(host, reached_at, workers):
    with closing(listen(host, 0, workers)) as listener:
        listener.listen()
        for address in ("127.0.0.1", "::1"):
            with socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET) as client:
                refused = client.connect_ex((address, listener.getsockname()[1]))
            assert bool(refused) is (address not in reached_at)


@needs_ipv6
def test_a_service_on_ipv6_knows_its_ipv4_clients_by_their_addresses(serving, free_port):
    """Of the API and of the operators' port, in several processes, and behind a load balancer."""
    admin = free_port()
    server = serving(
        "--host", "::", WORKERS="2", ADMIN_PORT=str(admin), TRUSTED_PROXIES="127.0.0.1", RATE_LIMIT="1", THREADS="1"
    )
    port = server.address[1]
    for address in ("127.0.0.1", "[::1]"):
        assert httpx.get(f"http://{address}:{port}/readyz").status_code == 200
        assert httpx.get(f"http://{address}:{admin}/metrics").status_code == 200
    # Were the proxy not known, all of these would come from one client, which may ask each worker once a minute.
    for number in range(4):
        forwarded = {"X-Forwarded-For": f"192.0.2.{number}"}
        assert httpx.get(f"http://127.0.0.1:{port}/model", headers=forwarded).status_code == 200


@pytest.mark.parametrize(("host", "error"), [("::", errno.EAFNOSUPPORT), ("::1", errno.EADDRNOTAVAIL)])
def test_a_machine_without_ipv6_is_told_what_to_listen_on(monkeypatch, host, error):
    def unsupported(*_: object, **__: object) -> None:
        raise OSError(error, os.strerror(error))

    monkeypatch.setattr(socket, "create_server", unsupported)
    with pytest.raises(OnesheetError, match=f"cannot listen on {host}, port 80: this machine has no IPv6; use 0.0.0.0"):
        listen(host, 80)
