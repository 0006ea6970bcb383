"""A client for each test, and a log that can be read."""

from __future__ import annotations

import io
import json
import os
import shutil
import signal
import socket
import sqlite3
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, asynccontextmanager, closing, contextmanager, redirect_stderr, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import httpx
import pytest
from sqlalchemy import create_engine, text

from onesheet.bundle import load_bundle, write_bundle
from onesheet.log import configure_logging
from onesheet.mlflow_store import open_mlflow_store
from onesheet.predictionlog import PredictionLog
from onesheet.registry import open_registry
from onesheet.registry.lineage import submission
from onesheet.serving import create_app
from onesheet.settings import Settings
from tests.processes import MAX_WAIT, eventually, run_command, serve_in_thread, started_process

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator
    from contextlib import AbstractAsyncContextManager

    from fastapi import FastAPI

    from onesheet.predictionlog import LoggedPrediction
    from onesheet.predictor import Predictor
    from onesheet.registry import Registry, Version


# Debian keeps the server's programs beside the path.
_FOLDERS = (*sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True),)


def find_postgres() -> Path | None:
    """The folder with `initdb` and `pg_ctl`."""
    found = shutil.which("initdb")
    return Path(found).parent if found else next((folder for folder in _FOLDERS if (folder / "initdb").exists()), None)


class Postgres:
    """A cluster on a free port, which can be stopped and started again.

    Args:
        programs: Folder with `initdb` and `pg_ctl`.
        folder: For its data.
    """

    def __init__(self, programs: Path, folder: Path) -> None:
        self._programs, self._folder, self._running = programs, folder, ExitStack()
        with socket.create_server(("127.0.0.1", 0)) as listener:
            self._port = listener.getsockname()[1]
        self._user: dict[str, Any] = {"cwd": folder}
        if os.geteuid() == 0:  # it refuses to run as root
            shutil.chown(folder, "postgres")
            self._user |= {"user": "postgres", "group": "postgres", "extra_groups": []}
        options = ("-D", folder / "data", "-A", "trust", "-U", "onesheet", "-E", "UTF8", "--no-sync")
        run_command([programs / "initdb", *options], check=True, **self._user)

    @property
    def url(self) -> str:
        """For SQLAlchemy."""
        return f"postgresql://onesheet@127.0.0.1:{self._port}/postgres"

    def start(self) -> None:
        """Returns when it accepts connections."""
        command = [self._programs / "postgres", "-D", self._folder / "data"]
        command += ["-p", self._port, "-h", "127.0.0.1", "-k", "", "-c", "fsync=off"]
        with (self._folder / "log").open("ab") as log:
            process = started_process(command, stdout=log, stderr=log, **self._user)
            self._process = self._running.enter_context(process)
        eventually(self._accepts_connections)

    def stop(self) -> None:
        """At once, as if the machine had gone."""
        self._process.send_signal(signal.SIGQUIT)
        self._process.wait(MAX_WAIT)
        self._running.close()

    @contextmanager
    def hung(self) -> Iterator[None]:
        """All its processes stand still: connections stay open, and nothing answers."""
        import psutil

        postmaster = psutil.Process(self._process.pid)
        family = [postmaster, *postmaster.children(recursive=True)]
        for process in family:
            process.suspend()
        try:
            yield
        finally:
            for process in family:
                process.resume()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _accepts_connections(self) -> bool:
        import psycopg

        assert self._process.poll() is None, (self._folder / "log").read_text()
        with suppress(psycopg.OperationalError):
            psycopg.connect(self.url, connect_timeout=MAX_WAIT).close()
            return True
        return False


@pytest.fixture
def next_bundle(tiny_bundle: Path, tmp_path: Path) -> Path:
    """The tiny bundle under another version, with a threshold that nothing reaches."""
    loaded = load_bundle(tiny_bundle)
    metadata = loaded.metadata.model_dump(exclude={"files", "schema_version"})
    metadata |= {"version": "2.0.0", "thresholds": dict.fromkeys(metadata["genres"], 1.0)}
    files = {path.name: path.read_bytes() for path in tiny_bundle.iterdir() if path.name != "bundle.json"}
    write_bundle(metadata, files, tmp_path / "next")
    return tmp_path / "next"


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


