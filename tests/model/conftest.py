"""One small model, trained and exported once for all tests of this family."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import pytest

from onesheet.data.prepare import prepare
from onesheet.export.export import export
from onesheet.training.compose import compose_config
from onesheet.training.record import BEST
from onesheet.training.run import train

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from onesheet.training.config import TrainConfig

    MadeOnce = Callable[[str, Callable[[Path], object]], Path]


@pytest.fixture(scope="module", autouse=True)
def _uncounted(uncounted_processes: None) -> None:
    """Training takes long enough."""


@pytest.fixture(scope="session")
def processed(made_up_posters: Path, made_once: MadeOnce) -> Path:
    """Folder with the manifest of the made-up posters."""
    return made_once("processed", partial(prepare, made_up_posters))


@pytest.fixture(scope="session")
def smallest() -> tuple[str, ...]:
    """Overrides: the smoke recipe with fewer pixels and channels, which are enough for made-up posters."""
    return ("experiment=smoke", "model.height=48", "model.width=32", "+model.options.channels=[16,32,64,128]")


@pytest.fixture(scope="session")
def configure(made_up_posters: Path, processed: Path, smallest: tuple[str, ...]) -> Callable[..., TrainConfig]:
    """`configure(run_dir, "trainer.epochs=2", …)`: a configuration that trains in seconds."""

    def compose(run_dir: Path, *overrides: str) -> TrainConfig:
        fast = (
            *smallest,
            "logger=csv",
            "logger.pictures_every=0",
            f"data.raw={made_up_posters}",
            f"data.processed={processed}",
        )
        return compose_config([*fast, f"run_dir={run_dir}", *overrides])

    return compose


@pytest.fixture(scope="session")
def checkpoint(configure: Callable[..., TrainConfig], made_once: MadeOnce) -> Path:
    """Best checkpoint of a model that has learned the made-up posters."""
    learn = ("trainer.epochs=8", "augment.flip=0", "augment.min_scale=0.9", "augment.mixup=0", "augment.erase=0")
    return made_once("learned-run", lambda run_dir: train(configure(run_dir, *learn))) / BEST


@pytest.fixture(scope="session")
def learned_bundle(checkpoint: Path, made_once: MadeOnce) -> Path:
    """Folder of the bundle of that model."""
    made = made_once(
        "learned-export",
        lambda folder: export(checkpoint, folder / "learned", name="learned", version="1", min_speedup=0),
    )
    return made / "learned"
