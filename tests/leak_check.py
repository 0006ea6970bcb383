"""A pytest plugin that fails a test which leaves something behind: a process, a thread, a port or a temporary file.

Fixtures of a module or of the session may keep what they have made as long as they live. What is left behind is ended,
so that it does not slow down the other tests. A watchdog does the same if pytest itself is killed.
"""

from __future__ import annotations

import gc
import os
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from concurrent.futures.thread import _threads_queues
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import psutil
import pytest

from tests.processes import OWNER, held, is_running, kill, kill_all, started_by

if TYPE_CHECKING:
    from collections.abc import Generator

# Seconds in which something that is about to end does so.
GRACE = 20

# Python and libraries end these themselves, with the process that has started them.
_LASTING = ("multiprocessing.resource_tracker", "multiprocessing.forkserver", "wandb-core")

# Libraries keep these for as long as the process, or for their next use.
_KEPT_FILES = re.compile("torchinductor_.*|torchelastic_.*|pytorch-errorfile.*|.*wandb.*|pymp-.*")

WATCHDOG = Path(__file__).with_name("watchdog.py")


class Resource(NamedTuple):
    """Something that has to be gone in the end."""

    kind: str
    name: str
    number: int = 0

    def __str__(self) -> str:
        return f"{self.kind} {self.number or ''} {self.name}".replace("  ", " ")


class LeakCheck:
    """Compare what there is after each test with what there was before the first.

    Args:
        owner: Value of the environment variable that this process hands to what it starts.
        folder: For temporary files of the tests.
    """

    def __init__(self, owner: str, folder: Path) -> None:
        self._owner, self._folder = owner, folder
        self._others = set(psutil.pids())
        self._ours: dict[int, psutil.Process] = {}
        self._known = self._resources()
        self._of_fixtures: dict[pytest.FixtureDef[object], set[Resource]] = {}

    @pytest.hookimpl(wrapper=True)
    def pytest_fixture_setup(self, fixturedef: pytest.FixtureDef[object]) -> Generator[None, object, object]:
        if fixturedef.scope == "function":
            return (yield)
        before = self._resources()
        try:
            return (yield)
        finally:
            self._of_fixtures[fixturedef] = self._resources() - before

    @pytest.hookimpl
    def pytest_fixture_post_finalizer(self, fixturedef: pytest.FixtureDef[object]) -> None:
        self._of_fixtures.pop(fixturedef, None)

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_teardown(self) -> Generator[None, object, object]:
        try:
            return (yield)
        finally:
            if left := self._wait_for_the_last():
                self._clean_up(left)
                pytest.fail(f"left behind: {'; '.join(map(str, sorted(left)))}", pytrace=False)

    def _wait_for_the_last(self) -> set[Resource]:
        deadline = time.monotonic() + GRACE
        while (left := self._left()) and time.monotonic() < deadline:
            gc.collect()  # what is in a circle with an exception, such as a loader with its processes
            time.sleep(0.05)
        return left

    def _left(self) -> set[Resource]:
        kept = set[Resource]().union(*self._of_fixtures.values())
        parents = {one.number for one in kept if one.kind == "process"}
        return {
            one
            for one in self._resources() - self._known - kept
            if one.kind != "process" or not self._descends_from(one.number, parents)
        }

    def _descends_from(self, pid: int, parents: set[int]) -> bool:
        """Whether one of these has started it: a browser starts processes when it needs them."""
        with suppress(psutil.Error):
            return any(parent.pid in parents for parent in self._ours[pid].parents())
        return False

    def _clean_up(self, left: set[Resource]) -> None:
        while pids := [one.number for one in self._left() if one.kind == "process"]:
            kill([self._ours[pid] for pid in pids])
        for path in [self._folder / one.name for one in left if one.kind == "temporary file"]:
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
        self._known |= self._left()  # nothing can end a thread; one test is to fail, not all

    def _resources(self) -> set[Resource]:
        return {
            *(Resource("process", _command(process), pid) for pid, process in self._processes().items()),
            *(
                Resource("thread", thread.name, thread.ident or 0)
                for thread in threading.enumerate()
                if not thread.daemon and thread not in _threads_queues  # those of a pool end with it, or with Python
            ),
            *(
                Resource("port", str(one.laddr.ip), one.laddr.port)
                for one in psutil.Process().net_connections("tcp")
                if one.status == psutil.CONN_LISTEN
            ),
            *(Resource("temporary file", name) for name in self._temporary_files()),
        }

    def _temporary_files(self) -> list[str]:
        of_processes = {owner.removeprefix(self._owner).rstrip("/") for owner in held}
        return [
            path.name
            for path in self._folder.iterdir()
            if path.name not in of_processes and not _KEPT_FILES.fullmatch(path.name)
        ]

    def _processes(self) -> dict[int, psutil.Process]:
        """Those that run, were started by tests, and will not be ended by `started_process`."""
        pids = set(psutil.pids())
        self._others &= pids
        for pid in pids - self._others - self._ours.keys():
            with suppress(psutil.Error):
                process = psutil.Process(pid)
                if process.ppid() == os.getpid() or process.environ().get(OWNER, "").startswith(self._owner):
                    self._ours[pid] = process
                    continue
            self._others.add(pid)
        self._ours = {pid: process for pid, process in self._ours.items() if is_running(pid)}
        return {pid: process for pid, process in self._ours.items() if not _is_kept(process)}