# Limits of time that a busy machine does not reach; a test of one sets its own.
PATIENT = {"patience_seconds": MAX_WAIT, "log_seconds": MAX_WAIT, "image_url_seconds": MAX_WAIT, "body_seconds": 60}


@pytest.fixture
def settings(tiny_bundle: Path, tmp_path: Path) -> Settings:
    log = f"sqlite:///{tmp_path}/log.db"
    return Settings(_env_file=None, bundle=str(tiny_bundle), max_upload_bytes=100_000, log_url=log, **PATIENT)


@pytest.fixture
def connect() -> Callable[[FastAPI], AbstractAsyncContextManager[httpx.AsyncClient]]:
    """`async with connect(app) as client`; the application's lifespan does not run."""

    @asynccontextmanager
    async def opened(app: FastAPI) -> AsyncIterator[httpx.AsyncClient]:
        transport = httpx.ASGITransport(app=app)
        async with httpx.AsyncClient(transport=transport, base_url="http://onesheet.test") as client:
            yield client

    return opened


@pytest.fixture
async def client(settings: Settings, predictor: Predictor, connect: Any) -> AsyncIterator[httpx.AsyncClient]:
    """A client of an API whose model is ready."""
    async with connect(create_app(settings, predictor)) as opened:
        yield opened


@pytest.fixture
def read_log() -> Callable[[], list[dict[str, Any]]]:
    """Call it for all the lines that were logged."""
    stream = io.StringIO()
    with redirect_stderr(stream):
        configure_logging(as_json=True)
    return lambda: [json.loads(line) for line in stream.getvalue().splitlines()]


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """A real PostgreSQL."""
    programs = find_postgres()
    if programs is None:
        if os.environ.get("ONESHEET_REQUIRE_ALL") == "1":
            pytest.fail("PostgreSQL is not installed")
        pytest.skip("PostgreSQL is not installed")
    # Not below pytest's folder, which another run of the tests closes to all other users.
    with tempfile.TemporaryDirectory(prefix="postgres-") as folder, Postgres(programs, Path(folder)) as started:
        yield started


@pytest.fixture(params=["sqlite", "postgresql"])
def log_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The address of an empty prediction log, in either kind of database."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/log.db"
    url: str = request.getfixturevalue("postgres_log_url")
    return url


@pytest.fixture
def log(log_url: str) -> Iterator[PredictionLog]:
    """An empty prediction log, in either kind of database."""
    with closing(PredictionLog(log_url)) as opened:
        opened.migrate()
        yield opened


@pytest.fixture
def postgres_log_url(postgres: Postgres) -> Iterator[str]:
    """The address of an empty prediction log in PostgreSQL."""
    yield postgres.url
    engine = create_engine(postgres.url.replace("postgresql", "postgresql+psycopg"))
    with engine.begin() as connection:
        connection.execute(text("DROP SCHEMA public CASCADE; CREATE SCHEMA public"))
    engine.dispose()


