"""Optimizer and schedule: the same for every kind of training."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Final

import torch
from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig
from timm.optim.muon import Muon

if TYPE_CHECKING:
    from torch import nn

    from onesheet.training.config import OptimizerConfig

# With the step of Muon scaled to that of AdamW, learning rates mean the same.
_OPTIMIZERS: Final[dict[str, Callable[..., torch.optim.Optimizer]]] = {
    "adamw": torch.optim.AdamW,
    "muon": partial(Muon, nesterov=True, adjust_lr_fn="match_rms_adamw"),
}


def build_optimizer(
    parts: Sequence[tuple[nn.Module, float]], config: OptimizerConfig, steps: int
) -> OptimizerLRSchedulerConfig:
    """Linear warm-up, then a cosine down to nothing, step by step.

    Args:
        parts: Of the network, each with the share of the learning rate that it learns at.
        config: Which optimizer, and its knobs.
        steps: Of the whole run.
    """
    groups = [
        {
            "params": [parameter for parameter in part.parameters() if (parameter.ndim > 1) == decayed],
            "lr": share * config.lr,
            # Biases and normalisation are left alone.
            "weight_decay": config.weight_decay if decayed else 0.0,
        }
        for part, share in parts
        for decayed in (True, False)
    ]
    optimizer = _OPTIMIZERS[config.name](groups, lr=config.lr)
    factor = partial(_warmup_cosine, steps=steps, warmup=round(config.warmup * steps))
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
    return OptimizerLRSchedulerConfig(optimizer=optimizer, lr_scheduler={"scheduler": schedule, "interval": "step"})


def _warmup_cosine(step: int, steps: int, warmup: int) -> float:
    """Factor of the learning rate at a step."""
    if step < warmup:
        return (step + 1) / warmup
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))
