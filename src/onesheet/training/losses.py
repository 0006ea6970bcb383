"""Losses for genres that are rare, often missing from the labels, and never exclusive."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

import torch
from torch import Tensor, nn
from torch.nn import functional as F

if TYPE_CHECKING:
    from onesheet.training.config import LossConfig

# A power below 1 of 0 has no finite gradient.
_TINY: Final = 1e-8


class GenreLoss(nn.Module):
    """Mean over posters and genres of a binary loss on soft targets.

    With targets t, probabilities p and focusing gamma it is

        -t (1 - p)^g+ log p  -  (1 - t) q^g- log(1 - q),   q = max(p - clip, 0)

    which is binary cross-entropy for g+ = g- = clip = 0, the focal loss (Lin et al., 2017) for g+ = g-, and the
    asymmetric loss (Ridnik et al., 2021) for g- > g+ and a positive clip.

    Args:
        config: Which, and how strong.
        counts: Number of training posters with each genre, `[G]`.
        posters: Number of training posters.
    """

    def __init__(self, config: LossConfig, counts: Sequence[int], posters: int) -> None:
        super().__init__()
        self._config = config
        frequencies = torch.tensor(counts, dtype=torch.float32) / max(1, posters)
        self.register_buffer("frequencies", frequencies, persistent=False)
        self.register_buffer("weights", class_balanced_weights(counts, config.balance), persistent=False)
        self.frequencies: Tensor
        self.weights: Tensor

    def forward(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Scalar loss of float32 logits `[N, G]` against targets `[N, G]`, 0-1."""
        config = self._config
        if config.smoothing > 0:
            targets = torch.lerp(targets, self.frequencies.expand_as(targets), config.smoothing)
        if config.name == "bce":
            losses = F.binary_cross_entropy_with_logits(logits, targets, reduction="none")
        else:
            losses = self._focused(logits, targets)
        return (losses * self.weights).mean()

    def _focused(self, logits: Tensor, targets: Tensor) -> Tensor:
        config = self._config
        present = torch.sigmoid(logits)
        clipped = (present - config.clip).clamp(min=_TINY)
        # Where a probability rounds to 1 in float32, log(1 - p) has no gradient any more; logsigmoid(-x) still has.
        log_absent = F.logsigmoid(-logits) if config.clip == 0 else torch.log1p(-clipped)
        losses = targets * (1 - present).clamp(min=_TINY) ** config.gamma_positive * F.logsigmoid(logits)
        return -losses - (1 - targets) * clipped**config.gamma_negative * log_absent


def class_balanced_weights(counts: Sequence[int], beta: float) -> Tensor:
    """Weight of each genre by its effective number of posters, (1 - beta^n) / (1 - beta) (Cui et al., 2019).

    Args:
        counts: Number of posters with each genre, `[G]`; a genre without posters weighs as one with one.
        beta: 0 gives every genre weight 1; towards 1 weights go towards inverse frequency.

    Returns:
        float32 `[G]`, with mean 1.
    """
    number = torch.tensor(counts, dtype=torch.float64).clamp(min=1)
    weights = (1 - beta) / (1 - beta**number)
    return (weights / weights.mean()).float()
