"""A sweep searches, gives up what lags, goes on where it was, and says what it found."""

from __future__ import annotations

import csv
import dataclasses
import itertools
import json
import os
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import optuna
import pytest
import yaml
from typer.testing import CliRunner

from onesheet.cli import app
from onesheet.configs import default_config_dir, read_config
from onesheet.errors import ConfigError
from onesheet.training.compose import compose_config
from onesheet.training.ranking import importance, ranked, write_ranking
from onesheet.training.searchspace import SearchSpace
from onesheet.training.sweep import Sweep, failures, run_sweep
from tests.processes import run_command, serve_in_thread

SPACE = {
    "method": "bayes",
    "metric": {"name": "val/map_macro", "goal": "maximize"},
    "parameters": {
        "optimizer.lr": {"distribution": "log_uniform_values", "min": 1e-5, "max": 1e-2},
        "data.batch_size": {"values": [32, 64]},
        "trainer.epochs": {"min": 2, "max": 3},
        "trainer.threshold": {"min": 0.2, "max": 0.4},
        "model.backbone": {"value": "resnet10t"},
    },
    "early_terminate": {"type": "hyperband", "min_iter": 1, "eta": 2},
}


@pytest.fixture
def sweep(configure, smallest, tmp_path):
    """`sweep(trials=2, parameters={…})`: a sweep that ends in seconds."""
    config = configure(tmp_path)
    (tmp_path / "space.yaml").write_text(yaml.safe_dump(SPACE))
    common = (*smallest, "logger=csv", "data.limit=64")
    data = (f"data.raw={config.data.raw}", f"data.processed={config.data.processed}")

    def make(*overrides: str, **fields) -> Sweep:
        fields = {"trials": 2, "store": f"sqlite:///{tmp_path}/sweeps.db", **fields}
        return Sweep(
            "test", tmp_path / "space.yaml", out=tmp_path / "out", overrides=(*common, *data, *overrides), **fields
        )

    return make


def test_two_workers_go_on_with_what_a_command_has_begun(sweep, tmp_path):
    """On one store: one trial by the command, and as many more as eight want; then there is nothing left to do."""
    wanted = dataclasses.replace(sweep(trials=8, workers=2), out=tmp_path / "out/test")
    options = {"name": "test", "space": wanted.space, "store": wanted.store, "out": tmp_path / "out", "trials": 1}
    arguments = [f"--{name}={value}" for name, value in options.items()]
    result = CliRunner().invoke(app, ["sweep", *wanted.overrides, *arguments])
    assert result.exit_code == 0, result.output
    assert "1 trials" in result.output
    assert "trials.csv" in result.output

    seen = []
    study = run_sweep(wanted, lambda done, total: seen.append((done, total)))
    assert len(run_sweep(wanted).trials) == 8
    trials = ranked(study)
    assert len(trials) == 8
    assert {trial.number for trial in trials} == set(range(8))
    assert seen[-1] == (8, 8)
    runs = {path.name for path in wanted.out.iterdir() if path.is_dir()}
    assert runs == {f"test-{number:04d}" for number in range(8)}
    for trial in trials:
        config = compose_config([], from_run=Path(trial.user_attrs["run_dir"]))
        assert config.optimizer.lr == trial.params["optimizer.lr"]
        assert config.data.batch_size == trial.params["data.batch_size"]
        assert config.trainer.threshold == trial.params["trainer.threshold"]
    complete = [trial for trial in trials if trial.state is optuna.trial.TrialState.COMPLETE]
    assert complete == sorted(complete, key=lambda trial: -trial.value)
    assert complete[0].value == max(max(trial.intermediate_values.values()) for trial in complete)
    files = write_ranking(study, tmp_path / "ranking")
    assert [file.name for file in files] == ["trials.csv", "history.png", "importance.png"]
    with files[0].open() as file:
        rows = list(csv.DictReader(file))
    assert [row["rank"] for row in rows] == [str(rank) for rank in range(1, 9)]
    assert float(rows[0]["value"]) == pytest.approx(complete[0].value)


