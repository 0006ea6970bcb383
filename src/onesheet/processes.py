"""Processes of our own that are started for a while."""

from __future__ import annotations

import subprocess


def stop(process: subprocess.Popen[bytes], patience: float) -> None:
    """Ask a process to end, and make it end when it has not after `patience` seconds."""
    process.terminate()
    try:
        process.wait(patience)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
