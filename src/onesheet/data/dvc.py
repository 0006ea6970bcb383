"""Data versions to and from a DVC remote: DVC's own push and pull, watched, and repeated until all is through."""

from __future__ import annotations

import contextlib
import json
import math
import queue
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import IO, Any, Final, Literal, cast

from onesheet.errors import TransferError
from onesheet.processes import module_command

PAUSES_S: Final = (2.0, 10.0)
"""Seconds to wait before further attempts in a row that bring nothing; after the last, the error stands."""

OnObject = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class Order:
    """What to transfer, and how.

    Attributes:
        direction: Seen from here.
        targets: Tracked files or folders, or stages; none means everything.
        remote: Its name; default: the repository's default remote.
        jobs: Objects at the same time.
        timeout_s: Seconds without any progress after which DVC is ended and started again.
        force: A pull may overwrite what was changed here.
    """

    direction: Literal["push", "pull"]
    targets: tuple[str, ...]
    remote: str | None
    jobs: int
    timeout_s: float
    force: bool = False


@dataclass(frozen=True, slots=True)
class Transferred:
    """What has come of it.

    Attributes:
        objects: How many were moved; those that were there already do not count.
        notes: What DVC warns of.
    """

    objects: int
    notes: tuple[str, ...]


def transfer(order: Order, on_object: OnObject) -> Transferred:
    """Push or pull, again and again as long as something gets through.

    What DVC finds missing when it is started again tells what the attempt before has brought.

    Args:
        order: What to transfer.
        on_object: Called with (done, total).

    Raises:
        TransferError: Trying again would not help, or has not helped; what got through stays.
    """
    counter = _Counter(on_object)
    least, pauses = math.inf, list(PAUSES_S)
    while True:
        outcome = _attempt(order, counter)
        if "error" not in outcome:
            return Transferred(max(counter.total, outcome["objects"]), tuple(outcome["notes"]))
        if outcome["hopeless"]:
            raise TransferError(f"cannot {order.direction}: {outcome['error']}")
        if counter.found and counter.found < least:
            least, pauses = counter.found, list(PAUSES_S)
        if not pauses:
            raise TransferError(
                f"cannot {order.direction}: {outcome['error']}; what got through stays: run it again to go on"
            )
        time.sleep(pauses.pop(0))


class _Counter:
    """Counts the objects of all attempts together.

    Attributes:
        total: The most that any attempt has found to move.
        found: What the present attempt has found to move; 0 before it knows.
    """

    def __init__(self, on_object: OnObject) -> None:
        self.total = 0
        self.found = 0
        self._on_object = on_object

    def begin(self) -> None:
        """Another attempt."""
        self.found = 0

    def count(self, done: int, found: int) -> None:
        """So many of those that the attempt has found to move are moved."""
        self.found = max(self.found, found)  # DVC counts the list of a folder's files by itself, after the files
        self.total = max(self.total, self.found)
        self._on_object(self.total - max(self.found - done, 0), self.total)


def _attempt(order: Order, counter: _Counter) -> dict[str, Any]:
    """Run DVC once, until it ends or nothing happens any more; how it went, in the words of the worker."""
    counter.begin()
    with tempfile.TemporaryFile() as log, _worker(order, log) as (process, told), contextlib.suppress(queue.Empty):
        while True:
            line = told.get(timeout=order.timeout_s)
            if not line:
                # Whoever ended it with a signal had another reason than what it did: it may be started again.
                return {"error": f"DVC ended: {_last_line(log)}", "hopeless": process.wait() > 0}
            message: dict[str, Any] = json.loads(line)
            if "outcome" in message:
                return cast("dict[str, Any]", message["outcome"])
            if "total" in message:
                counter.count(message["done"], message["total"])
    return {"error": f"nothing has moved for {order.timeout_s:g} s", "hopeless": False}


@contextlib.contextmanager
def _worker(order: Order, log: IO[bytes]) -> Iterator[tuple[subprocess.Popen[bytes], queue.Queue[bytes]]]:
    """DVC in a process of its own: the process, and the lines that it tells; an empty one after the last."""
    command = module_command(f"{__package__}.dvc_worker", json.dumps(asdict(order)))
    told: queue.Queue[bytes] = queue.Queue()
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=log) as process:
        # Windows cannot wait for a pipe with a time limit, but for a queue.
        reader = threading.Thread(target=_read, args=(process.stdout, told), daemon=True)
        reader.start()
        try:
            yield process, told
        finally:
            process.kill()
            reader.join()


def _read(pipe: IO[bytes], told: queue.Queue[bytes]) -> None:
    for line in pipe:
        told.put(line)
    told.put(b"")


def _last_line(log: IO[bytes]) -> str:
    log.seek(0)
    lines = log.read().decode(errors="replace").split("\n")
    return next((line.strip() for line in reversed(lines) if line.strip()), "it says nothing")
