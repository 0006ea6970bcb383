"""A configuration to a Lightning trainer with its callbacks."""

from __future__ import annotations

import contextlib
import logging
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, cast

import lightning as L
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.callbacks import Callback, EarlyStopping, ModelCheckpoint, RichProgressBar, WeightAveraging
from lightning.pytorch.strategies import DDPStrategy
from torch.optim.swa_utils import get_ema_multi_avg_fn

from onesheet.errors import ConfigError, reason
from onesheet.training.curves import Curves
from onesheet.training.launch import processes
from onesheet.training.pictures import Pictures
from onesheet.training.profiling import TorchProfiler
from onesheet.training.record import BEST, LAST

if TYPE_CHECKING:
    from lightning.pytorch.loggers import Logger
    from torch import Tensor

    from onesheet.training.config import TrainConfig

MONITOR: Final = "val/map_macro"

_CHATTY: Final = ("lightning.pytorch", "mlflow", "alembic")
_EXPECTED_WARNINGS: Final = (
    r".*does not have many workers",
    r"The number of training batches .* is smaller than the logging interval",
    r"Checkpoint directory .* exists and is not empty",
    r".*treespec",
    r"Experiment logs directory .* exists and is not empty",
    r".*recommended to use `self\.log\(.*sync_dist=True",
)


def build_trainer(config: TrainConfig, loggers: Sequence[Logger], extra: Sequence[Callback] = ()) -> L.Trainer:
    """The trainer of a run.

    Args:
        config: Of the run.
        loggers: Open stores.
        extra: Further callbacks, for what this training is about.

    Raises:
        ConfigError: Lightning refuses a value.
    """
    profiled = config.trainer.profiler != "none"
    try:
        return L.Trainer(
            max_epochs=1 if profiled else config.trainer.epochs,
            limit_train_batches=config.trainer.profile_batches if profiled else None,
            accelerator=config.trainer.accelerator,
            devices=config.trainer.devices,
            num_nodes=config.trainer.nodes,
            # Running statistics are brought together before validation, instead of before every step.
            strategy=DDPStrategy(forward_sync_buffers=False) if processes(config) > 1 else "auto",
            use_distributed_sampler=False,  # ours repeats no poster
            precision=cast("Any", config.trainer.precision),  # checked by Lightning
            accumulate_grad_batches=config.trainer.accumulate,
            gradient_clip_val=config.trainer.gradient_clip or None,
            log_every_n_steps=config.trainer.log_every,
            callbacks=[*extra, *_callbacks(config)],
            logger=list(loggers),
            default_root_dir=config.run_dir,
            enable_model_summary=False,
            enable_progress_bar=config.trainer.progress,
            num_sanity_val_steps=0,
        )
    except (ValueError, MisconfigurationException) as error:
        raise ConfigError(f"trainer: {reason(error)}") from error


@contextlib.contextmanager
def without_chatter() -> Iterator[None]:
    """Hide advertisements, and warnings about what is meant: few workers, a used folder, Lightning's own insides."""
    loggers = [logging.getLogger(name) for name in _CHATTY]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.WARNING)
    try:
        with warnings.catch_warnings():
            for message in _EXPECTED_WARNINGS:
                warnings.filterwarnings("ignore", message)
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def genre_callbacks(config: TrainConfig) -> list[Callback]:
    """Keep the best epoch and the curves, draw pictures, stop early."""
    run_dir = Path(config.run_dir)
    callbacks: list[Callback] = [
        ModelCheckpoint(run_dir, Path(BEST).stem, monitor=MONITOR, mode="max", enable_version_counter=False),
        Curves(run_dir),
        Pictures(config.logger, run_dir),
    ]
    if config.trainer.patience > 0:
        callbacks.append(EarlyStopping(MONITOR, mode="max", patience=config.trainer.patience))
    return callbacks


def _callbacks(config: TrainConfig) -> list[Callback]:
    """For every kind of training: the last epoch, progress, averaged weights, profiling."""
    run_dir = Path(config.run_dir)
    # Of its own: `save_last` would keep it at the best epoch until there is a better one.
    callbacks: list[Callback] = [ModelCheckpoint(run_dir, Path(LAST).stem, enable_version_counter=False)]
    if config.trainer.progress:
        callbacks.append(RichProgressBar())
    if config.trainer.ema_decay > 0:
        callbacks.append(WeightAveraging(use_buffers=True, multi_avg_fn=_warming_up(config.trainer.ema_decay)))
    if config.trainer.profiler == "pytorch":
        callbacks.append(TorchProfiler(run_dir, config.trainer.profile_batches))
    return callbacks


def _warming_up(decay: float) -> Any:
    """An exponential moving average that forgets the first, random weights fast: decay at most (1 + n) / (10 + n)."""

    def average(averaged: list[Tensor], current: list[Tensor], number: Tensor) -> None:
        n = int(number)
        get_ema_multi_avg_fn(min(decay, (1 + n) / (10 + n)))(averaged, current, number)  # type: ignore[no-untyped-call]

    return average