def test_what_made_trials_fall_behind_is_what_mattered():
    """Every trial with large batches was given up; among the others the size of a batch explains nothing."""
    study = optuna.create_study(direction="maximize")
    for number, (size, rate) in enumerate(itertools.product([32, 512], np.geomspace(1e-4, 1e-2, 8).tolist())):
        study.enqueue_trial({"data.batch_size": size, "optimizer.lr": rate})
        trial = study.ask()
        large = trial.suggest_categorical("data.batch_size", [32, 512]) == 512
        trial.suggest_float("optimizer.lr", 1e-4, 1e-2, log=True)
        value = (0.1 if large else 0.2) + number / 10_000
        trial.report(value, 1)
        study.tell(trial, **({"state": optuna.trial.TrialState.PRUNED} if large else {"values": value}))
    assert importance(study)["data.batch_size"] > 0.9


def test_a_trial_that_lags_behind_is_given_up(sweep):
    """Every trial before it did better than any of these ever could."""
    wanted = sweep(trials=15)
    pruner = optuna.pruners.HyperbandPruner(min_resource=1, reduction_factor=2)
    study = optuna.create_study(
        study_name="test",
        storage=wanted.store,
        sampler=optuna.samplers.RandomSampler(seed=0),
        direction="maximize",
        pruner=pruner,
    )
    space = read_config(wanted.space, SearchSpace)
    for _ in range(12):
        trial = study.ask()
        space.suggest(trial)
        for epoch in (1, 2, 3):
            trial.report(0.999, epoch)
            trial.should_prune()
        study.tell(trial, 0.999)
    late = run_sweep(wanted).trials[12:]
    given_up = [trial for trial in late if trial.state is optuna.trial.TrialState.PRUNED]
    assert given_up
    assert all(len(trial.intermediate_values) < 3 for trial in given_up)


def test_a_trial_that_fails_does_not_end_the_sweep(sweep, tmp_path):
    space = {**SPACE, "method": "grid", "parameters": {"model.backbone": {"values": ["no_such_model", "resnet10t"]}}}
    wanted = sweep(trials=2)
    (tmp_path / "space.yaml").write_text(yaml.safe_dump(space))
    study = run_sweep(wanted)
    assert len(ranked(study)) == 1
    assert "timm has no model `no_such_model`" in next(iter(failures(study).values()))


def test_when_no_trial_succeeds_the_reason_is_told(sweep):
    """Here a metric that there is not."""
    wanted = sweep(trials=1)
    wanted.space.write_text(yaml.safe_dump({**SPACE, "metric": {"name": "val/accuracy"}}))
    reason = r"no trial succeeded; the last one said: no metric `val/accuracy`; there are: .*val/map_macro"
    with pytest.raises(ConfigError, match=reason):
        run_sweep(wanted)


def test_a_wrong_key_is_told_before_any_trial(sweep, tmp_path):
    wanted = sweep(trials=1)
    wanted.space.write_text(yaml.safe_dump({**SPACE, "parameters": {"optimizer.lrr": {"min": 1, "max": 2}}}))
    with pytest.raises(ConfigError, match=r"did you mean `optimizer\.lr`"):
        run_sweep(wanted)
    assert not (tmp_path / "out").exists()


def test_a_store_that_is_none(sweep, tmp_path):
    with pytest.raises(ConfigError, match="cannot be used"):
        run_sweep(sweep(store="nonsense://x"))


