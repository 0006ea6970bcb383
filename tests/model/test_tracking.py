"""Runs are written down where the configuration says: MLflow, W&B offline, TensorBoard, CSV; several at once."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import shutil
import socket
import subprocess
import sys
import urllib.request
from collections import OrderedDict
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import pytest
from lightning.pytorch.callbacks import Callback
from typer.testing import CliRunner

from onesheet.cli import app
from onesheet.errors import ConfigError, TrainingError
from onesheet.training.record import new_record
from onesheet.training.run import train
from onesheet.training.runs import Run, find_baseline, list_runs, runs_markdown
from onesheet.training.tracking import log_outcome, open_loggers
from tests.processes import MAX_WAIT, eventually, started_process

VALIDATION = {
    "val/loss",
    "val/map_macro",
    "val/f1_macro",
    "val/f1_micro",
    "val/f1_samples",
    "val/auroc_macro",
    "val/ece",
}
TRAINING = {"train/loss_step", "train/loss_epoch", "train/lr", "train/grad_norm", "train/images_per_second"}
PICTURES = {"train/batch", "train/gradients", "val/curves", "val/reliability"}


@pytest.fixture(scope="session")
def tracked(configure, made_once):
    """Two runs of three epochs in MLflow, TensorBoard and CSV at once; the second was interrupted and resumed."""
    return made_once("tracked", partial(_track, configure))


def _track(configure, folder):
    common = (
        "logger=[mlflow,tensorboard,csv]",
        f"logger.mlflow.uri=sqlite:///{folder}/store.db",
        f"logger.mlflow.artifacts={folder}/artifacts",
        "logger.pictures_every=1",
        "logger.gradients_every=4",
        "trainer.log_every=1",
    )
    train(configure(folder / "first", *common, "name=first", "trainer.epochs=3"))
    quiet = ("logger.pictures_every=0", "logger.gradients_every=0")
    second = (*common, *quiet, "name=second", "augment.flip=0", "optimizer.lr=1e-3")
    train(configure(folder / "second", *second, "trainer.epochs=2"))
    train(configure(folder / "second", *second, "trainer.epochs=3", "resume=true"))


def _client(folder: Path):
    from mlflow import MlflowClient

    return MlflowClient(f"sqlite:///{folder}/store.db")


def _stored_run(folder: Path, name: str):
    client = _client(folder)
    experiment = client.get_experiment_by_name("onesheet")
    (run,) = (run for run in client.search_runs([experiment.experiment_id]) if run.info.run_name == name)
    return client, run


def test_mlflow_holds_every_metric_as_a_series_of_numbers(tracked):
    client, run = _stored_run(tracked, "first")
    assert set(run.data.metrics) >= VALIDATION | TRAINING | {
        "val/average_precision/Comedy",
        "best/map_macro",
        "seconds",
    }
    for name in VALIDATION:
        assert len(client.get_metric_history(run.info.run_id, name)) == 3, name
    losses = client.get_metric_history(run.info.run_id, "train/loss_step")
    assert [point.step for point in losses] == list(range(len(losses)))
    assert len(losses) == 15
    assert run.data.params["optimizer/lr"] == "0.002"
    assert run.info.status == "FINISHED"
    assert run.data.metrics["seconds"] > 0


def test_mlflow_holds_pictures_and_the_record(tracked, tmp_path):
    client, run = _stored_run(tracked, "first")
    parts = [part.path for part in client.list_artifacts(run.info.run_id)]
    kinds = {kind.path for part in parts for kind in client.list_artifacts(run.info.run_id, part)}
    assert kinds >= PICTURES
    record = json.loads(Path(client.download_artifacts(run.info.run_id, "run.json", str(tmp_path))).read_text())
    assert record["status"] == "finished"
    assert record["loggers"] == {"mlflow": run.info.run_id}


def test_a_run_notes_where_it_is_tracked_before_anything_can_kill_it(configure, tmp_path):
    noted = {}

    class Look(Callback):
        def on_train_start(self, trainer, pl_module):
            noted.update(json.loads((tmp_path / "run/run.json").read_text()))

    store = f"logger.mlflow.uri=sqlite:///{tmp_path}/store.db"
    config = configure(
        tmp_path / "run", "logger=mlflow", store, f"logger.mlflow.artifacts={tmp_path}", "trainer.epochs=1"
    )
    train(config, callbacks=[Look()])
    (run,) = list_runs(f"sqlite:///{tmp_path}/store.db", "onesheet")
    assert noted["status"] == "running"
    assert list(noted["loggers"]) == ["mlflow"]
    assert run.status == "FINISHED"


def test_a_resumed_run_goes_on_in_the_same_mlflow_run(tracked):
    client, run = _stored_run(tracked, "second")
    assert len(client.get_metric_history(run.info.run_id, "val/map_macro")) == 3


def test_a_run_that_is_tracked_only_from_its_second_half_on_says_what_it_tried(configure, tmp_path):
    store = (f"logger.mlflow.uri=sqlite:///{tmp_path}/store.db", f"logger.mlflow.artifacts={tmp_path}")
    train(configure(tmp_path / "run", "trainer.epochs=1"))
    config = configure(tmp_path / "run", "logger=mlflow", *store, "trainer.epochs=2")
    train(dataclasses.replace(config, resume=True))
    (run,) = list_runs(f"sqlite:///{tmp_path}/store.db", "onesheet")
    assert run.parameters["optimizer.lr"] == "0.002"


def test_what_a_run_tried_includes_what_the_baseline_never_named():
    """But not knobs that came later, where they stand as they always did."""
    now = datetime.now(UTC)
    baseline = Run("base", "FINISHED", now, {"optimizer.lr": "0.001"}, {}, 1.0)
    tried = {"optimizer.lr": "0.001", "model.options.global_pool": "max", "trainer.start_scale": "1.0"}
    assert Run("run", "FINISHED", now, tried, {}, 1.0).changes(baseline) == ["model.options.global_pool=max"]


def test_tensorboard_has_the_same_series_and_pictures(tracked):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(tracked / "first/tensorboard/version_0")).Reload()
    assert set(events.Tags()["scalars"]) >= VALIDATION | TRAINING
    assert set(events.Tags()["images"]) == PICTURES
    _, run = _stored_run(tracked, "first")
    assert events.Scalars("val/map_macro")[-1].value == pytest.approx(run.data.metrics["val/map_macro"], abs=1e-6)


def test_pictures_lie_in_the_runs_folder_too(tracked):
    drawn = {
        str(path.parent.relative_to(tracked / "first/pictures")) for path in tracked.glob("first/pictures/*/*/*.png")
    }
    assert drawn == PICTURES


def test_runs_are_listed_best_first_with_what_they_tried(tracked):
    runs = list_runs(f"sqlite:///{tracked}/store.db", "onesheet")
    assert [run.name for run in runs] == ["first", "second"]
    baseline = find_baseline(runs, None)
    assert runs[1].changes(baseline) == ["augment.flip=0.0", "optimizer.lr=0.001", "trainer.epochs=2"]
    page = runs_markdown(runs, baseline)
    assert "differently from `first`" in page
    lines = page[page.index("| run |") :].splitlines()
    assert len(lines) == 4
    assert "| `augment.flip=0.0` `optimizer.lr=0.001` `trainer.epochs=2` |" in "".join(lines)
    scores = [float(line.split("|")[3]) for line in lines[2:]]
    assert scores == sorted(scores, reverse=True)


def test_the_command_writes_the_table(tracked, tmp_path):
    arguments = ["--store", f"sqlite:///{tracked}/store.db", "--markdown", str(tmp_path / "docs/table.md")]
    result = CliRunner().invoke(app, ["runs", "list", *arguments])
    assert result.exit_code == 0, result.output
    assert "second" in result.output
    lines = (tmp_path / "docs/table.md").read_text().splitlines()
    assert lines[0] == "# Runs"
    assert [line.split("|")[1].strip() for line in lines[-2:]] == ["first", "second"]


@pytest.mark.parametrize(("experiment", "reason"), [("none", "there are: Default, onesheet")])
def test_an_unknown_experiment_is_named(tracked, experiment, reason):
    with pytest.raises(TrainingError, match=reason):
        list_runs(f"sqlite:///{tracked}/store.db", experiment)


def test_an_unknown_baseline_is_named(tracked):
    with pytest.raises(TrainingError, match="no run `third`"):
        find_baseline(list_runs(f"sqlite:///{tracked}/store.db", "onesheet"), "third")


def test_the_store_has_a_page_to_look_at(tracked, unused_port):
    script = "from onesheet.cli import main; main()"
    arguments = ["runs", "ui", "--store", f"sqlite:///{tracked}/store.db", "--port", str(unused_port)]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    with started_process([sys.executable, "-c", script, *arguments], **quiet) as server:
        page = _get_when_ready(f"http://127.0.0.1:{unused_port}/", server)
    assert b"MLflow" in page


@pytest.fixture
def unused_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _get_when_ready(url: str, server: subprocess.Popen) -> bytes:
    def page() -> bytes | None:
        assert server.poll() is None
        with contextlib.suppress(OSError), urllib.request.urlopen(url, timeout=MAX_WAIT) as answer:
            return answer.read()
        return None

    return eventually(page)


@pytest.mark.parametrize("had_artifacts", [True, False])
def test_a_resumed_run_goes_on_beside_its_store_that_was_moved(configure, tmp_path, monkeypatch, had_artifacts):
    def opened(store: Path, record):
        config = configure(tmp_path / "run", "logger=mlflow", f"logger.mlflow.uri=sqlite:///{store}")
        return open_loggers(config, record), config

    record = new_record(1, "0" * 64)
    loggers, config = opened(tmp_path / "first" / "store.db", record)
    if had_artifacts:
        log_outcome(loggers, config, record, tmp_path / "best.ckpt")
    shutil.move(tmp_path / "first", tmp_path / "second")
    # A resumed run is another process, which has not looked yet where the artifacts of the run are.
    monkeypatch.setattr("mlflow.tracking._tracking_service.utils._artifact_repos_cache", OrderedDict())
    loggers, config = opened(tmp_path / "second" / "store.db", record)
    log_outcome(loggers, config, record, tmp_path / "best.ckpt")
    (written,) = tmp_path.rglob("run.json")
    assert written.is_relative_to(tmp_path / "second" / "mlartifacts")
    assert not (tmp_path / "first").exists()


def test_two_first_runs_at_the_same_moment_make_one_store(tmp_path, start_process):
    code = "import sys; from onesheet.mlflow_store import open_mlflow_store; open_mlflow_store(sys.argv[1])"
    command = [sys.executable, "-c", code, f"sqlite:///{tmp_path}/mlflow.db"]
    first, second = (start_process(command, stderr=subprocess.PIPE) for _ in range(2))
    assert [process.communicate(timeout=MAX_WAIT)[1] for process in (first, second)] == ["", ""]
    assert (first.returncode, second.returncode) == (0, 0)
    with pytest.raises(TrainingError, match="there are: Default"):
        list_runs(command[-1], "nothing")


def test_an_mlflow_server_out_of_reach_is_told_before_training(configure, tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with pytest.raises(TrainingError, match=r"MLflow at http://127\.0\.0\.1:9 cannot be used"):
        train(configure(tmp_path / "run", "logger=mlflow", "logger.mlflow.uri=http://127.0.0.1:9"))


def test_wandb_offline_keeps_series_pictures_and_the_checkpoint_with_its_metadata(configure, tmp_path, monkeypatch):
    monkeypatch.delenv("WANDB_MODE", raising=False)
    run_dir = tmp_path / "run"
    train(
        configure(
            run_dir, "logger=[wandb,csv]", "logger.wandb.offline=true", "trainer.epochs=2", "logger.pictures_every=1"
        )
    )
    (file,) = run_dir.glob("wandb/offline-run-*/*.wandb")
    records = _whole_wandb_run(file)
    history = [_items(record.history.item) for record in records if record.HasField("history")]
    artifacts = [record.artifact for record in records if record.HasField("artifact")]
    summary = [_items(record.summary.update) for record in records if record.HasField("summary")]
    validated = [row for row in history if "val/map_macro" in row]
    assert len(validated) == 2
    assert set(validated[0]) >= VALIDATION
    steps = [row["trainer/global_step"] for row in history if "trainer/global_step" in row]
    assert steps == sorted(steps)  # a step that goes back would be dropped
    assert any(key.startswith("val/curves") for row in history for key in row)
    (artifact,) = (each for each in artifacts if each.type == "model")
    metadata = json.loads(artifact.metadata)
    assert metadata["best"]["val/map_macro"] > 0
    assert metadata["config"]["model"]["backbone"] == "resnet10t"
    assert len(metadata["fingerprint"]) == 64
    assert [entry.path for entry in artifact.manifest.contents] == ["best.ckpt"]
    assert any("best/map_macro" in update for update in summary)


def _whole_wandb_run(file: Path) -> list:
    """All records: W&B's own process writes the last ones a moment after the run is told to end."""

    def whole() -> list | None:
        records = list(_wandb_records(file))
        return records if any(record.HasField("exit") for record in records) else None

    return eventually(whole)


