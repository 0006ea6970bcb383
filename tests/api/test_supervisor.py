"""The supervisor of worker processes: slow starts, hung and failing workers, restarts, and the end."""

from __future__ import annotations

import errno
import importlib
import os
import threading
from functools import partial
from multiprocessing.context import SpawnProcess
from pathlib import Path

import psutil
import pytest
from structlog.testing import capture_logs

from onesheet.errors import OnesheetError
from onesheet.supervisor import Restart, Supervisor, restart_pause

pytestmark = pytest.mark.timeout(180)


class Supervised:
    """A supervisor on a thread.

    Attributes:
        restarts: Why workers were restarted, in turn.
        lines: Of its log.
        error: That it has ended with.
    """

    def __init__(self, work, folder, *, workers, timeout, grace):
        self.restarts = []
        self.lines = []
        self.error = None
        self.supervisor = Supervisor(
            partial(work, folder),
            workers,
            timeout=timeout,
            grace=grace,
            on_restart=lambda pid, why: self.restarts.append(why),
        )
        self._folder = folder
        self.thread = threading.Thread(target=self._run)
        self.thread.start()

    def _run(self):
        with capture_logs() as self.lines:
            try:
                self.supervisor.run()
            except OnesheetError as error:
                self.error = error.message

    def served(self):
        """Process IDs of all workers that have ever served, oldest first."""
        return [int(path.name) for path in sorted(self._folder.iterdir(), key=lambda path: path.stat().st_mtime_ns)]

    def end(self):
        self.supervisor.end()
        self.thread.join()


@pytest.fixture
def supervised(tmp_path, monkeypatch):
    """`supervised("serve", workers=2)`: workers that run a function of `worker_stand_ins.py`; ended afterwards."""
    monkeypatch.syspath_prepend(Path(__file__).parent)
    stand_ins = importlib.import_module("worker_stand_ins")
    folder = tmp_path / "workers"
    folder.mkdir()
    started = []

    def start(name, *, workers=1, timeout=60.0, grace=60.0):
        started.append(Supervised(getattr(stand_ins, name), folder, workers=workers, timeout=timeout, grace=grace))
        return started[-1]

    yield start
    for one in started:
        one.end()
    assert [pid for pid in map(int, (path.name for path in folder.iterdir())) if psutil.pid_exists(pid)] == []


def test_a_worker_that_takes_longer_to_start_than_it_may_be_silent_is_left_alone(supervised, eventually):
    running = supervised("start_slowly", workers=2, timeout=1.0)
    eventually(running.served, 60)
    assert running.restarts == []


def test_a_hung_worker_is_killed_and_replaced(supervised, eventually):
    running = supervised("hang_at_first", timeout=1.0)
    eventually(lambda: len(running.served()) >= 2, 60)
    assert running.restarts[0] is Restart.HUNG
    assert not psutil.pid_exists(running.served()[0])


def test_restarts_wait_longer_and_longer(supervised, eventually):
    running = supervised("serve_at_first")
    eventually(lambda: len(running.restarts) == 3, 60)
    assert running.restarts == [Restart.DIED, Restart.START_FAILED, Restart.START_FAILED]
    assert [line["restart_in_seconds"] for line in running.lines] == [0.0, 1.0, 2.0]
    assert [line["exit_code"] for line in running.lines] == [0, 1, 1]


def test_the_pause_before_a_restart_is_bounded():
    assert [restart_pause(failures) for failures in range(1, 10)] == [0, 1, 2, 4, 8, 16, 32, 60, 60]
    assert restart_pause(1_000_000) == 60


def test_workers_of_which_none_can_start_are_given_up_with_the_reason(supervised):
    running = supervised("refuse", workers=2)
    running.thread.join(60)
    assert running.error == "no worker process can start: traces need OpenTelemetry"
    assert running.restarts == []


def test_a_worker_that_is_killed_while_it_starts_is_started_again(supervised, eventually):
    """As by the system when memory is short, which passes."""
    before = set(psutil.Process().children())
    running = supervised("start_slowly")

    def starting():
        return next(
            (
                child
                for child in psutil.Process().children()
                if child not in before and "spawn_main" in " ".join(child.cmdline())
            ),
            None,
        )

    eventually(starting, 60).kill()
    eventually(running.served, 60)
    assert running.restarts == [Restart.START_FAILED]
    assert running.lines[0]["exit_code"] == -9


def test_a_worker_for_which_there_is_no_memory_is_tried_again(supervised, eventually, monkeypatch):
    failures = [OSError(errno.ENOMEM, os.strerror(errno.ENOMEM))]
    start = SpawnProcess.start

    def start_in_the_end(process):
        if failures:
            raise failures.pop()
        start(process)

    monkeypatch.setattr(SpawnProcess, "start", start_in_the_end)
    running = supervised("serve")
    eventually(running.served, 60)
    assert [(line["event"], line["reason"]) for line in running.lines] == [
        ("worker not started", "Cannot allocate memory")
    ]


@pytest.mark.parametrize("how", ["grace", "second interrupt"])
def test_a_worker_that_does_not_end_is_killed(supervised, eventually, how):
    running = supervised("ignore_sigterm", grace=0.5 if how == "grace" else 600)
    eventually(running.served, 60)
    running.supervisor.interrupt()
    if how == "second interrupt":
        running.supervisor.interrupt()
    running.thread.join(60)
    assert not running.thread.is_alive()
    assert not psutil.pid_exists(running.served()[0])