class Served:
    """`onesheet serve` as processes of its own, on any free port.

    Args:
        folder: Its working folder, where it keeps log and prediction log.
        environment: Settings, without their prefix.
        options: Of the command.
    """

    def __init__(self, folder: Path, environment: dict[str, str], *options: str) -> None:
        patient = {name.upper(): str(value) for name, value in PATIENT.items()}
        settings = {"PORT": "0", "LOG_JSON": "true", **patient, **environment}
        variables = {**os.environ, **{f"ONESHEET_{name}": value for name, value in settings.items()}}
        self._log = folder / "server.log"
        # Whoever started the tests may have told them to ignore Ctrl-C, and that is inherited.
        code = """
import signal
signal.signal(signal.SIGINT, signal.default_int_handler)
from onesheet.cli import main
main()
"""
        command = [sys.executable, "-c", code, "serve", *options]
        with ExitStack() as running:
            stderr = running.enter_context(self._log.open("wb"))
            self.process = running.enter_context(started_process(command, cwd=folder, env=variables, stderr=stderr))
            self.url = self._first_line("listening")["url"]
            host, port = self.url.removeprefix("http://").rsplit(":", 1)
            self.address = (host, int(port))
            self.log_url = settings.get("LOG_URL", f"sqlite:///{folder}/onesheet.db")
            wait_until_ready(self.url)
            self._running = running.pop_all()

    def log(self) -> str:
        """What it has logged so far."""
        return self._log.read_text()

    def lines(self) -> list[dict[str, Any]]:
        """The same, line by line; a line that is not JSON is an error."""
        return [json.loads(line) for line in self.log().splitlines()]

    def mistakes(self) -> list[dict[str, Any]]:
        """Lines that tell of unexpected errors, and of answers with a status of 5xx once it was ready."""
        return [
            line
            for line in self.lines()
            if line["event"] == "unexpected error"
            or (line.get("status", 0) >= 500 and line.get("problem") != "not_ready")
        ]

    def workers(self) -> list[int]:
        """The processes that answer, by their ids."""
        import psutil

        children = psutil.Process(self.process.pid).children()
        return [child.pid for child in children if "spawn_main" in " ".join(child.cmdline())]

    def connections(self, pid: int, status: str) -> int:
        """How many sockets of a process are in this state, as psutil names it."""
        import psutil

        return sum(one.status == status for one in psutil.Process(pid).net_connections("tcp"))

    def wait_for_workers(self, number: int) -> None:
        """Returns when so many listen; one is enough for the service to be ready."""
        eventually(lambda: sum(self.connections(pid, "LISTEN") > 0 for pid in self.workers()) >= number)

    def wait_for_models(self, version: str, number: int) -> None:
        """Returns when so many bundles of this version have been loaded."""
        eventually(
            lambda: (
                sum(line["event"] == "model ready" and line["version"] == version for line in self.lines()) >= number
            )
        )

    def logged(self) -> list[LoggedPrediction]:
        """The answers in its prediction log."""
        with closing(PredictionLog(self.log_url)) as log:
            return list(log.predictions())

    def stop(self, how: int = signal.SIGTERM) -> int:
        """Ask it to stop, and wait for it; its exit code."""
        self.process.send_signal(how)
        return self.process.wait(MAX_WAIT)

    def kill(self) -> None:
        """At once, and all that it has started."""
        self._running.close()

    def _first_line(self, event: str) -> dict[str, Any]:
        def found() -> dict[str, Any] | None:
            assert self.process.poll() is None, self.log()
            said = [line for line in self.log().splitlines(keepends=True) if line.startswith("{")]
            lines = [json.loads(line) for line in said if line.endswith("\n")]
            return next((line for line in lines if line["event"] == event), None)

        return eventually(found)


class Load:
    """Clients that ask for answers until they are told to stop, each request on a connection of its own.

    Attributes:
        statuses: Of all answers.
        ids: The `prediction_id` of each answer with status 200; None where it had none.
        slowest: Seconds of the answer that took longest.
        broken: Requests that got no answer.
    """

    def __init__(self, url: str, poster: bytes, clients: int = 4) -> None:
        self.statuses: list[int] = []
        self.ids: list[str | None] = []
        self.slowest = 0.0
        self.broken = 0
        self._url, self._poster = url, poster
        self._stop = threading.Event()
        self._pool = ThreadPoolExecutor(clients)
        for _ in range(clients):
            self._pool.submit(self._ask)

    def _ask(self) -> None:
        while not self._stop.is_set():
            started = time.monotonic()
            try:
                with httpx.Client() as client:
                    answer = client.post(f"{self._url}/predict", files={"file": self._poster}, timeout=MAX_WAIT)
            except httpx.TransportError:
                self.broken += 1
                continue
            self.slowest = max(self.slowest, time.monotonic() - started)
            self.statuses.append(answer.status_code)
            if answer.status_code == 200:
                self.ids.append(answer.json()["prediction_id"])

    def wait_for(self, answers: int, status: int = 200) -> None:
        """Returns when so many more have come with this status."""
        enough = self.statuses.count(status) + answers
        eventually(lambda: self.statuses.count(status) >= enough)

    def stop(self) -> None:
        """Waits for the answers that are under way."""
        self._stop.set()
        self._pool.shutdown()