def _is_kept(process: psutil.Process) -> bool:
    with suppress(psutil.Error):
        family = [one for one in (process, *process.parents()) if one.pid != os.getpid()]
        if any(one.pid in held.values() for one in family):  # PostgreSQL writes over its environment
            return True
        if process.environ().get(OWNER, "").startswith(tuple(held)):
            return True
        return _is_lasting(process)
    return False


def _is_lasting(process: psutil.Process) -> bool:
    return any(name in _command(process) for name in _LASTING)


def _command(process: psutil.Process) -> str:
    with suppress(psutil.Error):
        return " ".join(" ".join(process.cmdline()).split())[:200]
    return "?"


def configure(config: pytest.Config) -> None:
    """Watch over this pytest process, and at the end over the whole run."""
    worker = os.environ.get("PYTEST_XDIST_WORKER")
    if worker is None:
        config.pluginmanager.register(RunCheck())
    if worker or not config.getoption("numprocesses", None):
        config.pluginmanager.register(ProcessCheck(worker or "main"))


class RunCheck:
    """At the end of the run, nothing is left of any process."""

    def __init__(self) -> None:
        # Pytest's own folder stays where it was, with what failed tests have written.
        os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", tempfile.gettempdir())
        self._folder = Path(tempfile.mkdtemp(prefix="tests-"))
        self._folder.chmod(0o755)  # PostgreSQL runs as another user
        _use_for_temporary_files(self._folder)
        self._outer = os.environ.get(OWNER, "")  # a test of this check runs below another one
        self._owner = os.environ[OWNER] = f"{self._outer}{self._folder.name}/"
        self._left: list[str] = []

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        deadline = time.monotonic() + GRACE
        while (left := self._still_running()) and time.monotonic() < deadline:
            time.sleep(0.1)
        if left:
            self._left = [f"{(process.info['environ'] or {}).get(OWNER, '')} {_command(process)}" for process in left]
            kill_all(self._owner)
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def _still_running(self) -> list[psutil.Process]:
        return [process for process in started_by(self._owner) if not _is_lasting(process)]

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        if self._left:
            terminalreporter.section("left behind by the test run", red=True)
            for one in self._left:
                terminalreporter.line(one)

    @pytest.hookimpl(trylast=True)
    def pytest_unconfigure(self) -> None:
        shutil.rmtree(self._folder, ignore_errors=True)
        os.environ[OWNER] = self._outer


class ProcessCheck:
    """The tests of this process run with a leak check, temporary files of their own, and a watchdog."""

    def __init__(self, name: str) -> None:
        run = os.environ[OWNER]
        base = Path(tempfile.gettempdir())
        self._owner = os.environ[OWNER] = f"{run}{name}/"
        (base / name).mkdir()
        _use_for_temporary_files(base / name)
        self._folder = base / name
        pids = [os.getpid()] if name == "main" else [os.getpid(), os.getppid()]
        command = list(map(str, (sys.executable, WATCHDOG, run, name, base, *pids)))
        without = {key: value for key, value in os.environ.items() if key != OWNER}
        if os.name == "posix":  # no child of ours, as tests look at those
            subprocess.run(["sh", "-c", '"$@" &', "sh", *command], env=without, check=True, start_new_session=True)
        else:
            self._watchdog = subprocess.Popen(command, env=without)

    def pytest_sessionstart(self, session: pytest.Session) -> None:
        session.config.pluginmanager.register(LeakCheck(self._owner, Path(tempfile.gettempdir())))

    @pytest.hookimpl(trylast=True)
    def pytest_unconfigure(self) -> None:
        shutil.rmtree(self._folder, ignore_errors=True)  # which ends the watchdog


def _use_for_temporary_files(folder: Path) -> None:
    os.environ["TMPDIR"] = tempfile.tempdir = str(folder)
