"""Training learns, keeps its best, goes on where it stopped, and says clearly when it cannot start."""

from __future__ import annotations

import contextlib
import csv
import dataclasses
import functools
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
import torch
from lightning.pytorch.callbacks import Callback
from safetensors.torch import save_file

from onesheet.data.prepare import prepare
from onesheet.errors import CheckpointError, ConfigError, DataError, TrainingError
from onesheet.training.checkpoint import load_checkpoint
from onesheet.training.compose import compose_config, compose_yaml, to_yaml
from onesheet.training.network import PosterNet
from onesheet.training.pretrained import require_pretrained
from onesheet.training.run import repeat_differences, train
from tests.processes import MAX_WAIT, eventually, run_command, serve_in_thread, started_process

# Larger pictures, for runs that are ended from outside: between two checkpoints there is time for that.
LONG_EPOCHS = ("model.height=96", "model.width=64")


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
    assert names == {"best.ckpt", "last.ckpt", "config.yaml", "run.json", "curves.csv", "metrics"}
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


@pytest.mark.parametrize("devices", [1, 2])
def test_a_run_that_was_interrupted_can_be_resumed(configure, tmp_path, devices):
    """By Ctrl-C in the middle of training, once a checkpoint is there; `kill -9` is below."""
    run_dir = tmp_path / "run"
    together = (*LONG_EPOCHS, f"trainer.devices={devices}", "trainer.accelerator=cpu")
    with _training(configure(run_dir, *together), "trainer.epochs=500") as process:
        _wait_until((run_dir / "last.ckpt").exists, process)
        time.sleep(0.2)  # while the file is still being closed, Python may lose a Ctrl-C in its destructor
        os.killpg(process.pid, signal.SIGINT)
        _, errors = process.communicate(timeout=MAX_WAIT)
    assert errors.splitlines()[-1] == f"onesheet: interrupted; go on with: resume=true run_dir={run_dir}"
    assert "Traceback" not in errors
    done = torch.load(run_dir / "last.ckpt", weights_only=True)["epoch"] + 1
    # By one process, also after two: two of them go on below.
    result = train(dataclasses.replace(configure(run_dir, f"trainer.epochs={done + 1}", *LONG_EPOCHS), resume=True))
    assert load_checkpoint(result.last).epoch == done + 1


def test_a_killed_run_ends_as_if_it_had_never_been_killed(configure, tmp_path):
    """Weights, averaged weights and every figure of every epoch, after `kill -9` in the middle of an epoch."""
    overrides = (
        "trainer.epochs=4",
        "augment.cutmix=1",
        "augment.rotate=5",
        "model.dropout=0.3",
        "trainer.accumulate=2",
        *LONG_EPOCHS,
    )
    unbroken = train(configure(tmp_path / "unbroken", *overrides))
    config = configure(tmp_path / "killed", *overrides)
    _start_and_kill(config, overrides, when=lambda: _epochs_done(tmp_path / "killed") >= 2)
    killed = train(dataclasses.replace(config, resume=True))
    for kind in ("last", "best"):
        one, other = (torch.load(getattr(result, kind), weights_only=True) for result in (unbroken, killed))
        assert one["metrics"] | {"train/images_per_second": 0} == other["metrics"] | {"train/images_per_second": 0}
        for part in ("state_dict", "current_model_state"):
            for name, tensor in one[part].items():
                assert torch.equal(tensor, other[part][name]), f"{kind} {part} {name}"
    assert json.loads((tmp_path / "killed/run.json").read_text())["status"] == "finished"
    curves = [(tmp_path / run / "curves.csv").read_text() for run in ("unbroken", "killed")]
    assert curves[0] == curves[1]
    assert [line.partition(",")[0] for line in curves[0].splitlines()] == ["epoch", "1", "2", "3", "4"]


def _start_and_kill(config, overrides, when) -> None:
    """`onesheet train` in a process of its own, killed as soon as `when()` says so."""
    with _training(config, *overrides) as process:
        _wait_until(when, process)
        process.kill()
        assert process.wait() == -signal.SIGKILL


