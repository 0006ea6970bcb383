"""Training learns, keeps its best, goes on where it stopped, and says clearly when it cannot start."""

from __future__ import annotations

import csv
import dataclasses
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from onesheet.data.prepare import prepare
from onesheet.errors import CheckpointError, ConfigError, DataError, TrainingError
from onesheet.training.checkpoint import load_checkpoint
from onesheet.training.config import compose_config
from onesheet.training.network import PosterNet
from onesheet.training.pretrained import require_pretrained
from onesheet.training.run import train


def test_a_model_learns_what_there_is_to_learn(checkpoint):
    with (checkpoint.parent / "metrics/version_0/metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    scores = [float(row["val/map_macro"]) for row in rows if row["val/map_macro"]]
    assert len(scores) == 8
    assert max(scores) > 0.9
    losses = [float(row["train/loss_epoch"]) for row in rows if row["train/loss_epoch"]]
    assert losses[-1] < 0.6 * losses[0]
    assert {"val/loss", "val/f1_macro", "val/f1_micro", "val/ece"} <= set(rows[0])


def test_the_run_folder_says_how_it_was_made(checkpoint):
    names = {path.name for path in checkpoint.parent.iterdir()}
    assert names == {"best.ckpt", "last.ckpt", "config.yaml", "metrics"}
    assert "backbone: resnet10t" in (checkpoint.parent / "config.yaml").read_text()


def test_a_checkpoint_describes_itself(checkpoint):
    loaded = load_checkpoint(checkpoint)
    assert loaded.provenance["genres"] == ["Comedy", "Drama", "Horror", "Romance"]
    assert sum(loaded.provenance["genre_counts"].values()) > 192
    assert len(loaded.provenance["fingerprint"]) == 64
    assert load_checkpoint(checkpoint.with_name("last.ckpt")).epoch == 8
    assert not loaded.network.training


def test_resume_goes_on_after_the_last_epoch(configure, tmp_path):
    run_dir = tmp_path / "run"
    train(configure(run_dir, "trainer.epochs=1"))
    result = train(configure(run_dir, "trainer.epochs=3", "resume=true"))
    assert load_checkpoint(result.last).epoch == 3
    with (run_dir / "metrics/version_1/metrics.csv").open() as file:
        epochs = {int(row["epoch"]) for row in csv.DictReader(file)}
    assert epochs == {1, 2}
    assert (run_dir / "metrics/version_0/metrics.csv").is_file()


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_a_run_that_was_cut_off_can_be_resumed(configure, tmp_path, how):
    """By kill -9 or Ctrl-C in the middle of training, once a checkpoint is there."""
    run_dir, config = tmp_path / "run", configure(tmp_path / "run")
    arguments = [f"data.raw={config.data.raw}", f"data.processed={config.data.processed}", f"run_dir={run_dir}"]
    command = [sys.executable, "-c", "from onesheet.cli import main; main()", "train", "experiment=smoke"]
    process = subprocess.Popen(
        [*command, *arguments, "trainer.epochs=500"], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    deadline = time.monotonic() + 120
    while not (run_dir / "last.ckpt").exists() and time.monotonic() < deadline and process.poll() is None:
        time.sleep(0.1)
    process.send_signal(how)
    _, errors = process.communicate(timeout=60)
    if how is signal.SIGINT:
        assert errors.splitlines()[-1] == f"onesheet: interrupted; go on with: resume=true run_dir={run_dir}"
        assert "Traceback" not in errors
    done = torch.load(run_dir / "last.ckpt", weights_only=True)["epoch"] + 1
    result = train(dataclasses.replace(configure(run_dir, f"trainer.epochs={done + 1}"), resume=True))
    assert load_checkpoint(result.last).epoch == done + 1


def test_a_used_run_folder_is_not_overwritten(configure, checkpoint):
    before = checkpoint.read_bytes()
    with pytest.raises(TrainingError, match="resume=true"):
        train(configure(checkpoint.parent))
    assert checkpoint.read_bytes() == before


@pytest.mark.parametrize(
    ("override", "reason"),
    [
        ("model.height=64", "the model is not the one"),
        ("trainer.epochs=8", "has its 8 epochs"),
        ("data.processed=other", "the manifest has changed"),
    ],
)
def test_a_run_goes_on_only_as_it_began(
    configure, checkpoint, made_up_posters, tmp_path, monkeypatch, override, reason
):
    monkeypatch.chdir(tmp_path)
    prepare(made_up_posters, tmp_path / "other", seed=7)
    shutil.copytree(checkpoint.parent, tmp_path / "run")
    with pytest.raises(TrainingError, match=reason):
        train(configure(tmp_path / "run", "resume=true", "trainer.epochs=9", override))
    assert (tmp_path / "run/last.ckpt").read_bytes() == (checkpoint.parent / "last.ckpt").read_bytes()


def test_a_damaged_checkpoint_is_not_resumed(configure, tmp_path):
    (tmp_path / "last.ckpt").write_bytes(b"damaged")
    with pytest.raises(CheckpointError, match=r"last\.ckpt is no checkpoint"):
        train(configure(tmp_path, "resume=true"))


def test_nothing_to_resume(configure, tmp_path):
    with pytest.raises(TrainingError, match="nothing to resume"):
        train(configure(tmp_path / "run", "resume=true"))


def test_without_manifest_the_message_names_the_command(configure, tmp_path):
    with pytest.raises(DataError, match="onesheet data prepare"):
        train(configure(tmp_path / "run", f"data.processed={tmp_path}"))


@pytest.fixture
def hub_out_of_reach(tmp_path, monkeypatch) -> Path:
    """The hub refuses connections; returns the folder of its empty cache."""
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    return tmp_path / "hub"


def test_pretrained_offline_names_the_way_out(configure, tmp_path, hub_out_of_reach):
    with pytest.raises(TrainingError, match=r"model\.pretrained=false"):
        train(configure(tmp_path / "run", "model.pretrained=true"))
    assert not (tmp_path / "run").exists()


def test_pretrained_offline_is_told_before_torch_is_loaded(made_up_posters, processed, tmp_path):
    """A whole process: it takes the second that the probe takes, not the seconds that torch takes, nor retries."""
    script = "import sys; from onesheet.cli import main\ntry: main()\nfinally: print('torch' in sys.modules)"
    arguments = [f"data.raw={made_up_posters}", f"data.processed={processed}", f"run_dir={tmp_path / 'run'}"]
    done = subprocess.run(
        [sys.executable, "-c", script, "train", *arguments],
        env={**os.environ, "HF_ENDPOINT": "http://127.0.0.1:9", "HF_HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.returncode, done.stdout) == (1, "False\n")
    assert "model.pretrained=false" in done.stderr
    assert done.stderr.count("\n") == 1


def test_pretrained_weights_in_the_cache_need_no_network(configure, tmp_path, hub_out_of_reach):
    config = configure(tmp_path, "model.pretrained=true")
    scratch = PosterNet(config.model, 4, pretrained=False)
    _fill_cache(hub_out_of_reach / "models--timm--resnet10t.c3_in1k", scratch.backbone)
    require_pretrained(config.model)
    loaded = PosterNet(config.model, 4, pretrained=True)
    assert torch.equal(loaded.backbone.conv1[0].weight, scratch.backbone.conv1[0].weight)


def _fill_cache(repository: Path, backbone: torch.nn.Module) -> None:
    """As the hub's client leaves a download: with the head that timm drops."""
    snapshot = repository / "snapshots" / ("0" * 40)
    snapshot.mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs/main").write_text(snapshot.name)
    head = {"fc.weight": torch.zeros(1000, backbone.num_features), "fc.bias": torch.zeros(1000)}
    save_file({**backbone.state_dict(), **head}, snapshot / "model.safetensors")


def test_a_hub_that_answers_is_left_to_the_client(configure, tmp_path, hub_out_of_reach, monkeypatch):
    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self):
            self.send_error(404)

        def log_message(self, *_):
            """Say nothing."""

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.handle_request, daemon=True).start()
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", f"http://127.0.0.1:{server.server_port}")
        require_pretrained(configure(tmp_path, "model.pretrained=true").model)


def test_pretrained_weights_from_a_local_file(configure, tmp_path):
    scratch = PosterNet(configure(tmp_path).model, 4, pretrained=False)
    torch.save(scratch.backbone.state_dict(), tmp_path / "weights.pth")
    config = configure(tmp_path, "model.pretrained=true", f"model.weights={tmp_path}/weights.pth")
    require_pretrained(config.model)
    loaded = PosterNet(config.model, 4, pretrained=True)
    for name, expected in scratch.backbone.state_dict().items():
        assert torch.equal(loaded.backbone.state_dict()[name], expected), name


@pytest.mark.parametrize("name", ["weights.pth", "weights.safetensors"])
def test_a_file_that_holds_no_weights(configure, tmp_path, name):
    (tmp_path / name).write_text("no weights at all")
    with pytest.raises(ConfigError, match="does not hold weights of resnet10t"):
        train(configure(tmp_path / "run", "model.pretrained=true", f"model.weights={tmp_path / name}"))
    assert not (tmp_path / "run").exists()


def test_a_backbone_without_pretrained_weights(configure, tmp_path, hub_out_of_reach, monkeypatch):
    monkeypatch.setattr("onesheet.training.pretrained._hub_is_reachable", lambda: True)
    with pytest.raises(ConfigError, match="no pretrained weights for resnet50t"):
        train(configure(tmp_path / "run", "model.pretrained=true", "model.backbone=resnet50t"))


def test_missing_weights_file(configure, tmp_path):
    config = configure(tmp_path, "model.pretrained=true", "model.weights=nowhere.pth")
    with pytest.raises(TrainingError, match=r"nowhere\.pth"):
        require_pretrained(config.model)


@pytest.mark.parametrize(
    ("override", "reason"),
    [
        ("model.backbone=resnet18x", "timm has no model `resnet18x`"),
        ("model.backbone=resnet10", "such as resnet10t"),
        ("+model.options.no_such_option=1", "does not take model.options"),
        ("trainer.precision=12-bit", "trainer: Precision '12-bit' is invalid"),
        ("trainer.accelerator=abacus", "trainer: .*abacus"),
    ],
)
def test_a_network_that_timm_does_not_know(configure, tmp_path, override, reason):
    with pytest.raises(ConfigError, match=reason):
        train(configure(tmp_path / "run", override))


@pytest.mark.parametrize(
    ("override", "reason"),
    [
        ("optimizer.lrr=1", "did you mean `optimizer.lr`"),
        ("+nonsense=1", "unknown key `nonsense`"),
        ("optimizer.lr=high", "optimizer.lr: Value 'high'"),
        ("trainer.epochs=1.5", "trainer.epochs: Value '1.5'"),
        ("trainer.epochs=0", "trainer.epochs: must be from 1 to inf, not 0"),
        ("model.dropout=nan", "model.dropout: must be from 0 to 1"),
        ("seed", "write KEY=VALUE"),
        ("experiment=smoek", "there are: smoke, starter"),
        ("model={", "no viable alternative"),
    ],
)
def test_a_wrong_override_is_explained_in_one_line(override, reason):
    with pytest.raises(ConfigError, match=reason) as error:
        compose_config([override])
    assert "\n" not in str(error.value)


def test_users_start_from_pretrained_weights_by_default():
    assert compose_config([]).model.pretrained


def test_a_folder_without_configuration(tmp_path):
    with pytest.raises(ConfigError, match=r"no config\.yaml"):
        compose_config([], tmp_path)


class _Malicious:
    def __reduce__(self):
        return (Path("executed").touch, ())


@pytest.mark.parametrize("content", ["nothing", "text", "foreign", "pickle"])
def test_what_is_no_checkpoint_is_refused_and_never_executed(tmp_path, monkeypatch, content):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "x.ckpt"
    if content == "text":
        path.write_text("no checkpoint")
    elif content == "foreign":
        torch.save({"state_dict": {}}, path)
    elif content == "pickle":
        torch.save({"provenance": _Malicious()}, path)
    with pytest.raises(CheckpointError, match="no checkpoint"):
        load_checkpoint(path)
    assert not (tmp_path / "executed").exists()
