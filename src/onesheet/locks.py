"""Files that one process at a time holds."""

from __future__ import annotations

import sys
import time
from typing import IO, Any, Final

if sys.platform == "win32":
    import msvcrt
else:
    import fcntl

_LOOK_AGAIN_SECONDS: Final = 0.05


def wait_for_lock(file: IO[Any], seconds: float) -> None:
    """Hold an open file until it is closed, once nobody else holds it.

    Raises:
        BlockingIOError: Another process held it for so long.
    """
    deadline = time.monotonic() + seconds
    while True:
        try:
            return lock(file)
        except BlockingIOError:
            if time.monotonic() > deadline:
                raise
            time.sleep(_LOOK_AGAIN_SECONDS)


def lock(file: IO[Any]) -> None:
    """Hold an open file until it is closed.

    Raises:
        BlockingIOError: Another process holds it.
    """
    if sys.platform == "win32":
        try:
            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
        except PermissionError as error:
            raise BlockingIOError from error
    else:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
