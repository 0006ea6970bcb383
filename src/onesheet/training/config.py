"""The typed configuration of a training run, composed by Hydra from `configs/`."""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, is_dataclass
from pathlib import Path
from typing import Any, cast, get_type_hints

from hydra import compose, initialize_config_dir
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException
from omegaconf import MISSING, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from onesheet.errors import ConfigError

EXPERIMENT = "experiment"

_RANGES = {
    "data.batch_size": (1, math.inf),
    "data.workers": (0, math.inf),
    "data.limit": (0, math.inf),
    "model.height": (16, 4096),
    "model.width": (16, 4096),
    "model.dropout": (0, 1),
    "optimizer.lr": (0, math.inf),
    "optimizer.weight_decay": (0, math.inf),
    "optimizer.warmup": (0, 1),
    "augment.min_scale": (0.01, 1),
    "augment.flip": (0, 1),
    "augment.jitter": (0, 1),
    "augment.erase": (0, 1),
    "augment.mixup": (0, math.inf),
    "trainer.epochs": (1, math.inf),
    "trainer.ema_decay": (0, 1),
    "trainer.gradient_clip": (0, math.inf),
    "trainer.log_every": (1, math.inf),
}


@dataclass
class DataConfig:
    """Which posters, and how they reach the network.

    Attributes:
        raw: Folder that `onesheet data fetch` filled.
        processed: Folder that `onesheet data prepare` filled.
        batch_size: Posters in a batch.
        workers: Loader processes beside the training process.
        cache: Keep the decoded posters in memory.
        limit: Take only so many posters of each split; 0 takes all.
    """

    raw: str = "data/raw"
    processed: str = "data/processed"
    batch_size: int = 64
    workers: int = 1
    cache: bool = True
    limit: int = 0


@dataclass
class ModelConfig:
    """The network.

    Attributes:
        backbone: Any timm model.
        pretrained: Start from timm's pretrained weights.
        weights: A local file of such weights, instead of a download.
        height: Rows of the input, in pixels.
        width: Columns of the input, in pixels.
        dropout: In front of the head.
        options: Further arguments of the timm model.
    """

    backbone: str = "resnet18"
    pretrained: bool = True
    weights: str | None = None
    height: int = 320
    width: int = 224
    dropout: float = 0.2
    options: dict[str, Any] = field(default_factory=dict)


@dataclass
class OptimizerConfig:
    """AdamW with a linear warm-up and a cosine down to nothing.

    Attributes:
        lr: Peak learning rate.
        weight_decay: Of weights, not of biases and normalisation.
        warmup: Share of all steps.
    """

    lr: float = 1e-3
    weight_decay: float = 0.05
    warmup: float = 0.1


@dataclass
class AugmentConfig:
    """What may happen to a training poster.

    Attributes:
        min_scale: Smallest share of the poster's area that a crop keeps; 1 switches crops off.
        flip: Probability of a horizontal flip.
        jitter: Strength of random brightness, contrast and saturation.
        erase: Probability that a rectangle is blanked.
        mixup: Alpha of the Beta distribution that two posters are mixed by; 0 switches it off.
    """

    min_scale: float = 0.5
    flip: float = 0.5
    jitter: float = 0.2
    erase: float = 0.2
    mixup: float = 0.2


@dataclass
class TrainerConfig:
    """How long and how.

    Attributes:
        epochs: Passes over the training posters.
        precision: Lightning's: `32-true`, `bf16-mixed`, `16-mixed`.
        accelerator: Lightning's: `auto`, `cpu`, `gpu`.
        channels_last: Memory layout that convolutions like on most machines.
        ema_decay: Of the averaged weights that are validated and kept; 0 switches averaging off.
        gradient_clip: Largest gradient norm; 0 switches clipping off.
        log_every: Steps between two log lines of the training loss.
    """

    epochs: int = 30
    precision: str = "32-true"
    accelerator: str = "auto"
    channels_last: bool = True
    ema_decay: float = 0.999
    gradient_clip: float = 1.0
    log_every: int = 10


