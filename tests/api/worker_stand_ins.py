"""What supervised worker processes run in tests; in a module of its own, which they import in no time.

In `folder` each leaves a file named by its process ID as soon as it serves.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from onesheet.errors import OnesheetError

if TYPE_CHECKING:
    from onesheet.supervisor import Heartbeat


def serve(folder: Path, heartbeat: Heartbeat) -> None:
    """Serve without end."""
    (folder / str(os.getpid())).touch()
    while True:
        heartbeat.beat()
        time.sleep(0.05)


def start_slowly(folder: Path, heartbeat: Heartbeat) -> None:
    """Serve after two seconds."""
    time.sleep(2)
    serve(folder, heartbeat)


def hang_at_first(folder: Path, heartbeat: Heartbeat) -> None:
    """The first process hangs, its successor serves."""
    if any(folder.iterdir()):
        serve(folder, heartbeat)
    (folder / str(os.getpid())).touch()
    heartbeat.beat()
    time.sleep(600)


def serve_at_first(folder: Path, heartbeat: Heartbeat) -> None:
    """The first process serves for a moment, and no other one starts."""
    if any(folder.iterdir()):
        sys.exit(1)
    (folder / str(os.getpid())).touch()
    heartbeat.beat()
    time.sleep(0.5)


def refuse(folder: Path, heartbeat: Heartbeat) -> None:
    """Fail for a reason that starting again does not remove."""
    raise OnesheetError("traces need OpenTelemetry")


def ignore_sigterm(folder: Path, heartbeat: Heartbeat) -> None:
    """Serve without end, whatever is asked."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    serve(folder, heartbeat)
