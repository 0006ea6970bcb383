"""What a test leaves behind fails it, and ends; so does what is left of a test run that is killed."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from tests.processes import (
    MAX_WAIT,
    OWNER,
    eventually,
    is_running,
    run_command,
    started_by,
    started_process,
)

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="sessions and signals of POSIX")

ROOT = Path(__file__).parents[2]
CONFTEST = f"""
import sys
sys.path.insert(0, {str(ROOT)!r})
from tests import leak_check
leak_check.GRACE = 0.5

def pytest_configure(config):
    leak_check.configure(config)
"""
# It starts another one in a session of its own, and prints the ids of both.
FAMILY = """
import subprocess, sys, os
child = subprocess.Popen(["sleep", "600"], start_new_session=True)
print(os.getpid(), child.pid, flush=True)
child.wait()
"""
LEAKS = """
import socket, subprocess, sys, tempfile, threading, pytest

kept = []

def test_process():
    subprocess.Popen([sys.executable, "-c", FAMILY, "leaked"])

def test_orphan():
    subprocess.run(["sh", "-c", "setsid sleep 601 >/dev/null 2>&1 &"], check=True)

def test_thread():
    go_on = threading.Event()
    threading.Thread(target=go_on.wait, args=[5], name="endless").start()

def test_port():
    kept.append(socket.create_server(("127.0.0.1", 0)))

def test_file():
    tempfile.mkdtemp(prefix="forgotten")

@pytest.fixture(scope="module")
def service():
    with subprocess.Popen(["sleep", "602"]) as process:
        yield process
        process.kill()

def test_of_a_module_with_a_service(service):
    pass

def test_clean():
    tempfile.TemporaryDirectory().cleanup()
    subprocess.run(["true"], check=True)
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "conftest.py").write_text(CONFTEST)
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    return tmp_path


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """Of a test run that is not part of this one."""
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("PYTEST", "COV"))}
    return {**kept, "TMPDIR": str(temporary), "PYTEST_DEBUG_TEMPROOT": str(temporary)}


PYTEST = (sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider")
PARALLEL = ("-n", "2")


@pytest.mark.parametrize("options", [(), PARALLEL])
def test_what_a_test_leaves_behind_fails_it_and_is_ended(project, environment, options):
    (project / "test_leaks.py").write_text(LEAKS.replace("FAMILY", repr(FAMILY)))
    with started_process([*PYTEST, *options], cwd=project, env=environment, stdout=subprocess.PIPE) as run:
        said = run.communicate(timeout=MAX_WAIT)[0]
        pids = [int(pid) for pid in re.findall(r"process (\d+) ", said)]
        assert not any(map(is_running, pids))
    assert run.returncode == 1
    assert "7 passed, 5 errors" in said, said
    for test, left in (
        ("process", r"process \d+ \S+ -c .*leaked"),
        ("orphan", r"process \d+ sleep 601"),
        ("thread", r"thread \d+ endless"),
        ("port", r"port \d+ 127.0.0.1"),
        ("file", "temporary file forgotten"),
    ):
        assert re.search(rf"ERROR at teardown of test_{test} [\s\S]{{,400}}{left}", said), said
    assert not any(Path(environment["TMPDIR"]).glob("tests-*"))


ENDLESS = """
import subprocess, sys, tempfile, time

def test_that_is_killed(tmp_path):
    open("pids-of-" + tempfile.mkdtemp().rpartition("/")[2], "w").write(
        subprocess.Popen([sys.executable, "-c", FAMILY], stdout=-1, text=True).stdout.readline()
    )
    time.sleep(600)

def test_that_is_killed_as_well(tmp_path):
    test_that_is_killed(tmp_path)
"""


@pytest.mark.parametrize(
    ("how", "options"), [(signal.SIGKILL, ()), (signal.SIGKILL, PARALLEL), (signal.SIGINT, PARALLEL)]
)
def test_nothing_is_left_of_a_test_run_that_is_killed(project, environment, how, options):
    (project / "test_endless.py").write_text(ENDLESS.replace("FAMILY", repr(FAMILY)))
    with started_process([*PYTEST, *options], cwd=project, env=environment, stdout=subprocess.DEVNULL) as run:
        expected = 4 if options else 2
        started = eventually(lambda: len(pids := _pids(project)) == expected and pids)
        assert all(map(is_running, started))
        owner = psutil.Process(run.pid).environ()[OWNER]
        run.send_signal(how)
        run.wait(MAX_WAIT)
        eventually(lambda: not started_by(owner))
        assert not any(map(is_running, started))
        if how != signal.SIGINT:  # what failed tests have written is kept
            # a link to a folder that is gone stays
            eventually(
                lambda: not any(files for _, _, files in os.walk(environment["TMPDIR"]) if files != ["pytest-current"])
            )


def test_a_process_ends_with_its_block_and_with_all_that_it_has_started():
    with started_process([sys.executable, "-c", FAMILY], stdout=subprocess.PIPE) as process:
        pids = list(map(int, process.stdout.readline().split()))
        assert len(pids) == 2
        process.kill()  # its child is an orphan now
    assert not any(map(is_running, pids))


def test_a_command_that_takes_too_long_ends_with_all_that_it_has_started():
    with pytest.raises(subprocess.TimeoutExpired) as stopped:
        run_command([sys.executable, "-c", FAMILY], timeout=3)
    assert not any(map(is_running, map(int, stopped.value.stdout.split())))


def _pids(folder: Path) -> list[int]:
    return [int(pid) for path in folder.glob("pids-of-*") for pid in path.read_text().split()]