def _wandb_records(file: Path):
    """What W&B would send: protocol buffers in a log of 32 KiB blocks, each part with checksum, length and kind."""
    from wandb.proto import wandb_internal_pb2

    content, position, parts = file.read_bytes(), 7, b""
    while position + 7 <= len(content):
        if 32768 - position % 32768 < 7:
            position += 32768 - position % 32768
            continue
        length, kind = int.from_bytes(content[position + 4 : position + 6], "little"), content[position + 6]
        position += 7 + length
        if position > len(content):  # still being written
            return
        parts += content[position - length : position]
        if kind in {1, 4}:  # the whole of a record, or its last part
            yield wandb_internal_pb2.Record.FromString(parts)
            parts = b""


def _items(items) -> dict:
    return {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in items}


def test_wandb_online_without_account_says_what_to_do(configure, tmp_path, monkeypatch):
    monkeypatch.delenv("WANDB_MODE", raising=False)
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    with pytest.raises(ConfigError, match=r"wandb login.*logger\.wandb\.offline=true"):
        train(configure(tmp_path / "run", "logger=wandb"))


def test_without_any_logger_the_run_folder_is_enough(configure, tmp_path):
    result = train(configure(tmp_path / "run", "logger=none", "trainer.epochs=1"))
    assert json.loads((tmp_path / "run/run.json").read_text())["best"]["val/map_macro"] == pytest.approx(
        result.map_macro
    )
