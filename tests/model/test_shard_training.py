"""Training and validation from shards: as from files, in several processes, with workers, after an interruption."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from lightning.pytorch.callbacks import Callback

from onesheet.data.datamodule import PosterDataModule
from onesheet.data.shards import write_shards
from onesheet.errors import ConfigError, DataError
from onesheet.image import PreprocessSpec
from onesheet.training.checkpoint import load_checkpoint
from onesheet.training.module import GenreModule
from onesheet.training.network import PosterNet
from onesheet.training.run import train, training_manifest
from onesheet.training.trainer import build_trainer, without_chatter

if TYPE_CHECKING:
    from gcp_storage_emulator.server import Server

    from onesheet.training.config import TrainConfig

SHARD_BYTES = 40_000
METRICS = ("val/loss", "val/map_macro", "val/f1_macro")


@pytest.fixture(scope="module")
def streaming(configure: Callable[..., TrainConfig]) -> Callable[..., TrainConfig]:
    """`streaming(run_dir, shards, "trainer.epochs=2", …)`: a configuration that reads shards; files, where it is ""."""

    def compose(run_dir: Path, shards: Path | str, *overrides: str) -> TrainConfig:
        fast = ("data.limit=0", "data.batch_size=64", "model.height=48", "model.width=32", "trainer.accelerator=cpu")
        return configure(run_dir, *fast, f"data.shards={shards}", *overrides)

    return compose


@pytest.fixture(scope="module")
def shards(configure: Callable[..., TrainConfig], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of the made-up posters in shards."""
    folder = tmp_path_factory.mktemp("shards")
    index = write_shards(training_manifest(configure(folder)), str(folder), SHARD_BYTES)
    assert len(index.splits["train"]) > 4
    assert len(index.splits["validation"]) > 1
    return folder


def validated(network: PosterNet, config: TrainConfig) -> dict[str, float]:
    """Metrics on the validation posters, in this process."""
    manifest = training_manifest(config)
    module = GenreModule(network, config, {"genres": list(manifest.genres)}, counts=[1] * 4, posters=4)
    posters = PosterDataModule(manifest, config.data, PreprocessSpec(config.model.height, config.model.width))
    with without_chatter():
        [metrics] = build_trainer(config, []).validate(module, posters, verbose=False)
    return {name: metrics[name] for name in METRICS}


def test_validation_is_the_same_from_files_and_shards(
    streaming: Callable[..., TrainConfig], shards: Path, emulator: Server, tmp_path: Path
) -> None:
    config = streaming(tmp_path, "")
    write_shards(training_manifest(config), "gs://posters/shards", SHARD_BYTES)
    torch.manual_seed(1)
    network = PosterNet(config.model, 4, pretrained=False)
    files, folder, bucket = (
        validated(network, streaming(tmp_path, place)) for place in ("", shards, "gs://posters/shards")
    )
    assert folder == pytest.approx(files, rel=1e-6)
    assert bucket == pytest.approx(files, rel=1e-6)


