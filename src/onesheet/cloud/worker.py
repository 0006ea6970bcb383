"""What one machine of a training job on Vertex AI does: posters from a bucket, a run and its bundle to a bucket.

Whatever ends such a machine, another one goes on from what lies in the bucket. Training is a process of its own, so
that this one can send the run away even when training was killed or ran out of memory.
"""

from __future__ import annotations

import csv
import shutil
import signal
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from types import FrameType
from typing import Final

from onesheet.cloud.run_folder import RunUploads
from onesheet.cloud.training_process import Part, Plan, train_apart
from onesheet.cloud.transfer import download, exists
from onesheet.cloud.vertex_environment import Trial, as_overrides, read_machine, read_trial
from onesheet.data.labels import IMAGES_FOLDER, LABELS_FILE
from onesheet.data.prepare import prepare
from onesheet.training.compose import compose_config
from onesheet.training.config import TrainConfig
from onesheet.training.launch import Machine
from onesheet.training.record import BEST, CURVES_FILE, LAST, read_record

Say = Callable[[str], None]

BUNDLE: Final = "bundle"
SPLITS: Final = "splits.csv"

_METRIC: Final = "val/map_macro"


@dataclass(frozen=True, slots=True)
class Work:
    """What a machine is to do.

    Attributes:
        data: Address of the posters, gs://: `train.csv`, `Images/`, and `splits.csv` if films keep their split.
        run: Address of the run, gs://. A run that lies there is gone on with; trials get folders below it.
        overrides: Hydra overrides, or a trial's `--key=value`.
        folder: To work in, on this machine.
        sync_seconds: Between two uploads of the run.
    """

    data: str
    run: str
    overrides: tuple[str, ...]
    folder: Path
    sync_seconds: float = 60

    @property
    def raw(self) -> Path:
        """Folder of the posters."""
        return self.folder / "data/raw"

    @property
    def processed(self) -> Path:
        """Folder of the manifest."""
        return self.folder / "data/processed"

    @property
    def run_dir(self) -> Path:
        """Folder of the run."""
        return self.folder / "run"


def work(job: Work, environment: Mapping[str, str], say: Say = lambda _: None) -> None:
    """Do the work of this machine; to be called in the main thread, for SIGTERM ends it.

    Args:
        job: What to do.
        environment: Variables, with those that Vertex sets.
        say: Called with a line about what is being done, also from another thread.

    Raises:
        ConfigError: An override is wrong, or Vertex's variables are.
        DataError: The posters are not what they should be, or could not be brought here.
        TransferError: The run could not be brought here, or at the end away.
        OnesheetError: As by `train` and `export`.
        SystemExit: 143 after SIGTERM.
    """
    machine, trial = read_machine(environment), read_trial(environment)
    job = replace(job, folder=job.folder.resolve(), overrides=as_overrides(job.overrides))
    address = f"{job.run.rstrip('/')}/trials/{trial.id}" if trial else job.run.rstrip("/")
    config = _configured(job, machine)
    with _ended_by_sigterm():
        _fetch(job, say)
        # Of an earlier attempt on this machine: what counts is in the bucket.
        shutil.rmtree(job.run_dir, ignore_errors=True)
        part = Part(config, address, job.folder / "tmp", machine, plan=None)
        if machine is None or machine.rank == 0:
            _lead(job, part, trial, say)
        else:
            say(f"training as machine {machine.rank + 1} of {machine.nodes}")
            train_apart(part, watch=lambda: None)


def _configured(job: Work, machine: Machine | None) -> TrainConfig:
    """The configuration, composed before anything is downloaded: a wrong override is told in seconds."""
    # Nobody looks at a progress bar here, and a database in the folder of a machine goes with the machine.
    usual = ["trainer.progress=false"]
    if not any(override.startswith("logger=") for override in job.overrides):
        usual.append("logger=csv")
    fixed = [
        f"run_dir={job.run_dir}",
        "resume=false",
        f"data.raw={job.raw}",
        f"data.processed={job.processed}",
        f"trainer.nodes={machine.nodes if machine else 1}",
    ]
    return compose_config([*usual, *job.overrides, *fixed])


def _fetch(job: Work, say: Say) -> None:
    source = job.data.rstrip("/")
    say(f"posters from {source}")
    download(f"{source}/{LABELS_FILE}", job.raw / LABELS_FILE)
    download(f"{source}/{IMAGES_FOLDER}/", job.raw / IMAGES_FOLDER)
    splits = job.folder / SPLITS if exists(f"{source}/{SPLITS}") else None
    if splits:
        download(f"{source}/{SPLITS}", splits)
    manifest = prepare(job.raw, job.processed, keep_splits=splits)
    counts = ", ".join(f"{count} {name}" for name, count in manifest.counts().items())
    say(f"posters: {counts}")


def _lead(job: Work, part: Part, trial: Trial | None, say: Say) -> None:
    """The work of the only machine, or of the chief: it alone writes to the bucket."""
    plan = _planned(part)
    say(f"{part.address}: {plan}")
    uploads = RunUploads(job.run_dir, part.address, job.folder / "outbox", seconds=job.sync_seconds, say=say)
    with uploads:
        watch = _Epochs(job.run_dir, trial, say)
        if plan is not Plan.DONE or part.machine:
            train_apart(replace(part, plan=plan), watch)
        from onesheet.export.export import export

        export(job.run_dir / BEST, job.run_dir / BUNDLE, raw=job.raw, processed=job.processed, on_step=say)
        say(f"the last upload to {part.address}")
    say(f"done: {part.address}/{BUNDLE}")


def _planned(part: Part) -> Plan:
    """What is left to do of the run; what there is of it is here then."""
    if not exists(f"{part.address}/{LAST}"):
        return Plan.FRESH
    run_dir = Path(part.config.run_dir)
    download(part.address, run_dir)
    from onesheet.training.checkpoint import load_checkpoint

    wanted = part.config.trainer.epochs
    if load_checkpoint(run_dir / LAST).epoch >= wanted:
        return Plan.DONE
    # A run that was finished before its time had stopped to learn; more epochs than it was given then are to be done.
    given = compose_config([], from_run=run_dir).trainer.epochs
    return Plan.DONE if read_record(run_dir).status == "finished" and given >= wanted else Plan.RESUME


class _Epochs:
    """Tells of each epoch as it ends, Vertex too if this is a trial.

    Args:
        run_dir: Folder of the run; epochs that are there already are told to Vertex alone.
        trial: This one.
        say: Gets a line.
    """

    def __init__(self, run_dir: Path, trial: Trial | None, say: Say) -> None:
        self._curves = run_dir / CURVES_FILE
        self._trial = trial
        self._say = say
        self._told = max(self._read(), default=0)

    def __call__(self) -> None:
        """Tell what is new."""
        values = self._read()
        for epoch, value in values.items():
            if epoch > self._told:
                self._say(f"epoch {epoch}: mAP (macro) {value:.3f}")
                self._told = epoch
        if self._trial:
            self._trial.report(values)

    def _read(self) -> dict[int, float]:
        if not self._curves.exists():
            return {}
        with self._curves.open(newline="") as file:
            return {int(row["epoch"]): float(row[_METRIC]) for row in csv.DictReader(file)}


@contextmanager
def _ended_by_sigterm() -> Iterator[None]:
    """Leave by SystemExit, so that everything is ended in order; once: what comes after shall not break that off."""

    def leave(number: int, _: FrameType | None) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        sys.exit(128 + number)

    former = signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, former)
