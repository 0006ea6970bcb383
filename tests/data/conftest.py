"""Fixtures of the data tests: small sources of posters that look like the real one."""

from __future__ import annotations

import csv
import io
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from PIL import Image

from tests.processes import run_command

if TYPE_CHECKING:
    from collections.abc import Callable

# Locks, signals and memory limits of POSIX are what these are about.
collect_ignore = ["test_dvc.py", "test_transfer.py"] if sys.platform == "win32" else []

TOY_GENRES = ("Action", "Comedy", "Drama")


@pytest.fixture
def make_source(tmp_path: Path) -> Callable[..., Path]:
    """`make_source(folder=None, films=40, lacking=0)`: labels and noise pictures; the last films lack theirs."""

    def make(folder: Path | None = None, films: int = 40, lacking: int = 0, seed: int = 0) -> Path:
        folder = folder or tmp_path / "source"
        (folder / "Images").mkdir(parents=True)
        random = np.random.default_rng(seed)
        ids = [f"tt{number:07d}" for number in range(1, films + 1)]
        _write_labels(folder / "train.csv", ids)
        for film in ids[: films - lacking]:
            (folder / "Images" / f"{film}.jpg").write_bytes(_noise_picture(random))
        return folder

    return make


@pytest.fixture
def source(make_source: Callable[..., Path]) -> Path:
    """A folder of 40 films, all with a picture."""
    return make_source()


@pytest.fixture
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Further attempts follow at once."""
    monkeypatch.setattr("onesheet.data.sources.base.PAUSES_S", (0.0, 0.0, 0.0))


@pytest.fixture
def kill_in_the_middle() -> Callable[..., None]:
    """`kill_in_the_middle(source, out, files)`: fetch in a process that is killed (-9) after so many files.

    With `size` it is killed after that many bytes.
    """
    if sys.platform == "win32":
        pytest.skip("has no SIGKILL")
    script = """
import os, signal, sys
from pathlib import Path
from onesheet.data import fetch as module

def die(progress):
    if progress.step == "downloading":
        if progress.done_files >= int(sys.argv[3]) and progress.done_bytes >= int(sys.argv[4]):
            os.kill(os.getpid(), signal.SIGKILL)

module.BATCH = 10
module.fetch(sys.argv[1], Path(sys.argv[2]), progress=die)
"""

    def kill(source: str, out: Path, files: int = 0, size: int = 0) -> None:
        arguments = [source, str(out), str(files), str(size)]
        done = run_command([sys.executable, "-c", script, *arguments])
        assert done.returncode == -9

    return kill


def _write_labels(path: Path, ids: list[str]) -> None:
    with path.open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["Id", "Genre", *TOY_GENRES])
        for number, film in enumerate(ids):
            genre = number % len(TOY_GENRES)
            flags = [int(column == genre) for column in range(len(TOY_GENRES))]
            rows.writerow([film, str([TOY_GENRES[genre]]), *flags])


def _noise_picture(random: np.random.Generator) -> bytes:
    encoded = io.BytesIO()
    Image.fromarray(random.integers(0, 256, (24, 16, 3), np.uint8)).save(encoded, "JPEG")
    return encoded.getvalue()
