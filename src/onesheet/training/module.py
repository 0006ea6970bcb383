"""The Lightning module: loss, mixup, optimizer and schedule, validation."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import lightning as L
import numpy as np
import torch
from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from onesheet.evaluation.metrics import mean_average_precision, multilabel_metrics

if TYPE_CHECKING:
    from onesheet.training.config import TrainConfig
    from onesheet.training.network import PosterNet

# Validation decides at one plain threshold; the bundle's own thresholds are chosen at export.
_VALIDATION_THRESHOLD = 0.3


class GenreModule(L.LightningModule):
    """Trains a network that maps uint8 `[N, H, W, 3]` to `(logits [N, G], embedding [N, D])`.

    Args:
        network: To train.
        config: Of the run.
        provenance: What the checkpoint has to know for export; plain values only.
    """

    def __init__(self, network: PosterNet, config: TrainConfig, provenance: dict[str, Any]) -> None:
        super().__init__()
        self.network = network
        self.config = config
        self.provenance = provenance
        self._validation: list[tuple[Tensor, Tensor]] = []
        if config.trainer.channels_last:
            self.network.to(memory_format=torch.channels_last)

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:  # noqa: ARG002
        """Binary cross-entropy on posters that are mixed pairwise (mixup, Zhang et al., 2018)."""
        images, targets = batch
        inputs = self.network.normalise(images)
        if self.config.augment.mixup > 0:
            inputs, targets = self._mix(inputs, targets)
        if self.config.trainer.channels_last:
            inputs = inputs.contiguous(memory_format=torch.channels_last)
        logits, _ = self.network.classify(inputs)
        loss = binary_cross_entropy_with_logits(logits.float(), targets)
        self.log("train/loss", loss, on_step=True, on_epoch=True, prog_bar=True, batch_size=len(images))
        return loss

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:  # noqa: ARG002
        """Collect logits; metrics need the whole split."""
        images, targets = batch
        logits, _ = self.network(images)
        self._validation.append((logits.float().cpu(), targets.cpu()))

    def on_validation_epoch_end(self) -> None:
        """Log loss and metrics of the whole validation split."""
        logits = torch.cat([logits for logits, _ in self._validation])
        targets = torch.cat([targets for _, targets in self._validation])
        self._validation.clear()
        probabilities, truth = torch.sigmoid(logits).numpy(), targets.numpy().astype(bool)
        genres = self.provenance["genres"]
        metrics = multilabel_metrics(probabilities, truth, probabilities >= _VALIDATION_THRESHOLD, genres)
        self.log("val/loss", binary_cross_entropy_with_logits(logits, targets))
        self.log("val/map_macro", mean_average_precision(probabilities, truth) or 0.0, prog_bar=True)
        for name in ("f1_macro", "f1_micro", "ece"):
            self.log(f"val/{name}", metrics[name], prog_bar=name == "f1_macro")

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        """AdamW; linear warm-up, then a cosine down to nothing, step by step."""
        config = self.config.optimizer
        decayed = [parameter for parameter in self.parameters() if parameter.ndim > 1]
        others = [parameter for parameter in self.parameters() if parameter.ndim <= 1]
        optimizer = torch.optim.AdamW(
            [
                {"params": decayed, "weight_decay": config.weight_decay},
                {"params": others, "weight_decay": 0.0},
            ],
            lr=config.lr,
        )
        steps = int(self.trainer.estimated_stepping_batches)
        schedule = torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda step: _warmup_cosine(step, steps, round(config.warmup * steps))
        )
        return OptimizerLRSchedulerConfig(optimizer=optimizer, lr_scheduler={"scheduler": schedule, "interval": "step"})

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Let the checkpoint describe itself."""
        checkpoint["provenance"] = self.provenance

    def _mix(self, inputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        alpha = torch.full((len(inputs),), self.config.augment.mixup)
        share = torch.distributions.Beta(alpha, alpha).sample().to(inputs.device)
        partner = torch.randperm(len(inputs), device=inputs.device)
        return (
            torch.lerp(inputs[partner], inputs, share.view(-1, 1, 1, 1)),
            torch.lerp(targets[partner], targets, share.view(-1, 1)),
        )


def _warmup_cosine(step: int, steps: int, warmup: int) -> float:
    """Factor of the learning rate at a step."""
    if step < warmup:
        return (step + 1) / warmup
    return float(0.5 * (1 + np.cos(np.pi * (step - warmup) / max(1, steps - warmup))))
