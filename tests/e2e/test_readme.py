"""The README's commands, run as they stand there."""

from __future__ import annotations

import csv
import importlib.util
import json
import os
import re
import shutil
import socket
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from onesheet.bundle import load_bundle
from tests.processes import run_command

pytestmark = pytest.mark.usefixtures("uncounted_processes")

README = Path(__file__).parents[2] / "README.md"
FILMS = 400


@pytest.fixture
def sample(tmp_path: Path) -> Path:
    """A few hundred posters: real ones where they are, else of our own making, with the same columns."""
    folder = tmp_path / "sample"
    (folder / "Images").mkdir(parents=True)
    real = os.environ.get("ONESHEET_POSTERS")
    if real:
        _take_real(Path(real), folder)
    else:
        _make_up(folder)
    return folder


def _take_real(posters: Path, folder: Path) -> None:
    rows = (posters / "train.csv").read_text().splitlines()[: FILMS + 1]
    (folder / "train.csv").write_text("\n".join(rows) + "\n")
    for row in rows[1:]:
        name = row.partition(",")[0] + ".jpg"
        shutil.copy(posters / "Images" / name, folder / "Images" / name)


def _make_up(folder: Path) -> None:
    random = np.random.default_rng(0)
    genres = load_bundle().metadata.genres
    with (folder / "train.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["Id", *genres])
        for number in range(FILMS):
            film = f"tt{number:07d}"
            writer.writerow([film, *(int(number % len(genres) == index) for index in range(len(genres)))])
            noise = Image.fromarray(random.integers(0, 256, (12, 8, 3), np.uint8))
            noise.resize((224, 336)).save(folder / "Images" / f"{film}.jpg")


def _commands(port: int) -> str:
    """The marked block, with a free port, and in the environment that the tests already run in."""
    (block,) = re.findall(r"test_readme\.py, in order -->\n```bash\n(.*?)```", README.read_text(), re.DOTALL)
    assert re.search(r"fetch.*prepare.*train .*evaluate.*export.*predict.*serve.*curl", block, re.DOTALL)
    return re.sub(r"uv run (--extra train )?", "", block).replace("8000", str(port))


@pytest.mark.slow
def test_from_raw_posters_to_an_answer_over_http(sample, tmp_path, preloaded_commands):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = {
        **os.environ,
        "PATH": preloaded_commands,
        "ONESHEET_DATA_SOURCE": str(sample),
    }
    home = tmp_path / "work"
    home.mkdir()
    done = run_command(["bash", "-emc", _commands(port)], cwd=home, env=environment, timeout=900)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "Traceback" not in done.stderr

    answer = json.loads(done.stdout.splitlines()[-1])
    assert len(answer["topk"]) == 5
    assert answer["model"]["name"] == "smoke"
    assert re.search(r"\.jpg: \w", done.stdout)
    assert re.search(r"manifest\.parquet: 3\d\d train, \d+ validation, \d+ test, \d+ quarantine", done.stdout)
    for made in (
        "data/raw/fetch.json",
        "data/processed/manifest.parquet",
        "outputs/data-stats/samples.png",
        "outputs/smoke/best.ckpt",
        "models/smoke/bundle.json",
        "models/smoke.tar.gz",
    ):
        assert (home / made).is_file(), made


def test_the_page_of_settings_is_what_the_settings_are():
    spec = importlib.util.spec_from_file_location("tasks", README.with_name("tasks.py"))
    tasks = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tasks)
    assert README.with_name("docs").joinpath("settings.md").read_text() == tasks.settings_page(), "run: inv settings"


def test_the_readme_names_only_settings_that_there_are():
    from onesheet.settings import Settings

    pages = (README, README.with_name("docs") / "serving.md")
    named = {name for page in pages for name in re.findall(r"ONESHEET_([A-Z_]+)", page.read_text())}
    assert named <= {name.upper() for name in Settings.model_fields}
