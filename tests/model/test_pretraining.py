"""A backbone learns from posters alone, goes on after an interruption, and starts an ordinary run."""

from __future__ import annotations

import csv

import pytest
import torch
from safetensors.torch import load_file
from typer.testing import CliRunner

from onesheet.cli import app
from onesheet.errors import CheckpointError, ConfigError, TrainingError
from onesheet.training.checkpoint import load_checkpoint
from onesheet.training.compose import compose_config
from onesheet.training.network import PosterNet
from onesheet.training.run import train
from onesheet.training.selfsupervised import BACKBONE_FILE, barlow_twins, pretrain

SMALL = (
    "logger=csv",
    "augment=views",
    "trainer.ema_decay=0",
    "data.batch_size=64",
    "trainer.progress=false",
)


@pytest.fixture
def views(configure, smallest, tmp_path):
    """`views("trainer.epochs=2", …)`: overrides of a pre-training that ends in seconds, in `tmp_path/run`."""
    config = configure(tmp_path)
    folders = (f"data.raw={config.data.raw}", f"data.processed={config.data.processed}", f"run_dir={tmp_path / 'run'}")
    return lambda *overrides: [*smallest, *SMALL, *folders, *overrides]


def validation_losses(run_dir) -> dict[int, float]:
    """By epoch, over all parts of a run."""
    files = sorted(run_dir.glob("metrics/*/metrics.csv"))
    rows = [row for path in files for row in csv.DictReader(path.read_text().splitlines())]
    return {int(row["epoch"]): float(row["val/loss"]) for row in rows if row["val/loss"]}


def test_views_of_a_poster_come_together_and_the_weights_start_a_run(views, configure, tmp_path):
    weights = pretrain(compose_config(views("trainer.epochs=4")))
    assert weights == tmp_path / "run" / BACKBONE_FILE
    losses = validation_losses(tmp_path / "run")
    assert losses[3] < 0.8 * losses[0]

    started = configure(tmp_path / "next", "model.pretrained=true", f"model.weights={weights}", "trainer.epochs=1")
    backbone = PosterNet(started.model, 4, pretrained=True).backbone.state_dict()
    learned = load_file(weights)
    assert all(torch.equal(tensor, learned[name]) for name, tensor in backbone.items())
    assert load_checkpoint(train(started).best).epoch == 1


def test_it_goes_on_where_it_was(views, tmp_path):
    pretrain(compose_config(views("trainer.epochs=1")))
    with pytest.raises(TrainingError, match="resume=true"):
        pretrain(compose_config(views("trainer.epochs=2")))
    pretrain(compose_config(views("trainer.epochs=2", "resume=true")))
    assert list(validation_losses(tmp_path / "run")) == [0, 1]


@pytest.mark.parametrize(
    ("override", "reason"),
    [
        ("model.width=40", "the model is not the one"),
        ("trainer.epochs=1", "this run has its 1 epochs"),
    ],
)
def test_it_goes_on_with_its_own_run_only(views, override, reason):
    pretrain(compose_config(views("trainer.epochs=1", "data.limit=64")))
    with pytest.raises(TrainingError, match=reason):
        pretrain(compose_config(views("trainer.epochs=2", "data.limit=64", "resume=true", override)))


def test_it_does_not_go_on_from_a_run_with_genres(views, configure, tmp_path):
    train(configure(tmp_path / "run", "trainer.epochs=1", "data.limit=64"))
    with pytest.raises(CheckpointError, match="no checkpoint of `onesheet pretrain`"):
        pretrain(compose_config(views("trainer.epochs=2", "resume=true")))


def test_its_checkpoint_is_not_taken_for_a_model_of_genres(views, tmp_path):
    pretrain(compose_config(views("trainer.epochs=1")))
    with pytest.raises(CheckpointError):
        load_checkpoint(tmp_path / "run/last.ckpt")


def test_the_same_seed_gives_the_same_weights(views, tmp_path):
    one, other = (
        load_file(pretrain(compose_config(views("trainer.epochs=1", f"run_dir={tmp_path / name}"))))
        for name in ("one", "other")
    )
    assert all(torch.equal(tensor, other[name]) for name, tensor in one.items())


def test_several_processes_are_refused(views):
    with pytest.raises(ConfigError, match="one process"):
        pretrain(compose_config(views("trainer.devices=2")))


def test_the_command_names_the_weights_and_what_comes_next(views, tmp_path):
    result = CliRunner().invoke(app, ["pretrain", *views("trainer.epochs=1", "data.limit=64")])
    assert result.exit_code == 0, result.output
    assert str(tmp_path / "run" / BACKBONE_FILE) in result.output.replace("\n", "")
    assert "model.weights=" in result.output.replace("\n", "")


def test_the_loss_is_lowest_for_equal_views_whose_outputs_say_different_things():
    torch.manual_seed(0)
    different = torch.linalg.qr(torch.randn(64, 64))[0] * 8
    alike = different[:, :1].repeat(1, 64)
    noise = torch.randn(64, 64)
    assert barlow_twins(different, different) < barlow_twins(alike, alike)
    assert barlow_twins(different, different) < barlow_twins(different, noise)
