"""Work beside the event loop that nobody may have to wait for, and loops that go on whatever happens in them."""

from __future__ import annotations

import asyncio
import atexit
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final, TypeVar

import structlog

if TYPE_CHECKING:
    from structlog.typing import FilteringBoundLogger

# What is told to stop at the end of the process gets so long to leave the code of others.
_LEAVING_SECONDS: Final = 1.0

_Result = TypeVar("_Result")

logger: FilteringBoundLogger = structlog.get_logger(__name__)


async def in_daemon(work: Callable[[], _Result]) -> _Result:
    """Call a function that may never return, on a thread that holds up neither this task's end nor the process'.

    `asyncio.to_thread` is for what returns: the process ends only when all of its threads have.
    """
    done: Future[_Result] = Future()

    def call() -> None:
        try:
            if done.set_running_or_notify_cancel():
                done.set_result(work())
        except BaseException as error:  # noqa: BLE001  it is the caller's to hear
            done.set_exception(error)
        finally:
            atexit.unregister(leave)

    thread = threading.Thread(target=call, name="in-daemon", daemon=True)

    def leave() -> None:
        thread.join(_LEAVING_SECONDS)

    atexit.register(leave)
    thread.start()
    return await asyncio.wrap_future(done)


@contextmanager
def going_on(task: str) -> Iterator[None]:
    """Log what nobody expected, so that a task that runs as long as the service goes on with its next step."""
    try:
        yield
    except Exception:
        logger.exception("unexpected error in the background", task=task)
