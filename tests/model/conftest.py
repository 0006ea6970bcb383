"""One small model, trained and exported once for all tests of this family."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch

from onesheet.data.prepare import prepare
from onesheet.export.export import export
from onesheet.training.compose import compose_config
from onesheet.training.run import train

if TYPE_CHECKING:
    from collections.abc import Callable

    from onesheet.training.config import TrainConfig


@pytest.fixture(scope="session", autouse=True)
def _one_thread_each() -> None:
    """The test processes share the cores; more threads than cores make torch several times slower."""
    torch.set_num_threads(1)


@pytest.fixture(scope="module", autouse=True)
def _train_at_full_pace(uncounted_processes: None) -> None:
    """What trains takes long enough."""


@pytest.fixture(scope="session")
def processed(made_up_posters: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with the manifest of the made-up posters."""
    folder = tmp_path_factory.mktemp("processed")
    prepare(made_up_posters, folder)
    return folder


@pytest.fixture(scope="session")
def configure(made_up_posters: Path, processed: Path) -> Callable[..., TrainConfig]:
    """`configure(run_dir, "trainer.epochs=2", …)`: a configuration that trains in seconds."""

    def compose(run_dir: Path, *overrides: str) -> TrainConfig:
        fast = (
            "experiment=smoke",
            "logger=csv",
            "logger.pictures_every=0",
            f"data.raw={made_up_posters}",
            f"data.processed={processed}",
        )
        return compose_config([*fast, f"run_dir={run_dir}", *overrides])

    return compose


@pytest.fixture(scope="session")
def checkpoint(configure: Callable[..., TrainConfig], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Best checkpoint of a model that has learned the made-up posters."""
    run_dir = tmp_path_factory.mktemp("runs") / "learned"
    learn = ("trainer.epochs=8", "augment.flip=0", "augment.min_scale=0.9", "augment.mixup=0", "augment.erase=0")
    return train(configure(run_dir, *learn)).best


@pytest.fixture(scope="session")
def learned_bundle(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of the bundle of that model."""
    folder = tmp_path_factory.mktemp("bundles") / "learned"
    export(checkpoint, folder, name="learned", version="1", min_speedup=0)
    return folder
