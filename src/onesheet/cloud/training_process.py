"""The training of a job, in a process of its own: whatever kills it, the machine can still send the run away."""

from __future__ import annotations

import multiprocessing
import os
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import StrEnum
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from pathlib import Path
from typing import Final

from onesheet.cloud.transfer import download
from onesheet.errors import OnesheetError, TrainingError, reason
from onesheet.processes import end_with_parent
from onesheet.training.config import TrainConfig
from onesheet.training.launch import Machine

_POLL_SECONDS: Final = 0.5
# A machine that is taken away has thirty seconds altogether, and the run has to be uploaded in them as well.
_PATIENCE_SECONDS: Final = 10


class Plan(StrEnum):
    """What is left to do of a run."""

    FRESH = "fresh"
    RESUME = "resume"
    DONE = "done"


@dataclass(frozen=True, slots=True)
class Part:
    """What the training process is told.

    Attributes:
        config: Of the run.
        address: Of the run.
        scratch: Folder for temporary files, on the disk of the run's folder.
        machine: This one, if there are several.
        plan: The chief's, which it tells the other machines.
    """

    config: TrainConfig
    address: str
    scratch: Path
    machine: Machine | None
    plan: Plan | None


def train_apart(part: Part, watch: Callable[[], None]) -> None:
    """Train in a process of its own, and call `watch` again and again meanwhile.

    Raises:
        OnesheetError: What went wrong there.
    """
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_training_process, args=(part, sender), name="training")
    process.start()
    sender.close()
    try:
        while process.is_alive():
            process.join(_POLL_SECONDS)
            watch()
    finally:
        _end(process)
    if process.exitcode:
        raise _told(receiver) or TrainingError(f"the training process ended with exit code {process.exitcode}")


def _told(receiver: Connection) -> OnesheetError | None:
    try:
        error: OnesheetError = receiver.recv()
    except EOFError:
        return None
    return error


def _end(process: SpawnProcess) -> None:
    process.terminate()
    process.join(_PATIENCE_SECONDS)
    if process.is_alive():
        process.kill()
        process.join()


def _training_process(part: Part, sender: Connection) -> None:
    end_with_parent()
    # Lightning writes a checkpoint to a temporary file and moves it, which is all or nothing on one disk only.
    part.scratch.mkdir(parents=True, exist_ok=True)
    os.environ["TMPDIR"] = tempfile.tempdir = str(part.scratch)
    try:
        _train_as_planned(part)
    except (OnesheetError, RuntimeError, OSError) as error:
        sender.send(error if isinstance(error, OnesheetError) else TrainingError(reason(error)))
        sys.exit(1)


def _train_as_planned(part: Part) -> None:
    if part.machine is None:
        from onesheet.training.run import train

        train(replace(part.config, resume=part.plan is Plan.RESUME))
        return
    from onesheet.cloud.together import Meeting, train_together

    def get_ready(plan: str) -> None:
        if plan == Plan.RESUME:
            download(part.address, Path(part.config.run_dir))

    meeting = Meeting(part.machine)
    plan = meeting.agree(part.plan, get_ready)
    if plan != Plan.DONE:
        train_together(replace(part.config, resume=plan == Plan.RESUME), part.machine)
