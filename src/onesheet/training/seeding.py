"""What is random in a step: the same whenever and wherever the step is taken."""

from __future__ import annotations

import numpy as np
import torch


def seed_step(seed: int, rank: int, epoch: int, batch: int) -> None:
    """Make dropout and augmentation a function of seed, process, epoch and step."""
    torch.manual_seed(int(np.random.SeedSequence((seed, rank, epoch, batch)).generate_state(1)[0]))
