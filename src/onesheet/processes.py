"""Processes of our own that are started for a while."""

from __future__ import annotations

import signal
import subprocess
import sys

# `creationflags` of every process that is to be stopped: Windows asks a group to end, and never one process.
if sys.platform == "win32":
    NEW_GROUP = subprocess.CREATE_NEW_PROCESS_GROUP
else:
    NEW_GROUP = 0


def stop(process: subprocess.Popen[bytes], patience: float) -> None:
    """Ask a process to end, and make it end when it has not after `patience` seconds."""
    _ask_to_end(process)
    try:
        process.wait(patience)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _ask_to_end(process: subprocess.Popen[bytes]) -> None:
    if sys.platform != "win32":
        process.terminate()
        return
    try:
        process.send_signal(signal.CTRL_BREAK_EVENT)
    except OSError:  # it has ended, or there is no console to ask by
        process.terminate()
