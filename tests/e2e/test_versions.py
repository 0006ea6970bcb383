"""The life of a model with its real tools: versions of data and of models, a gate, a service that follows, and back."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from onesheet.data.kept_splits import read_kept_splits
from onesheet.training.compose import compose_yaml
from tests.processes import MAX_WAIT, eventually, run_command

pytestmark = pytest.mark.usefixtures("uncounted_processes")

ROOT = Path(__file__).parents[2]
# These posters are few, another recipe is much larger, and how long a network takes depends on what else is running.
GATES = {
    "min_posters": 15,
    "max_ece": 0.5,
    "max_ece_rise": 0.5,
    "max_robustness_fall": 1,
    "max_latency_ratio": 1_000_000,
    "max_size_ratio": 20,
}


class Project:
    """A repository with the pipeline, as somebody has it who works with onesheet.

    Args:
        folder: Its working tree.
        posters: All that there will ever be.
        search_path: PATH with the commands.
    """

    def __init__(self, folder: Path, posters: Path, search_path: str) -> None:
        self.folder, self.posters = folder, posters
        self.environment = {
            **os.environ,
            "PATH": search_path,
            "ONESHEET_ACTOR": "ada",
            "DVC_NO_ANALYTICS": "true",
            "MLFLOW_DISABLE_TELEMETRY": "true",
        }
        folder.mkdir()
        for name in (".gitignore", ".dvcignore", "dvc.yaml", "splits.csv"):
            shutil.copy(ROOT / name, folder)
        shipped = yaml.safe_load((ROOT / "configs" / "gates.yaml").read_text())
        (folder / "gates.yaml").write_text(yaml.safe_dump(shipped | GATES))
        self.run("git init --quiet && git config user.email ada@example.org && git config user.name Ada")
        self.run("dvc init --quiet")
        shutil.copy(ROOT / ".dvc" / "config", folder / ".dvc")

    def run(self, commands: str, code: int = 0, **environment: str) -> str:
        """What commands say, in bash and in the project's folder."""
        done = run_command(
            ["bash", "-ec", commands],
            cwd=self.folder,
            env=self.environment | environment,
            timeout=900,
        )
        said = done.stdout + done.stderr
        assert done.returncode == code, f"{commands}: {done.returncode}\n{said[-3000:]}"
        assert "Traceback" not in said
        return said

    def take_posters(self, count: int) -> None:
        """Let the raw data be the first films of all."""
        raw = self.folder / "data" / "raw"
        (raw / "Images").mkdir(parents=True, exist_ok=True)
        header, *rows = (self.posters / "train.csv").read_text().splitlines()
        (raw / "train.csv").write_text("\n".join([header, *rows[:count]]) + "\n")
        for row in rows[:count]:
            name = f"{row.split(',')[0]}.jpg"
            shutil.copy(self.posters / "Images" / name, raw / "Images" / name)

    def choose(self, *overrides: str) -> None:
        """Another recipe."""
        small = "model.height=32 model.width=24 +model.options.channels=[16,32,64,128] trainer.accelerator=cpu"
        quiet = "logger=mlflow logger.pictures_every=0 trainer.progress=false"
        self.run(f"onesheet train --show experiment=scratch {small} {quiet} {' '.join(overrides)} > params.yaml")

    def reproduce(self, code: int = 0) -> tuple[list[str], str]:
        """Stages that `dvc repro` has run, and what it says."""
        said = self.run("dvc repro", code)
        return re.findall(r"Running stage '(\w+)'", said), said

    def dvc(self, command: str) -> dict[str, Any]:
        """What a command of DVC says as JSON."""
        said: dict[str, Any] = json.loads(self.run(f"dvc {command} --json 2> /dev/null"))
        return said

    def keep(self, message: str) -> None:
        """Commit whatever git sees."""
        self.run(f"git add --all && git commit --quiet --message '{message}'")

    def workflow(self, name: str, *steps: str, **environment: str) -> str:
        """What steps of a workflow say, run as they stand there."""
        jobs = yaml.safe_load((ROOT / ".github" / "workflows" / name).read_text())["jobs"]
        commands = {step.get("name"): step.get("run") for job in jobs.values() for step in job["steps"]}
        return "".join(self.run(commands[step].replace("uv run --no-sync ", ""), **environment) for step in steps)


