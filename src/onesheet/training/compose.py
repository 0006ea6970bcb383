"""Configuration files and overrides to one checked `TrainConfig`."""

from __future__ import annotations

import contextlib
import difflib
import math
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from typing import Any, Final, cast, get_args, get_type_hints

import yaml
from hydra import compose, initialize_config_dir
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.types import Quote, QuotedString
from hydra.errors import HydraException, OverrideParseException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from onesheet.configs import default_config_dir
from onesheet.errors import ConfigError, reason
from onesheet.training.config import TrainConfig
from onesheet.training.launch import under_torchrun

_CONFIG_FILE: Final = "config.yaml"
_FREE_KEYS: Final = "model.options."
_GROUPS: Final = frozenset(
    field.name for field in fields(TrainConfig) if is_dataclass(getattr(TrainConfig(), field.name))
)

_RANGES: Final = {
    "data.batch_size": (1, math.inf),
    "data.workers": (0, math.inf),
    "data.limit": (0, math.inf),
    "model.height": (16, 4096),
    "model.width": (16, 4096),
    "model.dropout": (0, 1),
    "optimizer.lr": (0, math.inf),
    "optimizer.backbone_lr_factor": (0, math.inf),
    "optimizer.weight_decay": (0, math.inf),
    "optimizer.warmup": (0, 1),
    "loss.gamma_positive": (0, 10),
    "loss.gamma_negative": (0, 10),
    "loss.clip": (0, 0.5),
    "loss.balance": (0, 0.999999),
    "loss.smoothing": (0, 1),
    "loss.teacher_weight": (0, 1),
    "augment.min_scale": (0.01, 1),
    "augment.flip": (0, 1),
    "augment.rotate": (0, 45),
    "augment.jitter": (0, 1),
    "augment.greyscale": (0, 1),
    "augment.erase": (0, 1),
    "augment.mixup": (0, math.inf),
    "augment.cutmix": (0, math.inf),
    "trainer.epochs": (1, math.inf),
    "trainer.patience": (0, math.inf),
    "trainer.threshold": (0, 1),
    "trainer.devices": (1, 1024),
    "trainer.nodes": (1, 1024),
    "trainer.start_scale": (0.1, 1),
    "trainer.accumulate": (1, math.inf),
    "trainer.gradient_clip": (0, math.inf),
    "trainer.ema_decay": (0, 1),
    "trainer.log_every": (1, math.inf),
    "trainer.profile_batches": (1, math.inf),
    "logger.pictures_every": (0, math.inf),
    "logger.gradients_every": (0, math.inf),
}
_CHOICES: Final = {
    "optimizer.name": ("adamw", "muon"),
    "loss.name": ("bce", "focal", "asymmetric"),
    "trainer.profiler": ("none", "cprofile", "pytorch"),
}


def compose_config(
    overrides: Sequence[str],
    config_dir: Path | None = None,
    *,
    from_run: Path | None = None,
    from_file: Path | None = None,
) -> TrainConfig:
    """Compose `config.yaml`, its groups and Hydra overrides into a checked configuration.

    Args:
        overrides: Such as `experiment=smoke`, `loss=focal` or `optimizer.lr=3e-4`.
        config_dir: Folder with `config.yaml`; default: the shipped one.
        from_run: Folder of a run whose configuration takes the place of all defaults; the new run gets a folder of
            its own.
        from_file: A file with a configuration, in the same place.

    Raises:
        ConfigError: A key or group is unknown (the nearest known one is named), a value is of the wrong type or out
            of its range, or the run kept no configuration.
    """
    kept = _kept_by(from_run) if from_run else from_file
    with _composed(overrides, config_dir, kept) as composed:
        config = cast("TrainConfig", OmegaConf.to_object(composed))
    check_values(config)
    return config


def compose_yaml(
    overrides: Sequence[str],
    config_dir: Path | None = None,
    *,
    from_run: Path | None = None,
    from_file: Path | None = None,
) -> str:
    """What `compose_config` makes, as YAML that it takes again as `from_file`.

    A folder that will be named after the time stays so, and the same arguments give the same text.

    Raises:
        ConfigError: As by `compose_config`.
    """
    compose_config(overrides, config_dir, from_run=from_run, from_file=from_file)
    with _composed(overrides, config_dir, _kept_by(from_run) if from_run else from_file) as composed:
        return OmegaConf.to_yaml(composed)


def to_yaml(config: TrainConfig) -> str:
    """The complete configuration, as it is kept beside a run."""
    return OmegaConf.to_yaml(OmegaConf.structured(config))


def config_groups(config_dir: Path | None = None) -> dict[str, list[str]]:
    """What there is to choose from: group to names, such as `loss` to `asymmetric`, `bce`, `focal`."""
    folders = sorted(path for path in (config_dir or default_config_dir()).iterdir() if path.is_dir())
    return {folder.name: sorted(path.stem for path in folder.glob("*.yaml")) for folder in folders}


def check_values(config: TrainConfig) -> None:
    """Refuse values that no run can work with.

    Raises:
        ConfigError: A value is out of its range, or none of the choices.
    """
    for key, (low, high) in _RANGES.items():
        value = _value(config, key)
        if not low <= value <= high:
            raise ConfigError(f"{key}: must be from {low:g} to {high:g}, not {value:g}")
    for key, choices in _CHOICES.items():
        if (chosen := _value(config, key)) not in choices:
            raise ConfigError(
                f"{key}: must be one of {', '.join(choices)}, not `{chosen}`{_did_you_mean(chosen, choices)}"
            )


