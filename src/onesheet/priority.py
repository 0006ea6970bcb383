"""Work that can wait, and should not be noticed by those who cannot."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Final

_LEAST: Final = 19


def let_others_go_first() -> None:
    """Give this process the least share of the cores, as long as anybody else wants them; it cannot be taken back.

    Linux counts each thread for itself, also those that libraries of linear algebra start when they are imported.
    Systems that know no such priority are left as they are.
    """
    if sys.platform == "linux":
        for thread in Path("/proc/self/task").iterdir():
            os.setpriority(os.PRIO_PROCESS, int(thread.name), _LEAST)
    elif sys.platform != "win32":
        os.nice(_LEAST)