@pytest.mark.slow
def test_two_processes_train_on_shards(streaming: Callable[..., TrainConfig], shards: Path, tmp_path: Path) -> None:
    """What they validate together is what files say of their network."""
    result = train(streaming(tmp_path / "run", shards, "trainer.epochs=2", "trainer.devices=2"))
    together = torch.load(result.last, weights_only=True)
    films = training_manifest(streaming(tmp_path, "")).counts()["train"]
    assert together["global_step"] == 2 * (films // 2 // 32)
    alone = validated(load_checkpoint(result.last).network, streaming(tmp_path, ""))
    assert {name: together["metrics"][name] for name in METRICS} == pytest.approx(alone, rel=1e-5)


def test_a_run_goes_on_in_the_order_it_would_have_had(
    streaming: Callable[..., TrainConfig], shards: Path, tmp_path: Path
) -> None:
    class Stop(Callback):
        def on_train_epoch_start(self, trainer, pl_module):
            if trainer.current_epoch == 1:
                raise ConnectionError

    unbroken = train(streaming(tmp_path / "unbroken", shards, "trainer.epochs=2"))
    with pytest.raises(ConnectionError):
        train(streaming(tmp_path / "broken", shards, "trainer.epochs=2"), callbacks=[Stop()])
    resumed = train(streaming(tmp_path / "broken", shards, "trainer.epochs=2", "resume=true"))
    one, other = (torch.load(run.last, weights_only=True)["state_dict"] for run in (unbroken, resumed))
    assert all(torch.equal(tensor, other[name]) for name, tensor in one.items())


def test_a_worker_follows_the_epochs_and_tells_of_a_broken_shard_in_one_line(
    streaming: Callable[..., TrainConfig], shards: Path, tmp_path: Path
) -> None:
    shutil.copytree(shards, tmp_path / "shards")
    manifest = training_manifest(streaming(tmp_path, ""))
    here, beside = (
        PosterDataModule(
            manifest, streaming(tmp_path, tmp_path / "shards", f"data.workers={workers}").data, PreprocessSpec(48, 32)
        ).train_dataloader()
        for workers in (0, 1)
    )
    for epoch in (4, 5):
        for loader in (here, beside):
            loader.sampler.set_epoch(epoch)
        for one, other in zip(here, beside, strict=True):
            assert torch.equal(one[0], other[0])
            assert torch.equal(one[1], other[1])
    broken = tmp_path / "shards/train/000001.tar"
    broken.write_bytes(broken.read_bytes()[:9000])
    for loader in (here, beside):
        with pytest.raises(DataError) as error:
            list(loader)
        assert error.value.message == f"{broken} is damaged: run `onesheet data shard` again"


def test_a_broken_shard_ends_training(streaming: Callable[..., TrainConfig], shards: Path, tmp_path: Path) -> None:
    shutil.copytree(shards, tmp_path / "broken")
    (tmp_path / "broken/train/000000.tar").write_bytes(b"")
    with pytest.raises(DataError, match=r"train/000000\.tar is damaged"):
        train(streaming(tmp_path / "run", tmp_path / "broken", "trainer.epochs=1"))


def test_what_cannot_be_streamed_is_said_before_the_run_begins(
    streaming: Callable[..., TrainConfig], shards: Path, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=r"say data\.limit=0"):
        train(streaming(tmp_path / "run", shards, "data.limit=512"))
    with pytest.raises(DataError, match=r"no shards at .*onesheet data shard"):
        train(streaming(tmp_path / "run", tmp_path / "none", "data=shards"))
    config = streaming(tmp_path / "run", shards)
    other = dataclasses.replace(training_manifest(config), genres=("Comedy",))
    with pytest.raises(DataError, match="another manifest"):
        PosterDataModule(other, config.data, PreprocessSpec(48, 32))
    assert not (tmp_path / "run").exists()


def test_posters_and_targets_are_those_of_files(
    streaming: Callable[..., TrainConfig], shards: Path, tmp_path: Path
) -> None:
    """Also targets of teachers, which come in the manifest's order: by film, not by place in the stream."""
    config = streaming(tmp_path, shards, "data.batch_size=10")
    manifest = training_manifest(config)
    taught = np.random.default_rng(5).random(manifest.split("train").targets().shape, np.float32)
    streamed, files = (
        PosterDataModule(manifest, data, PreprocessSpec(48, 32), targets=taught)
        for data in (config.data, dataclasses.replace(config.data, shards=""))
    )
    files.setup("fit")
    row_of = {row.tobytes(): number for number, row in enumerate(taught)}
    seen = []
    for images, targets in streamed.train_dataloader():
        rows = [row_of[target.numpy().tobytes()] for target in targets]
        assert torch.equal(images, files.train.__getitems__(rows)[0])
        seen += rows
    assert len(set(seen)) == len(seen) == len(taught) // 10 * 10