@pytest.fixture
def load() -> Iterator[Callable[..., Load]]:
    """`load(url, poster)`: clients that ask until `.stop()`, or the end of the test."""
    started: list[Load] = []

    def start(*arguments: Any, **options: Any) -> Load:
        started.append(Load(*arguments, **options))
        return started[-1]

    yield start
    for one in started:
        one.stop()


def wait_until_ready(url: str) -> None:
    """Returns when the model of a server answers."""

    def ready() -> bool:
        with suppress(httpx.TransportError):
            return httpx.get(f"{url}/readyz").status_code == 200
        return False

    eventually(ready)


@pytest.fixture(name="eventually")
def _eventually() -> Callable[..., Any]:
    return eventually


@pytest.fixture(name="wait_until_ready")
def _wait_until_ready() -> Callable[[str], None]:
    return wait_until_ready


@contextmanager
def servers_in(folder: Path, bundle: Path) -> Iterator[Callable[..., Served]]:
    """What starts servers, which are gone at the end."""
    with ExitStack() as started:

        def start(*options: str, **environment: str) -> Served:
            server = Served(Path(tempfile.mkdtemp(dir=folder)), {"BUNDLE": str(bundle), **environment}, *options)
            started.callback(server.kill)
            return server

        yield start


@pytest.fixture
def serving(tiny_bundle: Path, tmp_path: Path) -> Iterator[Callable[..., Served]]:
    """`serving(WORKERS="2")`: a running server with these settings, gone at the end."""
    with servers_in(tmp_path, tiny_bundle) as start:
        yield start


@pytest.fixture(scope="module")
def serving_all(tiny_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Served]]:
    """As `serving`, for all tests of a module that do a server no harm."""
    with servers_in(tmp_path_factory.mktemp("servers"), tiny_bundle) as start:
        yield start


@pytest.fixture(scope="session")
def empty_registry(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """MLflow takes seconds to make one."""
    from mlflow import MlflowClient

    path = tmp_path_factory.mktemp("mlflow") / "empty.db"
    MlflowClient(open_mlflow_store(f"sqlite:///{path}")).search_registered_models()
    return path


@pytest.fixture
def embedded(empty_registry: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Registry:
    """A new registry in the working folder, where a command finds it unless it is told otherwise."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ONESHEET_ACTOR", "ada")
    Path("outputs").mkdir()
    with closing(sqlite3.connect(empty_registry)) as store:
        store.execute("VACUUM INTO 'outputs/mlflow.db'")
    # An address of its own: MLflow remembers what it has opened under this one in another folder.
    monkeypatch.setenv("ONESHEET_REGISTRY_URL", f"sqlite:///{tmp_path}/outputs/mlflow.db")
    return open_registry(Settings())


@pytest.fixture(scope="session")
def register() -> Callable[..., Version]:
    """`register(registry, bundle, alias="champion")`: the newest version, and what the alias stands for."""

    def registered(registry: Registry, bundle: Path, note: str = "", alias: str | None = None) -> Version:
        nowhere = bundle / "nothing"
        with submission(str(bundle), None, nowhere, nowhere) as submitted:
            version = registry.register(submitted.folder, submitted.lineage, note)
        if alias:
            registry.move(registry.standing(alias), version, "promote", "because")
        return version

    return registered


class Receiver(BaseHTTPRequestHandler):
    """Answers as `statuses` say, and then with GitHub's 204."""

    statuses: list[int]
    seen: list[tuple[str, dict[str, str], dict[str, Any]]]
    url: str

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        self.seen.append((self.path, dict(self.headers), body))
        self.send_response(self.statuses.pop(0) if self.statuses else 204)
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Nothing."""


@pytest.fixture
def receiver() -> Iterator[type[Receiver]]:
    """GitHub, as far as it takes a dispatch: `url`, `seen`, and the `statuses` that it shall answer with."""
    Receiver.statuses, Receiver.seen = [], []
    with serve_in_thread(ThreadingHTTPServer(("127.0.0.1", 0), Receiver)) as running:
        Receiver.url = f"http://127.0.0.1:{running.server_port}/repos/films/onesheet/dispatches"
        yield Receiver