@dataclass
class TrainConfig:
    """A training run.

    Attributes:
        name: Names the model in the bundle.
        run_dir: Folder of the run: configuration, metrics, checkpoints.
        seed: Of weights, order and augmentation.
        resume: Go on from the last checkpoint in `run_dir`.
    """

    name: str = "onesheet"
    run_dir: str = MISSING
    seed: int = 42
    resume: bool = False
    data: DataConfig = field(default_factory=DataConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    trainer: TrainerConfig = field(default_factory=TrainerConfig)


def default_config_dir() -> Path:
    """Where the shipped configuration lies: inside the package, or in the checkout that it runs from."""
    package = Path(__file__).resolve().parents[1]
    installed = package / "configs"
    return installed if installed.is_dir() else package.parents[1] / "configs"


def compose_config(overrides: Sequence[str], config_dir: Path | None = None) -> TrainConfig:
    """Compose `config.yaml` and Hydra overrides into a checked configuration.

    Args:
        overrides: Such as `experiment=smoke` or `optimizer.lr=3e-4`.
        config_dir: Folder with `config.yaml`; default: the shipped one.

    Raises:
        ConfigError: A key is unknown (the nearest known one is named), or a value is of the wrong type.
    """
    folder = (config_dir or default_config_dir()).resolve()
    if not (folder / "config.yaml").is_file():
        raise ConfigError(f"no config.yaml in {folder}")
    for override in overrides:
        _check_override(override, folder)
    ConfigStore.instance().store(name="schema", node=TrainConfig)
    GlobalHydra.instance().clear()
    try:
        with initialize_config_dir(str(folder), version_base="1.3", job_name="train"):
            composed = compose("config", overrides=list(overrides))
            config = cast("TrainConfig", OmegaConf.to_object(composed))
    except (HydraException, OmegaConfBaseException) as error:
        cause = error.__cause__ if isinstance(error.__cause__, OmegaConfBaseException) else error
        key = getattr(cause, "full_key", None)
        raise ConfigError((f"{key}: " if key else "") + str(cause).strip().splitlines()[0]) from error
    _check_ranges(config)
    return config


def to_yaml(config: TrainConfig) -> str:
    """The complete configuration, as it is kept beside a run."""
    return OmegaConf.to_yaml(OmegaConf.structured(config))


def _check_override(override: str, config_dir: Path) -> None:
    """Refuse what Hydra would refuse at length, or take in silence."""
    key, equals, value = override.lstrip("+").partition("=")
    if not equals:
        raise ConfigError(f"`{override}` is no override: write KEY=VALUE")
    if key == EXPERIMENT:
        experiments = sorted(path.stem for path in (config_dir / EXPERIMENT).glob("*.yaml"))
        if value not in experiments:
            raise ConfigError(f"no experiment `{value}`; there are: {', '.join(experiments)}")
        return
    known = [EXPERIMENT, *_known_keys(TrainConfig)]
    if key not in known and not key.startswith("model.options."):
        near = difflib.get_close_matches(key, known, n=1)
        raise ConfigError(f"unknown key `{key}`" + (f"; did you mean `{near[0]}`?" if near else ""))


def _check_ranges(config: TrainConfig) -> None:
    for key, (low, high) in _RANGES.items():
        group, _, name = key.partition(".")
        value = getattr(getattr(config, group), name)
        if not low <= value <= high:
            raise ConfigError(f"{key}: must be from {low:g} to {high:g}, not {value:g}")


def _known_keys(schema: type[Any], prefix: str = "") -> Iterator[str]:
    for name, kind in get_type_hints(schema).items():
        yield prefix + name
        if is_dataclass(kind):
            yield from _known_keys(cast("type[Any]", kind), f"{prefix}{name}.")
