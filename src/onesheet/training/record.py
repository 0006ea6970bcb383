"""The folder of a run, and `run.json`: what the run was made of and how it ended, so that it can be repeated."""

from __future__ import annotations

import json
import os
import platform
import subprocess
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Final

from onesheet.errors import TrainingError
from onesheet.files import write_whole
from onesheet.predictor import usable_cores

BEST: Final = "best.ckpt"
LAST: Final = "last.ckpt"
CONFIG_FILE: Final = "config.yaml"
RECORD_FILE: Final = "run.json"
CURVES_FILE: Final = "curves.csv"

_PACKAGES: Final = ("onesheet", "torch", "torchvision", "timm", "lightning", "numpy", "pillow", "onnxruntime")


@dataclass
class RunRecord:
    """The record of a run.

    Attributes:
        seed: Of weights, order and augmentation.
        fingerprint: Of the manifest.
        git_commit: Of the working folder; None outside a repository.
        git_dirty: There were uncommitted changes.
        packages: Versions that decide the result.
        machine: Python, system, processor, cores that the run may use.
        started: When it was first begun.
        status: `running`, `finished`, or `stopped` before the end. A killed run keeps saying `running`.
        finished: When it ended.
        seconds: Time taken, with all resumed parts but those that were killed.
        best: Epoch and metrics of the best checkpoint.
        loggers: What each tracking store calls the run, so that a resumed run goes on there.
    """

    seed: int
    fingerprint: str
    git_commit: str | None
    git_dirty: bool
    packages: dict[str, str]
    machine: dict[str, Any]
    started: str
    status: str = "running"
    finished: str | None = None
    seconds: float = 0.0
    best: dict[str, Any] = field(default_factory=dict)
    loggers: dict[str, str] = field(default_factory=dict)

    def differences(self, other: RunRecord) -> list[str]:
        """What may make two runs of one configuration come out differently, one sentence each."""
        found = []
        if self.fingerprint != other.fingerprint:
            found.append(f"the data: fingerprint {other.fingerprint[:12]} was {self.fingerprint[:12]}")
        if self.git_commit != other.git_commit:
            found.append(f"the code: commit {_short(other.git_commit)} was {_short(self.git_commit)}")
        if self.git_dirty or other.git_dirty:
            found.append("the code: with uncommitted changes")
        for name, before in self.packages.items():
            if (now := other.packages.get(name)) != before:
                found.append(f"{name}: {now} was {before}")
        return found


def new_record(seed: int, fingerprint: str) -> RunRecord:
    """The record of a run that begins now."""
    return RunRecord(
        seed=seed,
        fingerprint=fingerprint,
        git_commit=git_commit(),
        git_dirty=bool(_git("status", "--porcelain")),
        packages=_package_versions(),
        machine={
            "python": platform.python_version(),
            "system": platform.platform(),
            "processor": platform.processor() or platform.machine(),
            "cores": usable_cores(),
        },
        started=now(),
    )


def read_record(run_dir: Path) -> RunRecord:
    """Read the record of a run.

    Raises:
        TrainingError: There is none, or it is damaged.
    """
    try:
        return RunRecord(**json.loads((run_dir / RECORD_FILE).read_text()))
    except FileNotFoundError:
        raise TrainingError(f"{run_dir} is no run: it holds no {RECORD_FILE}") from None
    except (ValueError, TypeError) as error:
        raise TrainingError(f"{run_dir / RECORD_FILE} is damaged") from error


def write_record(record: RunRecord, run_dir: Path) -> None:
    """Write the record, all of it or nothing."""
    write_whole(run_dir / RECORD_FILE, json.dumps(asdict(record), indent=2) + "\n")


def now() -> str:
    """The time, in UTC, as it is kept."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def git_commit() -> str | None:
    """Commit of the working folder; None outside a repository."""
    return _git("rev-parse", "HEAD")


def as_numbers(metrics: Mapping[str, Any]) -> dict[str, float]:
    """Metrics of Lightning as plain numbers."""
    return {name: round(float(value), 6) for name, value in metrics.items()}


def _git(*arguments: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", *arguments],
            capture_output=True,
            text=True,
            check=True,
            timeout=10,
            env={**os.environ, "GIT_OPTIONAL_LOCKS": "0"},
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


def _package_versions() -> dict[str, str]:
    found = {}
    for name in _PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def _short(commit: str | None) -> str:
    return commit[:9] if commit else "unknown"
