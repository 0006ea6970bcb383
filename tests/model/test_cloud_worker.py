"""A machine of a Vertex AI job, against the real emulator of Cloud Storage: killed, replaced, two together, a trial."""

from __future__ import annotations

import csv
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import pytest
import torch
from typer.testing import CliRunner

from onesheet.cli import cloud_work
from onesheet.cloud import run_folder
from onesheet.cloud.run_folder import RunUploads
from onesheet.cloud.transfer import download, exists, upload
from onesheet.cloud.vertex_environment import Trial, as_overrides, read_machine, read_trial
from onesheet.cloud.worker import Work, work
from onesheet.data.manifest import MANIFEST_FILE, read_manifest
from onesheet.errors import ConfigError, TransferError
from onesheet.predictor import load_predictor
from onesheet.training.config import TrainConfig
from onesheet.training.run import train
from tests.processes import MAX_WAIT, eventually, serve_in_thread, started_process

DATA, RUN = "gs://posters/data/v1", "gs://posters/runs/one"
EPOCH = re.compile(r"epoch (\d+):")

# The command, with what `exported` does as well.
WORK = """
import sys
from types import SimpleNamespace

def export(checkpoint, out, **_):
    out.mkdir()
    (out / "bundle.json").write_text("{}")

sys.modules["onesheet.export.export"] = SimpleNamespace(export=export)

from onesheet.cli.cloud_work import app
app()
"""


@pytest.fixture(scope="session")
def quick(smallest: tuple[str, ...]) -> tuple[str, ...]:
    """Overrides that make an epoch take no time."""
    return (*smallest, "data.limit=64", "logger.pictures_every=0", "trainer.accelerator=cpu")


@pytest.fixture
def data(emulator: object, made_up_posters: Path) -> str:
    """Address of the made-up posters."""
    upload(made_up_posters, DATA)
    return DATA


@pytest.fixture(scope="session")
def begun(quick: tuple[str, ...], configure: Callable[..., TrainConfig], made_once: Callable[..., Path]) -> Path:
    """Folder of a run that has had one epoch."""
    return made_once("begun", lambda run_dir: train(configure(run_dir, *quick, "trainer.epochs=1")))


