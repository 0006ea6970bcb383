"""The Lightning module: augmentation and loss, optimizer and schedule, validation."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

import lightning as L
import torch
from lightning.pytorch.utilities import grad_norm
from torch import Tensor, distributed
from torch.nn.functional import binary_cross_entropy_with_logits

from onesheet.data.augmentation import augment, mix, shrink
from onesheet.evaluation.metrics import mean_average_precision, multilabel_metrics
from onesheet.training.losses import GenreLoss
from onesheet.training.optimizers import build_optimizer
from onesheet.training.record import as_numbers
from onesheet.training.seeding import seed_step

if TYPE_CHECKING:
    import numpy as np
    from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig
    from numpy.typing import NDArray

    from onesheet.training.config import TrainConfig
    from onesheet.training.network import PosterNet

_VALIDATION_SERIES = ("f1_macro", "f1_micro", "f1_samples", "auroc_macro", "hamming_loss", "exact_match", "ece")

# Progressive resizing: share of the epochs after which pictures have their full size, and the steps that they grow by.
_GROWING: Final = 0.75
_SIZE_STEP: Final = 8


class GenreModule(L.LightningModule):
    """Trains a network that maps uint8 `[N, H, W, 3]` to `(logits [N, G], embedding [N, D])`.

    Whatever is random in a step depends on seed, epoch and step alone, so a resumed run goes on as if it had never
    been cut off.

    Args:
        network: To train.
        config: Of the run.
        provenance: What the checkpoint has to know for export; plain values only.
        counts: Number of training posters with each genre, `[G]`.
        posters: Number of training posters.

    Attributes:
        validation: Probabilities `[N, G]` and truth, bool `[N, G]`, of the last validation.
    """

    def __init__(
        self,
        network: PosterNet,
        config: TrainConfig,
        provenance: dict[str, Any],
        *,
        counts: Sequence[int],
        posters: int,
    ) -> None:
        super().__init__()
        self.network = network
        self.config = config
        self.provenance = provenance
        self.loss = GenreLoss(config.loss, counts, posters)
        self.validation: tuple[NDArray[np.float32], NDArray[np.bool_]] | None = None
        self._collected: list[tuple[Tensor, Tensor]] = []
        self._epoch_began, self._last_step, self._seen = 0.0, 0.0, 0
        self.network.run_as(config.trainer)

    def on_train_epoch_start(self) -> None:
        """Start the clock."""
        self._epoch_began, self._seen = time.perf_counter(), 0

    def on_train_epoch_end(self) -> None:
        """Log the speed, over all processes and without the validation, which has ended by now."""
        seconds = self._last_step - self._epoch_began
        self.log("train/images_per_second", self._seen * self.trainer.world_size / seconds, rank_zero_only=True)

    def on_train_batch_end(self, *_: Any) -> None:
        """Look at the clock."""
        self._last_step = time.perf_counter()

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:  # noqa: ARG002  Lightning's signature
        """Make dropout and augmentation a function of seed, process, epoch and step."""
        seed_step(self.config.seed, self.global_rank, self.current_epoch, batch_idx)

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:  # noqa: ARG002
        """Loss of augmented, mixed posters."""
        inputs, targets = self.prepare(*batch)
        logits, _ = self.network.classify(inputs)
        loss: Tensor = self.loss(logits.float(), targets)
        self.log("train/loss", loss, on_step=True, on_epoch=True, prog_bar=True, batch_size=len(inputs))
        self._seen += len(inputs)
        self.log("train/lr", self._learning_rate(), on_step=True)
        return loss

    def prepare(self, images: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Augmented, mixed and normalised: `(float [N, 3, H, W], float [N, G])`, without gradients."""
        config = self.config
        height, width = self._input_size()
        # In bfloat16 the positions and colours would come out in 256 steps.
        with torch.no_grad(), torch.autocast(images.device.type, enabled=False):
            images = shrink(images, config.model.height / height)
            pixels = augment(images, config.augment, height, width)
            inputs, targets = mix(self.network.standardise(pixels), targets, config.augment)
        if config.trainer.channels_last:
            inputs = inputs.contiguous(memory_format=torch.channels_last)
        return inputs, targets

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:  # noqa: ARG002
        """Log the norm of the gradients, before they are clipped."""
        if self.global_step % self.config.trainer.log_every == 0:
            self.log("train/grad_norm", grad_norm(self.network, norm_type=2)["grad_2.0_norm_total"])

    def on_validation_epoch_start(self) -> None:
        """Let all processes validate one network: each has seen other posters, so its running statistics differ."""
        if self.trainer.world_size > 1:
            for buffer in self.network.buffers():
                if buffer.is_floating_point():
                    distributed.all_reduce(buffer)
                    buffer /= self.trainer.world_size

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:  # noqa: ARG002
        """Collect logits; metrics need the whole split."""
        images, targets = batch
        logits, _ = self.network(images)
        self._collected.append((logits.float().cpu(), targets.cpu()))

    def on_validation_epoch_end(self) -> None:
        """Log loss and metrics of the whole validation split."""
        logits, targets = self._gather()
        probabilities, truth = torch.sigmoid(logits).numpy(), targets.numpy().astype(bool)
        self.validation = (probabilities, truth)
        genres = self.provenance["genres"]
        metrics = multilabel_metrics(probabilities, truth, probabilities >= self.config.trainer.threshold, genres)
        series = {"val/loss": binary_cross_entropy_with_logits(logits, targets).item()}
        series |= {f"val/{name}": metrics[name] for name in _VALIDATION_SERIES if metrics[name] is not None}
        for genre, figures in metrics["per_genre"].items():
            if figures["average_precision"] is not None:
                series[f"val/average_precision/{genre}"] = figures["average_precision"]
        # Every process has the same figures.
        self.log_dict(series, rank_zero_only=True)
        self.log("val/map_macro", mean_average_precision(probabilities, truth) or 0.0, prog_bar=True)

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        """The head at the full learning rate, the backbone at its share."""
        config = self.config.optimizer
        parts = [(self.network.head, 1.0), (self.network.backbone, config.backbone_lr_factor)]
        return build_optimizer(parts, config, int(self.trainer.estimated_stepping_batches))

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Let the checkpoint describe itself."""
        checkpoint["provenance"] = self.provenance
        checkpoint["metrics"] = as_numbers(self.trainer.callback_metrics)

    def _input_size(self) -> tuple[int, int]:
        """Height and width that this epoch trains at (progressive resizing, as in Tan and Le, 2021)."""
        model, trainer = self.config.model, self.config.trainer
        grown = min(1.0, self.current_epoch / max(1, round(_GROWING * trainer.epochs)))
        scale = trainer.start_scale + (1 - trainer.start_scale) * grown
        # Few different sizes: kernels are made anew for each.
        height, width = (
            max(_SIZE_STEP, round(scale * side / _SIZE_STEP) * _SIZE_STEP) for side in (model.height, model.width)
        )
        return (height, width) if scale < 1 else (model.height, model.width)

    def _learning_rate(self) -> float:
        optimizer = self.trainer.optimizers[0]
        return float(optimizer.param_groups[0]["lr"])

    def _gather(self) -> tuple[Tensor, Tensor]:
        """Logits and targets of all processes; their numbers of posters may differ."""
        collected = list(self._collected)
        self._collected.clear()
        if self.trainer.world_size > 1:
            gathered: list[Any] = [None] * self.trainer.world_size
            distributed.all_gather_object(gathered, collected)
            collected = [pair for part in gathered for pair in part]
        return torch.cat([logits for logits, _ in collected]), torch.cat([targets for _, targets in collected])
