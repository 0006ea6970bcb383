"""Child processes that end with the process that started them, however it ends: also by SIGKILL.

`python -m onesheet.processes PARENT MODULE ARGUMENT...` runs a module as `python -m MODULE ARGUMENT...` does, until the
process PARENT has ended.
"""

from __future__ import annotations

import multiprocessing
import os
import runpy
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final, NoReturn

if TYPE_CHECKING:
    from multiprocessing.process import BaseProcess

# `creationflags` of every process that is to be stopped: Windows asks a group to end, and never one process.
if sys.platform == "win32":
    import _winapi
    from multiprocessing import connection

    NEW_GROUP = subprocess.CREATE_NEW_PROCESS_GROUP
else:
    NEW_GROUP = 0

_MODULE: Final = "onesheet.processes"  # `__name__` is another one where this module is run
_POLL_SECONDS: Final = 0.25

_parent: int | None = None


def end_with_parent(parent: int | None = None) -> None:
    """End this process within half a second after its parent has ended.

    Whatever is under way is cut off, in the whole process group where this process leads one.

    Args:
        parent: Process ID; default: the process that started this one through `multiprocessing`, if any.
    """
    global _parent
    starter = multiprocessing.parent_process()
    _parent = parent or (starter.pid if starter else None)
    if _parent:
        threading.Thread(target=_end_after, args=(_parent,), name="end-with-parent", daemon=True).start()


def module_command(module: str, *arguments: str) -> list[str]:
    """Command line that runs a module in a child process which ends with this process."""
    return _command(os.getpid(), module, *arguments)


@contextmanager
def running(module: str, *arguments: str, patience: float, **options: Any) -> Iterator[subprocess.Popen[bytes]]:
    """Run a module in a child process, which has ended afterwards.

    It leads a process group, so that Ctrl-C reaches it through this process: once, and in order.

    Args:
        module: As after `python -m`.
        arguments: Of the module.
        patience: Seconds that it may take to end when it is asked to.
        options: Of `subprocess.Popen`.
    """
    process = subprocess.Popen(
        module_command(module, *arguments), start_new_session=True, creationflags=NEW_GROUP, **options
    )
    try:
        yield process
    finally:
        stop(process, patience)


def become(module: str, *arguments: str, environment: Mapping[str, str]) -> NoReturn:
    """Run a module in place of this process, which still ends with its parent if it did before."""
    command = _command(_parent, module, *arguments)
    os.execve(command[0], command, environment)  # noqa: S606


def stop(process: subprocess.Popen[bytes], patience: float) -> None:
    """Ask a process to end, and make it end when it has not after `patience` seconds."""
    ask_to_end(process)
    try:
        process.wait(patience)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def ask_to_end(process: subprocess.Popen[bytes] | BaseProcess) -> None:
    """Send SIGTERM, or what comes nearest to it on Windows."""
    if sys.platform != "win32" or process.pid is None:
        process.terminate()
        return
    try:
        os.kill(process.pid, signal.CTRL_BREAK_EVENT)
    except OSError:  # it has ended, or there is no console to ask by
        process.terminate()


def _command(parent: int | None, module: str, *arguments: str) -> list[str]:
    watched = [_MODULE, str(parent)] if parent else []
    return [sys.executable, "-P", "-m", *watched, module, *arguments]


def _end_after(parent: int) -> None:
    _wait_for_end_of(parent)
    if sys.platform != "win32" and os.getpgrp() == os.getpid():
        os.killpg(0, signal.SIGKILL)
    os._exit(1)


def _wait_for_end_of(parent: int) -> None:
    if sys.platform == "win32":  # where the ID of a parent stays, and may be given to another process
        connection.wait([_winapi.OpenProcess(_winapi.SYNCHRONIZE, False, parent)])
        return
    while os.getppid() == parent:
        time.sleep(_POLL_SECONDS)


if __name__ == "__main__":
    from onesheet import processes  # the one that others import, which is not this one

    processes.end_with_parent(int(sys.argv[1]))
    del sys.argv[:2]
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