@contextlib.contextmanager
def _training(config, *overrides) -> Iterator[subprocess.Popen[str]]:
    """`onesheet train` on one core, in a process group of its own as in a terminal; gone at the end."""
    whole = Path(f"{config.run_dir}.yaml")
    whole.write_text(to_yaml(config))
    # Whoever started the tests may have told them to ignore Ctrl-C, and that is inherited.
    code = """
import signal
signal.signal(signal.SIGINT, signal.default_int_handler)
from onesheet.cli import main
main()
"""
    command = [sys.executable, "-c", code, "train", "--config", str(whole), f"run_dir={config.run_dir}", *overrides]
    with started_process(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as process:
        yield process


def _wait_until(done: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    eventually(lambda: done() or process.poll() is not None)


def _epochs_done(run_dir: Path) -> int:
    try:
        return int(torch.load(run_dir / "last.ckpt", weights_only=True)["epoch"]) + 1
    except (OSError, RuntimeError, EOFError):
        return 0


def test_a_run_can_be_repeated_from_its_folder(configure, checkpoint, tmp_path):
    again = f"run_dir={tmp_path / 'again'}"
    config = compose_config([again, "trainer.epochs=1"], from_run=checkpoint.parent)
    first = compose_config([], from_run=checkpoint.parent)
    assert first.run_dir != str(checkpoint.parent)
    assert dataclasses.replace(first, run_dir="again") == dataclasses.replace(
        configure(Path("again")), trainer=first.trainer, augment=first.augment
    )
    assert repeat_differences(checkpoint.parent, config) in ([], ["the code: with uncommitted changes"])
    assert load_checkpoint(train(config).last).epoch == 1


def test_a_repeat_says_what_is_not_as_it_was(configure, checkpoint, made_up_posters, tmp_path):
    prepare(made_up_posters, tmp_path / "other", seed=7)
    shutil.copytree(checkpoint.parent, tmp_path / "run")
    record = json.loads((tmp_path / "run/run.json").read_text())
    record["packages"]["torch"] = "1.0"
    record["git_commit"] = "0" * 40
    (tmp_path / "run/run.json").write_text(json.dumps(record))
    config = configure(tmp_path / "again", f"data.processed={tmp_path / 'other'}")
    differences = "; ".join(repeat_differences(tmp_path / "run", config))
    assert "the data: fingerprint" in differences
    assert "was 000000000" in differences
    assert f"torch: {torch.__version__.partition('+')[0]}" in differences


def test_a_group_chosen_for_a_repeat_replaces_that_of_the_run(configure, checkpoint):
    config = compose_config(["logger=tensorboard", "loss=focal"], from_run=checkpoint.parent)
    assert (config.logger.csv, config.logger.tensorboard) == (False, True)
    assert config.loss.gamma_positive == 2
    assert config.augment.min_scale == 0.9


def test_a_configuration_that_was_shown_is_taken_in_place_of_the_defaults(tmp_path):
    shown = compose_yaml(["experiment=starter", "optimizer.lr=0.5"])
    (tmp_path / "params.yaml").write_text(shown)
    config = compose_config(["trainer.epochs=3"], from_file=tmp_path / "params.yaml")
    expected = compose_config(["experiment=starter", "optimizer.lr=0.5", "trainer.epochs=3"])
    assert dataclasses.replace(config, run_dir="") == dataclasses.replace(expected, run_dir="")
    assert config.run_dir.startswith("outputs/2"), "a folder of its own, named after the time"
    assert compose_yaml([], from_file=tmp_path / "params.yaml") == shown


@pytest.mark.parametrize("content", [None, "a: {", "trainer: {epohcs: 3}"])
def test_what_is_no_run_cannot_be_repeated(tmp_path, content):
    if content is not None:
        (tmp_path / "config.yaml").write_text(content)
    with pytest.raises(ConfigError, match="no run" if content is None else "no configuration of onesheet"):
        compose_config([], from_run=tmp_path)


def test_two_processes_reach_what_one_reaches(configure, tmp_path):
    """Data-parallel over gloo, after an epoch of one process; 192 training and an odd number of validation posters are
    shared out without doubles."""
    learn = ("augment=none", "trainer.accelerator=cpu", "trainer.ema_decay=0.8")
    train(configure(tmp_path / "one", *learn, "trainer.epochs=1"))
    shutil.copytree(tmp_path / "one", tmp_path / "two")
    one, two = (
        train(configure(tmp_path / run, *learn, "trainer.epochs=6", f"trainer.devices={devices}", "resume=true"))
        for run, devices in (("one", 1), ("two", 2))
    )
    losses = [torch.load(run.last, weights_only=True)["metrics"]["val/loss"] for run in (one, two)]
    assert losses[1] == pytest.approx(losses[0], abs=0.08)
    assert two.map_macro == pytest.approx(one.map_macro, abs=0.08)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["one", "two"]
    with (tmp_path / "two/metrics/version_1/metrics.csv").open() as file:
        assert sum(bool(row["val/loss"]) for row in csv.DictReader(file)) == 5


def test_an_error_in_one_of_two_processes_is_told_in_one_line(configure, tmp_path):
    config = configure(tmp_path / "run", "trainer.devices=2", "trainer.accelerator=cpu", "data.batch_size=33")
    with pytest.raises(TrainingError, match="33 cannot be shared by 2 processes") as failed:
        train(config)
    assert "extraInfo" not in failed.value.message


def test_more_gpus_than_there_are_is_told_before_any_process_starts(configure, tmp_path):
    there = torch.cuda.device_count()
    config = configure(tmp_path / "run", f"trainer.devices={there + 2}", "trainer.accelerator=gpu")
    with pytest.raises(ConfigError, match=f"trainer.devices={there + 2}, but GPUs that can be used here: {there}"):
        train(config)


def test_muon_learns_and_resumes_as_adamw_does(configure, tmp_path):
    muon = ("optimizer=muon", "augment.mixup=0", "augment.erase=0")
    unbroken = train(configure(tmp_path / "unbroken", *muon, "trainer.epochs=3"))
    assert unbroken.map_macro > 0.8
    broken = configure(tmp_path / "broken", *muon, "trainer.epochs=3")

    class Stop(Callback):
        def on_train_epoch_start(self, trainer, pl_module):
            if trainer.current_epoch == 2:
                raise ConnectionError

    with pytest.raises(ConnectionError):
        train(broken, callbacks=[Stop()])
    resumed = train(dataclasses.replace(broken, resume=True))
    one, other = (torch.load(run.last, weights_only=True)["state_dict"] for run in (unbroken, resumed))
    assert all(torch.equal(tensor, other[name]) for name, tensor in one.items())


def test_a_run_without_progress_stops_early(configure, tmp_path):
    result = train(configure(tmp_path / "run", "trainer.epochs=30", "trainer.patience=2", "optimizer.lr=0"))
    assert load_checkpoint(result.last).epoch < 10


def test_pictures_grow_during_training(configure, tmp_path):
    class Sizes(Callback):
        def __init__(self):
            self.seen = {}

        def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
            self.seen[trainer.current_epoch] = tuple(pl_module.prepare(*batch)[0].shape[2:])

    sizes = Sizes()
    config = configure(tmp_path / "run", "trainer.epochs=4", "trainer.start_scale=0.5")
    train(config, callbacks=[sizes])
    assert sizes.seen == {0: (24, 16), 1: (32, 24), 2: (40, 24), 3: (48, 32)}


def test_accumulated_batches_make_one_step(configure, tmp_path):
    steps = []
    for accumulate in (1, 3):
        result = train(configure(tmp_path / str(accumulate), f"trainer.accumulate={accumulate}", "trainer.epochs=1"))
        steps.append(torch.load(result.last, weights_only=True)["global_step"])
    assert steps == [5, 2]


def test_the_backbone_can_learn_more_slowly_than_the_head(configure, tmp_path):
    config = configure(tmp_path / "run", "optimizer.backbone_lr_factor=0", "trainer.epochs=1", "trainer.ema_decay=0")
    before = PosterNet(config.model, 4, pretrained=False)
    torch.save(before.backbone.state_dict(), tmp_path / "weights.pth")
    config = dataclasses.replace(
        config, model=dataclasses.replace(config.model, pretrained=True, weights=str(tmp_path / "weights.pth"))
    )
    after = load_checkpoint(train(config).last).network
    for name, parameter in before.backbone.named_parameters():
        assert torch.equal(parameter, dict(after.backbone.named_parameters())[name]), name
    assert not torch.equal(before.head.weight, after.head.weight)


def test_a_compiled_network_keeps_the_names_of_its_weights(configure, tmp_path, monkeypatch):
    # What is ours is how the network is wrapped; torch's own making of kernels takes a minute.
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend="eager"))
    result = train(configure(tmp_path / "run", "trainer.compile=true", "trainer.epochs=1", "data.limit=32"))
    assert load_checkpoint(result.last).epoch == 1


