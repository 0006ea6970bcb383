"""Start processes and HTTP servers in tests so that none outlives its test, even if the test run is killed.

Every process that tests start inherits an environment variable that names the test run, the pytest process and, where
it was started by this module, the start. It stays where groups, sessions and parents change, so that a whole tree can
be found.
"""

from __future__ import annotations

import itertools
import os
import shutil
import subprocess
import tempfile
import threading
import time
from contextlib import contextmanager, suppress
from http.server import HTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import psutil

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

_Found = TypeVar("_Found")
_Server = TypeVar("_Server", bound="HTTPServer")

# Seconds. Tests wait for conditions: only what hangs takes so long, however busy the machine is.
MAX_WAIT = 300

# The environment variable. A value ends with a slash, and is the beginning of the values of what was started below.
OWNER = "TESTS_STARTED_BY"

# What was started here and has not been ended, as something will do: values of the variable, and ids of processes.
held: dict[str, int] = {}

_numbers = itertools.count(1)


@contextmanager
def started_process(command: Sequence[object], **options: Any) -> Iterator[subprocess.Popen[Any]]:
    """Start a process in a session of its own; at the end of the block, kill it and all that it has started.

    Args:
        command: Program and arguments.
        options: Of `subprocess.Popen`; its pipes carry text unless `text=False`.
    """
    number = next(_numbers)
    owner = f"{os.environ.get(OWNER, '')}{number}/"
    # What is killed leaves its temporary files. The name is short for the sake of the paths of sockets.
    temporary = Path(tempfile.gettempdir(), str(number))
    environment = {**(options.get("env") or os.environ), OWNER: owner, "TMPDIR": str(temporary)}
    options = {"text": True, "start_new_session": os.name == "posix", **options, "env": environment}
    arguments = [part if isinstance(part, bytes) else str(part) for part in command]
    try:
        temporary.mkdir()
        temporary.chmod(0o777)  # for another user, too
        with subprocess.Popen(arguments, **options) as process:
            held[owner] = process.pid
            try:
                yield process
            finally:
                process.kill()  # first, as it may restart the others
                process.wait()
                kill_all(owner)
    finally:
        held.pop(owner, None)
        shutil.rmtree(temporary, ignore_errors=True)


def run_command(
    command: Sequence[object], *, check: bool = False, timeout: float = MAX_WAIT, **options: Any
) -> subprocess.CompletedProcess[Any]:
    """Run a command to its end, like `subprocess.run`, and capture its output; kill whatever it leaves.

    Args:
        command: Program and arguments.
        check: Whether it has to succeed.
        timeout: Seconds.
        options: Of `subprocess.Popen`.

    Raises:
        AssertionError: A command that had to succeed failed; the message has its output.
        subprocess.TimeoutExpired: It did not end in time; its whole tree has been killed.
    """
    pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with started_process(command, **{**pipes, **options}) as process:
        out, err = process.communicate(timeout=timeout)
    done = subprocess.CompletedProcess(process.args, process.returncode, out, err)
    assert done.returncode == 0 or not check, f"{done.args} exited with {done.returncode}:\n{out}\n{err}"
    return done


def started_by(owner: str) -> list[psutil.Process]:
    """Running processes that carry this value of the variable, or one below it, and their descendants."""
    running = [
        process
        for process in psutil.process_iter(["environ", "ppid", "status"])
        if process.pid != os.getpid() and process.info["status"] != psutil.STATUS_ZOMBIE
    ]
    family = {one.pid for one in running if (one.info["environ"] or {}).get(OWNER, "").startswith(owner)}
    size = 0
    while len(family) > size:
        size = len(family)
        family |= {one.pid for one in running if one.info["ppid"] in family}
    return [process for process in running if process.pid in family]


def is_running(pid: int) -> bool:
    """Whether there is such a process, and not only what stays of one until its parent asks for the exit code."""
    with suppress(psutil.NoSuchProcess):
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    return False


def kill_all(owner: str, seconds: float = MAX_WAIT) -> None:
    """Kill the processes that carry this value, also those that are started meanwhile; return when all are gone.

    Raises:
        TimeoutError: One cannot be killed.
    """
    deadline = time.monotonic() + seconds
    while processes := started_by(owner):
        if time.monotonic() > deadline:
            raise TimeoutError(f"cannot be killed: {processes}")
        kill(processes)


def kill(processes: Iterable[psutil.Process]) -> None:
    """Kill processes, and give them a moment to end."""
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(processes, timeout=1)


@contextmanager
def serve_in_thread(server: _Server) -> Iterator[_Server]:
    """Let a server answer in a thread, until the end of the block."""
    with server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


def eventually(condition: Callable[[], _Found | None], seconds: float = MAX_WAIT) -> _Found:
    """Ask again and again until the answer is true; return that answer.

    Raises:
        TimeoutError: It never was.
    """
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        if time.monotonic() > deadline:
            raise TimeoutError(f"not within {seconds:.0f} s")
        time.sleep(0.02)
    return found
