"""Child processes end with the process that started them, also when that is killed."""

from __future__ import annotations

import os
import subprocess
import sys

import psutil
import pytest

from onesheet.processes import module_command, running

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="has no SIGKILL")

# A server that starts other processes, as MLflow's and our own do.
FAMILY = """
import subprocess, sys
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
print(child.pid, *sys.argv[1:], flush=True)
child.wait()
"""

# Each starts `family`, prints its process ID, and waits.
PARENTS = {
    "running": """
from onesheet.processes import running
with running("family", "a", "b", patience=60) as process:
    print(process.pid, flush=True)
    process.wait()
""",
    "multiprocessing": """
import multiprocessing, runpy, time
from onesheet.processes import end_with_parent
def work():
    end_with_parent()
    time.sleep(600)
if __name__ == "__main__":
    process = multiprocessing.get_context("spawn").Process(target=work)
    process.start()
    print(process.pid, flush=True)
    process.join()
""",
}


@pytest.fixture
def family(tmp_path, monkeypatch):
    """Let child processes find a module of this name."""
    (tmp_path / "family.py").write_text(FAMILY)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))


def gone(*processes):
    return psutil.wait_procs(processes, timeout=60)[1] == []


@pytest.mark.parametrize("how", PARENTS)
def test_a_child_ends_with_a_parent_that_is_killed(family, tmp_path, how):
    script = tmp_path / "parent.py"
    script.write_text(PARENTS[how])
    with subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE, text=True) as parent:
        children = [psutil.Process(int(parent.stdout.readline()))]
        if how == "running":
            grandchild, *arguments = parent.stdout.readline().split()
            children.append(psutil.Process(int(grandchild)))
            assert arguments == ["a", "b"]
        parent.kill()
    assert gone(*children)


def test_a_child_of_a_parent_that_is_gone_already_does_not_stay(family):
    with subprocess.Popen([sys.executable, "-c", ""]) as other:
        pass
    command = module_command("family")
    command[command.index(str(os.getpid()))] = str(other.pid)
    started = subprocess.Popen(command, stdout=subprocess.DEVNULL, start_new_session=True)
    assert started.wait(60) != 0


def test_a_child_is_asked_to_end_and_then_made_to(tmp_path, monkeypatch):
    (tmp_path / "stubborn.py").write_text(
        "import signal, time\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\nprint(flush=True)\ntime.sleep(600)"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with running("stubborn", patience=0.2, stdout=subprocess.PIPE) as process:
        process.stdout.readline()
    assert process.returncode == -9
    process.stdout.close()