@pytest.fixture
def project(tmp_path: Path, made_up_posters: Path, preloaded_commands: str) -> Project:
    """A new one, with three quarters of the posters."""
    made = Project(tmp_path / "project", made_up_posters, preloaded_commands)
    made.take_posters(180)
    return made


@pytest.fixture
def serve(project: Project, start_process: Callable[..., subprocess.Popen[str]]) -> Iterator[Callable[[], str]]:
    """`serve()`: the address of a service that follows the champion."""
    started: list[subprocess.Popen[str]] = []

    def start() -> str:
        command = [sys.executable, "-m", "onesheet", "serve", "--bundle", "champion", "--follow", "0.5", "--port", "0"]
        environment = project.environment | {"ONESHEET_LOG_JSON": "true"}
        log = project.folder.parent / "service.log"
        with log.open("w") as errors:
            started.append(start_process(command, cwd=project.folder, env=environment, stderr=errors))
        return eventually(lambda: address_in(log))

    yield start
    for process in started:
        process.send_signal(signal.SIGTERM)
        assert process.wait(MAX_WAIT) == 0


def address_in(log: Path) -> str | None:
    lines = [json.loads(line) for line in log.read_text().splitlines() if line.startswith("{") and line.endswith("}")]
    return next((line["url"] for line in lines if line["event"] == "listening"), None)


def answers_with(address: str, version: str) -> str | None:
    model = httpx.get(f"{address}/health").json()["model"]
    return version if model and model["version"] == version else None


def version_of(bundle: Path) -> str:
    return str(json.loads((bundle / "bundle.json").read_text())["version"])