def test_a_student_learns_from_its_teachers(configure, checkpoint, learned_bundle, tmp_path):
    """With all weight on teachers that know the posters, the truth is not needed."""
    lesson = (
        f"loss.teachers=[{checkpoint},{learned_bundle}]",
        "loss.teacher_weight=1",
        "augment=none",
        "trainer.epochs=8",
    )
    assert train(configure(tmp_path / "student", *lesson)).map_macro > 0.85


def test_a_teacher_of_another_split_is_refused(configure, checkpoint, made_up_posters, tmp_path):
    prepare(made_up_posters, tmp_path / "other", seed=7)
    with pytest.raises(ConfigError, match="trained on another split"):
        train(configure(tmp_path / "run", f"data.processed={tmp_path / 'other'}", f"loss.teachers=[{checkpoint}]"))


def test_posters_can_be_read_again_every_epoch_by_other_processes(configure, checkpoint, tmp_path):
    """Without the cache, and with it, the network sees the same posters."""
    common = ("trainer.epochs=1", "augment=none", "trainer.ema_decay=0")
    kept = train(configure(tmp_path / "kept", *common))
    read = train(configure(tmp_path / "read", *common, "data=streamed", "data.workers=1"))
    one, other = (torch.load(run.last, weights_only=True)["state_dict"] for run in (kept, read))
    assert all(torch.equal(tensor, other[name]) for name, tensor in one.items())