@contextlib.contextmanager
def _composed(overrides: Sequence[str], config_dir: Path | None, kept: Path | None) -> Iterator[DictConfig]:
    """What Hydra makes of it all, with its errors in one line."""
    folder = (config_dir or default_config_dir()).resolve()
    if not (folder / _CONFIG_FILE).is_file():
        raise ConfigError(f"no {_CONFIG_FILE} in {folder}")
    for override in overrides:
        _check_override(override, folder)
    if under_torchrun() and not any(override.startswith("run_dir=") for override in overrides):
        raise ConfigError("under torchrun each process would name a folder of its own: say run_dir=DIR")
    schema = TrainConfig if kept is None else _read_kept(kept, overrides)
    literal = [_take_literally(override) for override in overrides]
    ConfigStore.instance().store(name="schema", node=schema)
    GlobalHydra.instance().clear()
    try:
        with initialize_config_dir(str(folder), version_base="1.3", job_name="train"):
            yield compose("config" if kept is None else "repeat", overrides=literal)
    except AssertionError as error:  # how OmegaConf says that it cannot go below a node that is None
        raise ConfigError(
            "an override sets a part that is switched off; such as logger.wandb.project without logger=wandb"
        ) from error
    except OverrideParseException as error:
        raise ConfigError(_how_to_quote(error.override)) from error
    except (HydraException, OmegaConfBaseException) as error:
        cause = error.__cause__ if isinstance(error.__cause__, OmegaConfBaseException) else error
        key = getattr(cause, "full_key", None)
        raise ConfigError((f"{key}: " if key else "") + reason(cause)) from error


def _kept_by(run_dir: Path) -> Path:
    """The file with the configuration of a run."""
    file = run_dir / _CONFIG_FILE
    if not file.is_file():
        raise ConfigError(f"{run_dir} is no run: it holds no {_CONFIG_FILE}")
    return file


def _read_kept(file: Path, overrides: Sequence[str]) -> TrainConfig:
    """A configuration from a file; a group that is chosen anew starts from its own defaults again."""
    try:
        # The folder, and whether it is a resumed run, are for the new run to say.
        kept = OmegaConf.merge(
            OmegaConf.structured(TrainConfig), OmegaConf.load(file), {"run_dir": "", "resume": False}
        )
        config = cast("TrainConfig", OmegaConf.to_object(kept))
    except (OmegaConfBaseException, yaml.YAMLError) as error:
        raise ConfigError(f"{file} is no configuration of onesheet: {reason(error)}") from error
    chosen = {override.partition("=")[0] for override in overrides}
    return replace(config, **{group: type(getattr(config, group))() for group in _GROUPS & chosen})


def _check_override(override: str, config_dir: Path) -> None:
    """Refuse what Hydra would refuse at length, or take in silence."""
    key, equals, value = override.lstrip("+").partition("=")
    if not equals:
        raise ConfigError(f"`{override}` is no override: write KEY=VALUE")
    groups = config_groups(config_dir)
    if key in groups:
        for chosen in value.strip("[]").split(","):
            if chosen.strip() not in groups[key]:
                raise ConfigError(f"no {key} `{chosen.strip()}`; there are: {', '.join(groups[key])}")
        return
    known = [*groups, *(known for known, _ in _keys(TrainConfig))]
    if key not in known and not key.startswith(_FREE_KEYS):
        raise ConfigError(f"unknown key `{key}`{_did_you_mean(key, known)}")


def _take_literally(override: str) -> str:
    """An override of a plain string with its value quoted, so that no letter of a path means anything to Hydra."""
    key, _, value = override.partition("=")
    is_quoted = len(value) > 1 and value[0] == value[-1] and value[0] in "'\""
    if key.lstrip("+") not in _STRINGS or is_quoted or value == "null" or "${" in value:
        return override
    return f"{key}={_quoted(value)}"


def _quoted(value: str) -> str:
    return str(QuotedString(value, Quote.double).with_quotes())


def _how_to_quote(override: str) -> str:
    key, _, value = override.partition("=")
    if value.startswith("["):
        items = (item.strip().strip("'\"") for item in value.strip("[]").split(","))
        value = f"[{','.join(_quoted(item) for item in items)}]"
    else:
        value = _quoted(value)
    return f"Hydra cannot read the override `{override}`; quote what is text in it: {shlex.quote(f'{key}={value}')}"


def _did_you_mean(word: str, known: Sequence[str]) -> str:
    near = difflib.get_close_matches(word, known, n=1)
    return f"; did you mean `{near[0]}`?" if near else ""


def _value(config: TrainConfig, key: str) -> Any:
    group, _, name = key.partition(".")
    return getattr(getattr(config, group), name)


def _keys(schema: type[Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """All keys of the configuration, with their types."""
    hints = get_type_hints(schema)
    for attribute in fields(schema):
        hint = hints[attribute.name]
        yield prefix + attribute.name, hint
        for kind in (hint, *get_args(hint)):
            if is_dataclass(kind):
                yield from _keys(cast("type[Any]", kind), f"{prefix}{attribute.name}.")


_STRINGS: Final = frozenset(key for key, hint in _keys(TrainConfig) if hint in {str, str | None})