def test_a_model_comes_is_replaced_and_comes_back(project, serve, make_poster):
    # Version 1 of the data, and a first model of it, after a single epoch.
    project.choose("trainer.epochs=1")
    project.run("dvc add data/raw && dvc repro --quiet prepare")
    # The training was interrupted and resumed by hand, which the pipeline is told.
    project.run("onesheet train --config params.yaml run_dir=outputs/pipeline && dvc commit --quiet --force train")
    stages, said = project.reproduce()
    assert stages == ["export", "evaluate"]
    assert "Stage 'train' didn't change, skipping" in said
    project.keep("data v1, first model")
    assert project.reproduce()[0] == []
    assert "Data and pipelines are up to date" in project.run("dvc status")
    tracked = project.run("git ls-files").split()
    assert {"data/raw.dvc", "reports/pipeline/metrics.json"} <= set(tracked)
    assert not [name for name in tracked if name.endswith((".jpg", ".ckpt", ".onnx", ".html", ".parquet"))]
    (shown,) = project.dvc("metrics show")[""]["data"].values()
    assert {"map_macro", "f1_macro", "ece", "n"} <= set(shown["data"])
    first = version_of(project.folder / "models/pipeline")
    project.run("onesheet registry register models/pipeline --run outputs/pipeline --note first")
    project.run("onesheet registry promote --gates gates.yaml")
    address = serve()
    eventually(lambda: answers_with(address, first))

    # Version 2: a broken label file is refused, and what there is stays.
    kept = read_kept_splits(project.folder / "splits.csv")
    project.take_posters(240)
    labels = project.folder / "data/raw/train.csv"
    whole = labels.read_text()
    labels.write_text(whole + "tt9999999,['Drama'],0,maybe,0,0,0\n")
    project.run("dvc add data/raw")
    stages, said = project.reproduce(code=255)
    assert stages == ["prepare"]
    assert "train.csv, line 242: column `Drama` needs 0 or 1" in said
    assert answers_with(address, first)

    # Mended. Somebody is told what it brings before it is trained on.
    labels.write_text(whole)
    project.run("dvc add data/raw")
    project.run("dvc repro prepare")
    project.run("git update-ref refs/remotes/origin/main HEAD")
    steps = ("Get the manifest of the version before", "Check it and compare")
    report = project.workflow("data-change.yml", *steps, BASE="main")
    assert "ok: training films that judge now: none" in report
    page = (project.folder / "outputs/data-report/report.md").read_text()
    assert "| added | 60: " in page
    assert kept.items() <= read_kept_splits(project.folder / "splits.csv").items()

    # A training that hardly learns: the data are the same, so their stage does not run, and the gate refuses it.
    project.choose("trainer.epochs=1", "optimizer.lr=1e-6")
    stages, _ = project.reproduce()
    assert stages == ["train", "export", "evaluate"]
    (changed,) = project.dvc("params diff").values()
    assert {name: values["new"] for name, values in changed.items()} == {"optimizer.lr": 1e-6}
    plots = project.dvc("plots diff")["data"]
    assert len(plots) == 5
    assert all(set(plot["revisions"]) == {"HEAD", "workspace"} for drawn in plots.values() for plot in drawn)
    project.keep("data v2, hardly trained")
    assert re.search(r"map_macro\s+[\d.]+\s+[\d.]+\s+-[\d.]+", project.run("dvc metrics diff HEAD~1"))
    project.run("onesheet registry register models/pipeline --run outputs/pipeline --note 'hardly trained'")
    refused = project.run("onesheet registry promote --gates gates.yaml", code=1)
    assert "version 2" in refused
    assert "stays what it is; it does not pass: better: mAP" in " ".join(refused.split())
    assert answers_with(address, first)

    # The workflow of continuous training brings a challenger that is better, and the running service follows.
    steps = ("Look at them and split them", "Train", "Make a bundle", "Make it the challenger")
    assert "version 3" in project.workflow("retrain.yml", *steps, RAW="data/raw", EXPERIMENT="smoke", REASON="drift")
    promoted = project.run("onesheet registry promote --gates gates.yaml")
    assert "is the champion now, instead of 1" in promoted
    eventually(lambda: answers_with(address, version_of(project.folder / "models/candidate")))

    # And back, while the service goes on answering.
    project.run("onesheet registry rollback --reason 'for the test'")
    eventually(lambda: answers_with(address, first))
    answer = httpx.post(f"{address}/predict", files={"file": make_poster()})
    assert (answer.status_code, answer.json()["model"]["version"]) == (200, first)
    history = [json.loads(line) for line in project.run("onesheet registry history --json").splitlines()]
    assert [(move["kind"], move["alias"], move["after"]) for move in history] == [
        ("register", "challenger", 1),
        ("promote", "champion", 1),
        ("register", "challenger", 2),
        ("register", "challenger", 3),
        ("promote", "champion", 3),
        ("rollback", "champion", 1),
    ]
    lineage = json.loads(project.run("onesheet registry list --json").splitlines()[0])["lineage"]
    assert re.fullmatch(r"[0-9a-f]{32}\.dir", lineage["data_version"])
    assert lineage["run"].startswith("mlflow:")
    assert re.fullmatch(r"[0-9a-f]{40}", lineage["git_commit"])


def test_the_parameters_of_the_pipeline_are_the_whole_recipe_of_the_starter():
    assert (ROOT / "params.yaml").read_text() == compose_yaml(["experiment=starter"])


def test_the_training_of_the_pipeline_depends_on_every_knob():
    knobs = set(yaml.safe_load((ROOT / "params.yaml").read_text())) - {"run_dir", "resume"}
    assert set(yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]["train"]["params"]) == knobs