def test_a_loader_process_starts_without_lightning():
    """It imports what its data set is made of, and Lightning would take most of the time of a start."""
    code = "import sys, onesheet.data.dataset, onesheet.data.shard_stream; print('lightning' in sys.modules)"
    assert run_command([sys.executable, "-c", code], check=True).stdout == "False\n"


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
    environment = {**os.environ, "HF_ENDPOINT": "http://127.0.0.1:9", "HF_HOME": str(tmp_path)}
    done = run_command([sys.executable, "-c", script, "train", *arguments], env=environment)
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


@pytest.fixture
def hub_that_answers(hub_out_of_reach, monkeypatch) -> Iterator[list[str]]:
    """A hub that has nothing; yields what it was asked for."""
    asked = []

    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self):
            asked.append(self.path)
            self.send_error(404)

        def log_message(self, *_):
            """Say nothing."""

    with serve_in_thread(HTTPServer(("127.0.0.1", 0), Handler)) as server:
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", f"http://127.0.0.1:{server.server_port}")
        yield asked


def test_a_hub_that_answers_is_left_to_the_client(configure, tmp_path, hub_that_answers):
    require_pretrained(configure(tmp_path, "model.pretrained=true").model)
    assert hub_that_answers, "whether it answers"


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


def test_a_backbone_without_pretrained_weights(configure, tmp_path, hub_that_answers):
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
        ("experiment=smoek", "there are: pretrain, scratch, smoke, starter"),
        ("optimizer.lr={", "Hydra cannot read the override `optimizer.lr={`"),
        ("loss.teachers=[/a (b)/c.ckpt,/ø.ckpt]", r"""'loss\.teachers=\["/a \(b\)/c\.ckpt","/ø\.ckpt"\]'"""),
        ("+model.options.name=søren (1)", r"""quote .*: '\+model\.options\.name="søren \(1\)"'"""),
        ("data.raw=${HOME/x (1)", r"Hydra cannot read the override `data\.raw=\$\{HOME/x \(1\)`"),
        ("model={", "no model `{`"),
        ("loss=focla", "there are: asymmetric, balanced, bce, focal"),
        ("loss.name=asymetric", "did you mean `asymmetric`"),
        ("logger.wandb.project=x", "logger.wandb.project without logger=wandb"),
        ("logger=[csv,wandbb]", "no logger `wandbb`"),
    ],
)
def test_a_wrong_override_is_explained_in_one_line(override, reason):
    with pytest.raises(ConfigError, match=reason) as error:
        compose_config([override])
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "text",
    [
        "/home/søren/plakater",
        "/mnt/My Posters (2020)/raw",
        "runs/epoch=3-step=100.ckpt",
        'it\'s, 1 "name" \\',
        "[a] {b: 1} #2 100% *?~!",
        "$HOME",
        "海报",
        "'open",
        "true",
        "1e3",
        "007",
        " ",
        "",
    ],
)
def test_a_plain_string_is_taken_literally(text):
    keys = ("data.raw", "++model.weights", "name", "run_dir", "logger.mlflow.uri")
    config = compose_config(["logger=mlflow", *(f"{key}={text}" for key in keys)])
    assert {config.data.raw, config.model.weights, config.name, config.run_dir, config.logger.mlflow.uri} == {text}


def test_what_is_quoted_or_taken_from_elsewhere_for_hydra_is_so_still(monkeypatch):
    monkeypatch.setenv("POSTERS", "/mnt/posters")
    config = compose_config(
        ['data.raw="/home/søren (1)"', "run_dir='a b'", "model.weights=null", "data.processed=${oc.env:POSTERS}/made"]
    )
    assert (config.data.raw, config.run_dir, config.model.weights) == ("/home/søren (1)", "a b", None)
    assert config.data.processed == "/mnt/posters/made"


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
