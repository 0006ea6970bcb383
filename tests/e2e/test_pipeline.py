"""The DVC pipeline of this repository, run as a user runs it: from raw posters to metrics that can be compared."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from tests.processes import run_command

if TYPE_CHECKING:
    from collections.abc import Callable

ROOT = Path(__file__).parents[2]
RECIPE = (
    *("experiment=smoke", "trainer.epochs=2", "trainer.progress=false", "logger=none", "logger.pictures_every=0"),
    *("data.batch_size=16", "model.height=32", "model.width=32", "+model.options.channels=[16,32,64,128]"),
)


@pytest.fixture
def call(made_up_posters: Path, tmp_path: Path) -> Callable[..., str]:
    """`call("dvc", "repro")` in a repository with this pipeline: standard output and error."""
    home = tmp_path / "repository"
    for name in ("dvc.yaml", "params.yaml", "splits.csv", ".dvcignore", ".gitignore", ".dvc/config", ".dvc/.gitignore"):
        (home / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, home / name)
    shutil.copytree(made_up_posters, home / "data/raw")
    scratch = {
        name: str(tmp_path / name) for name in ("DVC_SITE_CACHE_DIR", "DVC_GLOBAL_CONFIG_DIR", "DVC_SYSTEM_CONFIG_DIR")
    }
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    who = {f"GIT_{role}_{what}": "me@example.org" for role in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
    environment = {**os.environ, **scratch, **who, "PATH": path}

    def run(*command: str) -> str:
        done = run_command(command, cwd=home, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        assert done.returncode == 0, done.stdout
        return done.stdout

    run("git", "init", "-q")
    return run


def compared(call: Callable[..., str], what: str, *arguments: str) -> Any:
    return json.loads(call("dvc", what, *arguments, "--json"))


@pytest.mark.slow
def test_a_model_is_made_and_compared_with_another(call: Callable[..., str], tmp_path: Path) -> None:
    home = tmp_path / "repository"
    call("dvc", "add", "--quiet", "data/raw")
    (home / "params.yaml").write_text(call("onesheet", "train", "--show", *RECIPE))
    call("dvc", "repro", "--quiet", "prepare")

    # The training was interrupted, and went on by hand.
    call("onesheet", "train", "--config", "params.yaml", "run_dir=outputs/pipeline")
    call("dvc", "commit", "--quiet", "--force", "train")
    said = call("dvc", "repro")
    assert "Stage 'train' didn't change, skipping" in said
    assert "Running stage 'evaluate'" in said
    assert "Data and pipelines are up to date" in call("dvc", "status")

    call("git", "add", ".")
    tracked = call("git", "ls-files").split()
    assert "data/raw.dvc" in tracked
    assert "reports/pipeline/metrics.json" in tracked
    assert not [name for name in tracked if name.endswith((".jpg", ".ckpt", ".onnx", ".html", ".parquet"))]
    call("git", "commit", "-qm", "first")
    assert {"map_macro", "f1_macro", "ece", "n"} <= set(_data(compared(call, "metrics", "show"), ""))

    (home / "params.yaml").write_text(call("onesheet", "train", "--show", *RECIPE, "optimizer.lr=0.01"))
    changed = compared(call, "params", "diff")["params.yaml"]
    assert changed == {"optimizer.lr": {"old": 0.002, "new": 0.01, "diff": 0.008}}
    assert set(compared(call, "status")) == {"train"}

    metrics = home / "reports/pipeline/metrics.json"
    metrics.write_text(json.dumps({**json.loads(metrics.read_text()), "f1_macro": 0.5}))
    assert set(compared(call, "metrics", "diff")["reports/pipeline/metrics.json"]) == {"f1_macro"}
    plots = compared(call, "plots", "diff")["data"]
    assert len(plots) == 5
    assert all(set(plot["revisions"]) == {"HEAD", "workspace"} for drawn in plots.values() for plot in drawn)


def _data(shown: Any, revision: str) -> Any:
    (file,) = shown[revision]["data"].values()
    return file["data"]


def test_its_parameters_are_the_whole_recipe_of_the_starter(call: Callable[..., str]) -> None:
    assert (ROOT / "params.yaml").read_text() == call("onesheet", "train", "--show", "experiment=starter")


def test_its_training_depends_on_every_knob() -> None:
    knobs = set(yaml.safe_load((ROOT / "params.yaml").read_text())) - {"run_dir", "resume"}
    assert set(yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]["train"]["params"]) == knobs
