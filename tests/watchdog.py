"""Clean up after a pytest process that was killed: end what its tests started and remove their folders.

    python watchdog.py OWNER NAME FOLDER PID [PID of the pytest process that started it]

It runs beside each pytest process that runs tests, and ends when that has removed its folder.
"""

from __future__ import annotations

import os
import shutil
import sys
import time
from contextlib import suppress
from pathlib import Path

import psutil

sys.path.insert(0, str(Path(__file__).parents[1]))

from tests.processes import is_running, kill_all, started_by


def main(run: str, process: str, folder: str, *pids: str) -> None:
    """Wait for the end of one of the processes, and clean up."""
    watched = [int(pid) for pid in pids]
    while all(map(is_running, watched)):
        if not Path(folder, process).exists():
            return
        time.sleep(0.3)
    if is_running(watched[-1]):  # other processes go on with the run
        end(f"{run}{process}/")
        shutil.rmtree(Path(folder, process), ignore_errors=True)
    else:
        end(run)
        shutil.rmtree(folder, ignore_errors=True)
    remove_folders_of_pytest([pid for pid in watched if not is_running(pid)])


def end(owner: str) -> None:
    """Ask the processes to end, so that PostgreSQL can free its shared memory, and then kill them."""
    found = started_by(owner)
    for process in found:
        with suppress(psutil.NoSuchProcess):
            process.terminate()
    psutil.wait_procs(found, timeout=1)
    kill_all(owner)


def remove_folders_of_pytest(pids: list[int]) -> None:
    """Pytest's folder for a run holds the id of its process, and would be kept for days after it was killed."""
    for lock in Path(os.environ["PYTEST_DEBUG_TEMPROOT"]).glob("pytest-of-*/*/.lock"):
        with suppress(OSError, ValueError):
            if int(lock.read_text()) in pids:
                shutil.rmtree(lock.parent, ignore_errors=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