def test_the_shipped_space_takes_the_parameters_of_the_student_sweep():
    space = read_config(default_config_dir() / "sweep.yaml", SearchSpace)
    assert set(space.parameters) == {
        "optimizer.lr",
        "data.batch_size",
        "trainer.epochs",
        "trainer.threshold",
        "model.backbone",
    }
    assert space.parameters["optimizer.lr"].kind == "log_uniform_values"
    trial = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=1)).ask()
    compose_config(space.suggest(trial))


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("{", "cannot be read"),
        ("method: guess\nparameters: {}", "method"),
        ("method: grid\nparameters: {seed: {min: 2}}", "needs `value`"),
        ("method: grid\nparameters: {seed: {min: 2, max: 1}}", "must be below"),
        ("method: grid\nparameters: {seed: {distribution: log_uniform_values, min: 0, max: 1}}", "above 0"),
        ("method: grid\nparameters: {seed: {distribution: beta, min: 0, max: 1}}", "seed.distribution"),
        ("method: bayes\nparameters: {seed: {value: 1}}\nearly_terminate: {type: envelope}", "early_terminate.type"),
    ],
)
def test_a_wrong_space_is_explained_in_one_line(tmp_path, content, reason):
    (tmp_path / "space.yaml").write_text(content)
    with pytest.raises(ConfigError, match=reason) as error:
        read_config(tmp_path / "space.yaml", SearchSpace)
    assert "\n" not in str(error.value)


def test_a_missing_space_is_named(tmp_path):
    with pytest.raises(ConfigError, match="No such file or directory"):
        read_config(tmp_path / "space.yaml", SearchSpace)


def test_a_range_is_no_grid():
    with pytest.raises(ConfigError, match="seed: a grid needs `values`"):
        SearchSpace.model_validate({"method": "grid", "parameters": {"seed": {"min": 1, "max": 2}}}).grid()


_VIEWER = {"id": "v", "entity": "team", "username": "user", "name": "user", "email": "", "flags": "{}", "admin": False}
_ANSWER = {
    "upsertSweep": {
        "sweep": {"id": "s", "name": "sw33p", "project": {"id": "p", "name": "onesheet", "entity": {"name": "team"}}},
        "configValidationWarnings": [],
    },
    "viewer": {**_VIEWER, "deletedAt": None, "teams": {"edges": []}, "apiKeys": {"edges": []}},
    "serverInfo": {"cliVersionInfo": {}, "latestLocalVersionInfo": None, "features": []},
}


@pytest.fixture
def wandb_server():
    """Answers the GraphQL questions that creating a sweep asks; yields its address and what was asked."""
    asked = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            asked.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            body = json.dumps({"data": _ANSWER}).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            """Say nothing."""

    with serve_in_thread(ThreadingHTTPServer(("127.0.0.1", 0), Handler)) as server:
        yield f"http://127.0.0.1:{server.server_port}", asked


def test_wandb_gets_a_sweep_whose_agents_pass_hydra_overrides(wandb_server, tmp_path):
    """The official client against a server that answers as recorded; then the client's own making of the command."""
    from wandb.sdk.launch.sweeps.utils import create_sweep_command, create_sweep_command_args

    address, asked = wandb_server
    account = {"WANDB_BASE_URL": address, "WANDB_API_KEY": "0" * 40, "HOME": str(tmp_path), "WANDB_MODE": "online"}
    script = "from onesheet.cli import main; main()"
    command = [sys.executable, "-c", script, "sweep", "experiment=smoke", "--backend", "wandb"]
    done = run_command(command, env={**os.environ, **account}, check=True)
    assert done.stdout.splitlines()[-1] == "next, on any machine: wandb agent onesheet/sw33p"
    (created,) = (question["variables"] for question in asked if "upsertSweep" in question["query"])
    config = yaml.safe_load(created.get("config") or created["input"]["config"])
    assert config["parameters"]["optimizer.lr"]["distribution"] == "log_uniform_values"
    chosen = {"optimizer.lr": 0.001, "model.backbone": "resnet10t", "trainer.threshold": 0.3}
    arguments = create_sweep_command_args({"args": {name: {"value": value} for name, value in chosen.items()}})
    command = create_sweep_command(config["command"])
    assert command[:4] == ["${env}", "onesheet", "train", "logger=[wandb,csv]"]
    assert command[-1] == "${args_no_hyphens}"
    composed = compose_config([*command[3:-1], *arguments["args_no_hyphens"]])
    assert (composed.optimizer.lr, composed.model.backbone, composed.trainer.threshold) == (0.001, "resnet10t", 0.3)
    assert composed.logger.wandb is not None
