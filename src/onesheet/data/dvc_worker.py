"""DVC's push and pull in a process of its own: `python -m onesheet.data.dvc_worker ORDER`.

DVC waits for ever for a server that has fallen silent. Here that does no harm: the parent may end the process at any
time and start another, which goes on where this one stopped, for DVC never leaves half an object under its final name.

ORDER is `onesheet.data.dvc.Order` as JSON. Standard output has a line of JSON whenever something has been done: `done`
of `total` objects where it is the moving of objects. A last one has the `outcome`.
"""

from __future__ import annotations

import errno
import json
import logging
import os
import signal
import sys
import time
from typing import Any, Final

CONNECT_S: Final = 10.0
SILENCE: Final = 0.25
"""Share of the parent's patience after which a request that hears nothing is given up, to be repeated in time."""
TOLD_EVERY_S: Final = 0.2
MOVING: Final = ("Pushing", "Fetching")
"""How DVC calls the step that moves objects; others look for what there is, or link it into place."""

_MISSING: Final = "Some of the cache files do not exist"
_REFUSALS: Final = ("400", "403", "404")


def transfer(order: dict[str, Any]) -> dict[str, Any]:
    """Push or pull once.

    Returns:
        `objects` that were moved and `notes` to pass on; or an `error`, and whether it is `hopeless` to try again.
    """
    from dvc.exceptions import CheckoutError, DownloadError, DvcException, UploadError
    from dvc.lock import LockError
    from dvc.repo import Repo

    log = _Log()
    pushing = order["direction"] == "push"
    options = {"targets": order["targets"] or None, "jobs": order["jobs"], "remote": order["remote"]}
    try:
        with Repo() as repo:
            repo.cloud.get_remote(order["remote"], order["direction"])  # DVC itself would be content with none
            if next(iter(repo.index.outs), None) is None:  # nor would it miss what nobody has given it
                return _hopeless("DVC tracks nothing here: `dvc add data/raw` first, or go to the repository's folder")
            done = repo.push(**options) if pushing else repo.pull(**options, force=order["force"])["stats"]["fetched"]
    except (UploadError, DownloadError) as error:
        return _failure(log.failure or error)
    except CheckoutError as error:
        missing = ", ".join(error.target_infos)
        return _hopeless(f"{missing}: not all of it is here or in the remote; push it from where it is")
    except LockError:
        return {"error": "another DVC is at work in this repository", "hopeless": False}
    except DvcException as error:
        return _hopeless(_line(error))
    except Exception as error:  # noqa: BLE001  of whatever library the remote is reached by
        return _failure(error)
    if any(note.startswith(_MISSING) for note in log.notes):  # a warning, to DVC
        return _hopeless("some objects are neither here nor in the remote; the others are there now")
    return {"objects": done, "notes": log.notes}


class _Log(logging.Handler):
    """Keeps what DVC only logs.

    Attributes:
        notes: First lines of its warnings.
        failure: Why the last object was not transferred.
    """

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.notes: list[str] = []
        self.failure: BaseException | None = None
        for name in ("dvc", "dvc_data", "dvc_objects"):
            logging.getLogger(name).addHandler(self)

    def emit(self, record: logging.LogRecord) -> None:
        if record.exc_info:
            self.failure = record.exc_info[1]
        else:
            self.notes.append(record.getMessage().partition("\n")[0])


def _failure(error: BaseException) -> dict[str, Any]:
    """It would only happen again where there are no credentials, no permission, no such bucket or object, no space."""
    from google.auth.exceptions import DefaultCredentialsError

    code = str(getattr(error, "code", ""))
    if code == "401" or isinstance(error, DefaultCredentialsError):
        return _hopeless(f"{_line(error)}: log in with `gcloud auth application-default login`")
    refused = code in _REFUSALS or isinstance(error, (PermissionError, FileNotFoundError))
    full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
    return {"error": _line(error), "hopeless": refused or full or str(error).startswith("Forbidden")}


def _hopeless(message: str) -> dict[str, Any]:
    return {"error": message, "hopeless": True}


def _line(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return text or type(error).__name__


def _tune_gcsfs(silence_s: float) -> None:
    """Let gcsfs give up a request that hears nothing, which it then repeats, and ask once for each object.

    By itself it waits for ever. A limit on the whole of a request would cut off what is large, or slow.
    """
    from aiohttp import ClientTimeout
    from fsspec.config import conf

    timeout = ClientTimeout(total=None, sock_connect=CONNECT_S, sock_read=silence_s)
    conf.setdefault("gs", {})["requests_timeout"] = timeout
    # Else it looks at each object with two more requests first, to read those beyond 100 MB in parts side by side.
    os.environ.setdefault("DEFAULT_GCSFS_CONCURRENCY", "1")


class _Teller:
    """Tells what DVC's bars count, in place of drawing them."""

    def __init__(self, told: int) -> None:
        from tqdm import tqdm

        self._told = told
        self._last = 0.0
        self._total = 0
        self._update = tqdm.update
        os.environ["DVC_IGNORE_ISATTY"] = "1"  # there shall be bars without a terminal, too
        tqdm.update = lambda bar, n=1: self._see(bar, n)
        tqdm.display = lambda *_, **__: None

    def _see(self, bar: Any, n: float) -> bool | None:
        drawn: bool | None = self._update(bar, n)
        moving = bool(bar.total) and str(getattr(bar, "desc", "")).startswith(MOVING)
        news = moving and (bar.n >= bar.total or bar.total != self._total)
        if news or time.monotonic() - self._last > TOLD_EVERY_S:
            self._last = time.monotonic()
            if moving:
                self._total = bar.total
            _tell(self._told, {"done": bar.n, "total": bar.total} if moving else {})
        return drawn


def _tell(told: int, message: dict[str, Any]) -> None:
    os.write(told, json.dumps(message).encode() + b"\n")


def main() -> None:
    """Do what the order says, and tell how it went."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent
    told = os.dup(1)
    os.dup2(2, 1)  # nobody else says anything there
    order = json.loads(sys.argv[1])
    _Teller(told)
    _tune_gcsfs(order["timeout_s"] * SILENCE)
    _tell(told, {"outcome": transfer(order)})


if __name__ == "__main__":
    main()