@pytest.fixture
def exported(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The checkpoints that are made a bundle of, without the seconds that it takes."""
    checkpoints: list[Path] = []

    def export(checkpoint: Path, out: Path, **_: object) -> None:
        checkpoints.append(checkpoint)
        out.mkdir()
        (out / "bundle.json").write_text("{}")

    monkeypatch.setattr("onesheet.export.export.export", export)
    return checkpoints


@contextmanager
def working(data: str, folder: Path, *arguments: str, environment: dict[str, str] | None = None) -> Iterator[Popen]:
    """`onesheet cloud work` in a process group of its own, on one core; gone at the end."""
    command = ["--data", data, "--run", RUN, "--folder", str(folder), *arguments]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "env": {**os.environ, **(environment or {})}}
    with started_process([sys.executable, "-c", WORK, *command], **pipes) as process:
        yield process


Popen = subprocess.Popen[str]


def wait_until(done: Callable[[], bool], process: Popen) -> None:
    def ended_or_done() -> bool:
        return done() or process.poll() is not None

    eventually(ended_or_done)
    assert process.poll() is None, process.communicate()[1]


def fetched(address: str, folder: Path) -> Path:
    download(address, folder)
    return folder


def epochs(run_dir: Path) -> int:
    try:
        return int(torch.load(run_dir / "last.ckpt", weights_only=True)["epoch"]) + 1
    except (OSError, RuntimeError, EOFError):
        return 0


def curves(run_dir: Path) -> dict[int, str]:
    with (run_dir / "curves.csv").open() as file:
        return {int(row["epoch"]): row["val/map_macro"] for row in csv.DictReader(file)}


# ------------------------------------------------------------------------------------------------ one machine


def test_a_trial_from_posters_to_a_bundle(data, quick, made_up_posters, tmp_path, monkeypatch):
    """An upload in between fails, and a film that the data set keeps for testing is tested."""
    film = sorted(path.stem for path in (made_up_posters / "Images").iterdir())[7]
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept/splits.csv").write_text(f"Id,Split\n{film},test\n")
    upload(tmp_path / "kept", data)
    failures = iter([TransferError("the network is away")])

    def failing_once(source: Path, address: str) -> None:
        for failure in failures:
            raise failure
        upload(source, address)

    monkeypatch.setattr(run_folder, "upload", failing_once)
    metrics = tmp_path / "hypertune/output.metrics"
    environment = {"CLOUD_ML_TRIAL_ID": "3", "CLOUD_ML_HP_METRIC_FILE": str(metrics)}
    overrides = (*quick, "trainer.epochs=2", "--optimizer.lr=0.003", "--data.batch_size=32.0")
    said: list[str] = []
    work(Work(data, RUN, overrides, tmp_path / "job", sync_seconds=0.5), environment, said.append)

    run = fetched(f"{RUN}/trials/3", tmp_path / "run")
    assert epochs(run) == 2
    assert list(curves(run)) == [1, 2]
    record = json.loads((run / "run.json").read_text())
    assert record["status"] == "finished"
    assert record["loggers"] == {}  # a database on a machine that is gone tomorrow is of no use
    assert "lr: 0.003" in (run / "config.yaml").read_text()
    predictor = load_predictor(run / "bundle")
    assert predictor.predict(made_up_posters / f"Images/{film}.jpg").topk[0].label
    assert (run / "bundle.tar.gz").is_file()
    assert not list(run.rglob("*.partial"))
    manifest = read_manifest(tmp_path / "job/data/processed" / MANIFEST_FILE, made_up_posters)
    assert {entry.split for entry in manifest.entries if entry.id == film} == {"test"}
    assert sorted(path.name for path in (tmp_path / "job/data/raw").iterdir()) == ["Images", "train.csv"]
    assert [line for line in said if "the network is away" in line] != []
    assert [line.partition(":")[0] for line in said if line.startswith("epoch")] == ["epoch 1", "epoch 2"]
    assert said[-1] == f"done: {RUN}/trials/3/bundle"

    reported = [json.loads(line) for line in metrics.read_text().splitlines()]
    assert [(line["trial"], line["global_step"]) for line in reported] == [("3", "1"), ("3", "2")]
    assert {int(line["global_step"]): float(line["val_map_macro"]) for line in reported} == {
        epoch: float(value) for epoch, value in curves(run).items()
    }
    assert all(abs(line["timestamp"] - time.time()) < 300 for line in reported)


@pytest.mark.parametrize(("given", "wanted"), [(1, 1), (9, 9)])
def test_a_job_that_is_started_again_after_its_end_trains_no_more(
    data, quick, begun, exported, tmp_path, given, wanted
):
    """It was taken away while it exported, say. A run that stopped early, as here the second, is at its end as well."""
    shutil.copytree(begun, tmp_path / "begun")
    configuration = tmp_path / "begun/config.yaml"
    configuration.write_text(configuration.read_text().replace("epochs: 1\n", f"epochs: {given}\n"))
    upload(tmp_path / "begun", RUN)
    said: list[str] = []
    work(Work(data, RUN, (*quick, f"trainer.epochs={wanted}"), tmp_path / "job"), {}, said.append)
    assert f"{RUN}: done" in said
    assert not any(line.startswith("epoch") for line in said)
    run = fetched(RUN, tmp_path / "run")
    assert (run / "last.ckpt").read_bytes() == (begun / "last.ckpt").read_bytes()
    assert exported == [tmp_path / "job/run/best.ckpt"]
    assert (run / "bundle/bundle.json").is_file()


def test_another_machine_goes_on_where_one_was_killed_and_brings_its_last_checkpoint_away(data, quick, tmp_path):
    """The first ends by SIGKILL, which brings nothing away; the second by SIGTERM, before it uploads in between."""
    between = tmp_path / "between"
    with working(data, tmp_path / "first", *quick, "trainer.epochs=500", "--sync", "2") as process:
        # The emulator shows an object whose upload has only begun, as the real service does not.
        wait_until(lambda: exists(f"{RUN}/last.ckpt") and epochs(fetched(RUN, between)) > 0, process)
        os.killpg(process.pid, signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
    done = epochs(fetched(RUN, between))
    before = curves(between)

    local = tmp_path / "second/run"
    with working(data, tmp_path / "second", *quick, "trainer.epochs=500", "--sync", "3600") as process:
        wait_until(lambda: epochs(local) > done, process)
        assert epochs(fetched(RUN, between)) == done
        process.terminate()
        said, errors = process.communicate(timeout=MAX_WAIT)
    assert process.returncode == 143
    assert "Traceback" not in errors
    assert f"{RUN}: resume" in said.splitlines()
    # The curves may be an epoch ahead of the checkpoint: then the epoch is trained again, and was told before.
    assert [line for line in said.splitlines() if (told := EPOCH.match(line)) and int(told[1]) <= done] == []
    run = fetched(RUN, tmp_path / "run")
    assert (run / "last.ckpt").read_bytes() == (local / "last.ckpt").read_bytes()
    assert json.loads((run / "run.json").read_text())["status"] == "stopped"
    assert not exists(f"{RUN}/bundle/bundle.json")
    after = curves(run)
    assert list(after) == list(range(1, len(after) + 1))
    assert len(after) >= epochs(run) > done
    assert [after[epoch] for epoch in range(1, done + 1)] == [before[epoch] for epoch in range(1, done + 1)]


# ---------------------------------------------------------------------------------------------- two machines


def test_two_machines_go_on_together_and_only_the_chief_writes(data, quick, begun, free_port, tmp_path):
    """Over loopback and gloo, a folder each; the other machine sees the bucket through a door that lets it read."""
    upload(begun, RUN)
    pools = {"workerpool0": [f"127.0.0.1:{free_port()}"], "workerpool1": ["127.0.0.1:2222"]}
    with ExitStack() as stack, read_only(os.environ["STORAGE_EMULATOR_HOST"]) as door:
        machines = []
        for name, host in (("workerpool1", door), ("workerpool0", os.environ["STORAGE_EMULATOR_HOST"])):
            spec = {"cluster": pools, "environment": "cloud", "task": {"type": name, "index": 0, "trial": ""}}
            environment = {"CLUSTER_SPEC": json.dumps(spec), "STORAGE_EMULATOR_HOST": host}
            overrides = (*quick, "trainer.epochs=2", "--sync", "1")
            machines.append(stack.enter_context(working(data, tmp_path / name, *overrides, environment=environment)))
        outcomes = [machine.communicate(timeout=MAX_WAIT) for machine in machines]
    assert [machine.returncode for machine in machines] == [0, 0], outcomes
    assert "epoch 2" in outcomes[1][0]
    assert "epoch" not in outcomes[0][0]
    run = fetched(RUN, tmp_path / "run")
    assert epochs(run) == 2
    assert list(curves(run)) == [1, 2]
    assert (run / "bundle/bundle.json").is_file()
    names = {path.name for path in (tmp_path / "workerpool1/run").iterdir()}
    assert {"last.ckpt", "best.ckpt"} <= names
    assert "bundle" not in names


@contextmanager
def read_only(upstream: str) -> Iterator[str]:
    """The address of a server that passes on what reads, and refuses everything else."""

    class Door(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            try:
                with urlopen(Request(upstream + self.path, headers=dict(self.headers))) as answer:
                    status, headers, body = answer.status, answer.headers, answer.read()
            except HTTPError as error:
                status, headers, body = error.code, error.headers, error.read()
            self.send_response(status)
            for name, value in headers.items():
                if name.lower() not in ("transfer-encoding", "connection", "content-length", "server", "date"):
                    self.send_header(name, value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def refuse(self) -> None:
            self.send_error(403)

        do_POST = do_PUT = do_PATCH = do_DELETE = refuse  # noqa: N815  the server's names

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    with serve_in_thread(ThreadingHTTPServer(("127.0.0.1", 0), Door)) as server:
        yield f"http://127.0.0.1:{server.server_port}"


# ------------------------------------------------------------------------------------------------- a trial


def test_an_epoch_is_reported_once(tmp_path):
    trial = Trial("7", tmp_path / "deep/output.metrics", "quality")
    trial.report({})
    assert not trial.metric_file.exists()
    trial.report({1: 0.25})
    trial.report({1: 0.25, 2: 0.5})
    lines = [json.loads(line) for line in trial.metric_file.read_text().splitlines()]
    assert [(line["global_step"], line["quality"]) for line in lines] == [("1", "0.25"), ("2", "0.5")]


# ------------------------------------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    ("override", "reason"),
    [
        ("trainer.epohcs=3", "did you mean `trainer.epochs`"),
        ("--optimizer.lrr=3", "did you mean `optimizer.lr`"),
        ("--lr", "write KEY=VALUE"),
    ],
)
def test_a_wrong_override_is_told_in_one_line_before_anything_is_done(tmp_path, override, reason):
    folder = tmp_path / "job"
    arguments = ["--data", "gs://nowhere/data", "--run", RUN, "--folder", str(folder), override]
    result = CliRunner().invoke(cloud_work.app, arguments)
    assert isinstance(result.exception, ConfigError)
    assert reason in result.exception.message
    assert "\n" not in result.exception.message
    assert not folder.exists()


def test_what_is_wrong_in_the_training_process_is_told_as_what_it_is(data, quick, tmp_path):
    with pytest.raises(ConfigError, match="timm has no model `resnet18x`"):
        work(Work(data, RUN, (*quick, "model.backbone=resnet18x"), tmp_path / "job"), {})
    assert not exists(f"{RUN}/last.ckpt")


def test_posters_that_are_not_there(quick, emulator, tmp_path):
    with pytest.raises(TransferError, match="gs://posters/nothing"):
        work(Work("gs://posters/nothing", RUN, quick, tmp_path / "job"), {})


# ------------------------------------------------------------------------------------------ uploads in between


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    """A run in the middle of it."""
    folder = tmp_path / "run"
    (folder / "metrics").mkdir(parents=True)
    for name in ("last.ckpt", "best.ckpt", "curves.csv", ".curves.csv.partial", "metrics/metrics.csv"):
        (folder / name).write_text(name)
    return folder


def test_an_upload_that_failed_is_made_up_for(emulator, run_dir, tmp_path, monkeypatch):
    said: list[str] = []
    failures = iter([TransferError("the network is away")] * 2)
    sent = threading.Event()

    def failing_twice(source: Path, address: str) -> None:
        for failure in failures:
            raise failure
        upload(source, address)
        sent.set()

    monkeypatch.setattr(run_folder, "upload", failing_twice)
    with RunUploads(run_dir, RUN, tmp_path / "outbox", seconds=0.05, say=said.append):
        assert sent.wait(MAX_WAIT)
    assert len(said) == 2
    assert "tried again in 0.05 s: the network is away" in said[0]
    run = fetched(RUN, tmp_path / "copy")
    names = {path.relative_to(run).as_posix() for path in run.rglob("*") if path.is_file()}
    assert names == {"last.ckpt", "best.ckpt", "curves.csv", "metrics/metrics.csv"}


def test_a_last_upload_that_fails_is_an_error_unless_there_is_another(run_dir, tmp_path, monkeypatch):
    def failing(source: Path, address: str) -> None:
        raise TransferError("the network is away")

    monkeypatch.setattr(run_folder, "upload", failing)
    said: list[str] = []
    uploads = (run_dir, RUN, tmp_path / "outbox")
    with pytest.raises(TransferError, match="away"), RunUploads(*uploads, seconds=60, say=said.append):
        pass
    assert said == []
    with pytest.raises(SystemExit), RunUploads(*uploads, seconds=60, say=said.append):
        sys.exit(143)
    assert said == ["the last upload failed as well: the network is away"]


def test_whoever_finds_a_last_checkpoint_finds_all_that_belongs_to_it(run_dir, tmp_path, monkeypatch):
    """Training ends an epoch during an upload: what is sent is older than that, and the checkpoint comes last."""
    sent: list[dict[str, str]] = []

    def replacing(source: Path, address: str) -> None:
        for name in ("best.ckpt", "last.ckpt"):
            (run_dir / "next").write_text("of the next epoch")
            (run_dir / "next").replace(run_dir / name)
        sent.append({path.name: path.read_text() for path in source.rglob("*") if path.is_file()})

    monkeypatch.setattr(run_folder, "upload", replacing)
    with RunUploads(run_dir, RUN, tmp_path / "outbox", seconds=60, say=print):
        pass
    assert sent[0]["best.ckpt"] == "best.ckpt"
    assert "last.ckpt" not in sent[0]
    assert sent[1] == {"last.ckpt": "last.ckpt"}


# ----------------------------------------------------------------------------------------- what Vertex says


def cluster(kind: str, index: int, **pools: list[str]) -> dict[str, str]:
    task = {"type": kind, "index": index, "trial": ""}
    return {"CLUSTER_SPEC": json.dumps({"cluster": pools, "environment": "cloud", "task": task})}


def test_a_machine_knows_its_number():
    pools = {"workerpool0": ["chief-0:2222"], "workerpool1": ["worker-0:2222", "worker-1:2222"]}
    chief = read_machine(cluster("workerpool0", 0, **pools))
    last = read_machine(cluster("workerpool1", 1, **pools))
    assert chief is not None
    assert last is not None
    assert (chief.rank, chief.nodes, chief.address, chief.port) == (0, 3, "chief-0", 2222)
    assert (last.rank, last.nodes, last.address, last.port) == (2, 3, "chief-0", 2222)


def test_a_machine_may_be_alone():
    assert read_machine({}) is None
    assert read_machine(cluster("workerpool0", 0, workerpool0=["chief-0:2222"])) is None


@pytest.mark.parametrize(
    ("spec", "reason"),
    [
        ("{", "no JSON"),
        ('{"cluster": {"workerpool0": ["a:1"], "workerpool1": ["b:1"]}}', "does not name the machines"),
        ('{"cluster": {"workerpool0": ["a"], "workerpool1": ["b"]}, "task": {}}', "does not name the machines"),
        ('{"cluster": {"workerpool0": ["a:1"], "workerpool2": ["b:1"]}}', "nothing to do: workerpool2"),
    ],
)
def test_a_cluster_that_makes_no_sense(spec, reason):
    with pytest.raises(ConfigError, match=reason):
        read_machine({"CLUSTER_SPEC": spec})


def test_a_trial_is_known_by_its_variables():
    assert read_trial({}) is None
    assert read_trial(cluster("workerpool0", 0, workerpool0=["chief-0:2222"])) is None
    assert read_trial({"CLOUD_ML_TRIAL_ID": "4"}) == Trial("4", Path("/var/hypertune/output.metrics"), "val_map_macro")
    named = {"CLUSTER_SPEC": '{"task": {"trial": "5"}}', "CLOUD_ML_HP_METRIC_TAG": "quality"}
    assert read_trial(named) == Trial("5", Path("/var/hypertune/output.metrics"), "quality")


def test_values_of_a_trial_are_overrides():
    given = ("loss=focal", "--optimizer.lr=0.003", "--data.batch_size=32.0", "--name=v1.0", "optimizer.lr=2.0")
    expected = ("loss=focal", "optimizer.lr=0.003", "data.batch_size=32", "name=v1.0", "optimizer.lr=2.0")
    assert as_overrides(given) == expected
