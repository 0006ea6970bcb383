"""`onesheet pretrain`: weights for a backbone from posters alone, before it hears of genres.

Barlow Twins (Zbontar et al., 2021): two different views of a poster shall give the same output, and no two outputs the
same information. On a few thousand posters that is worth .02 of mAP before a short run, and little before
a long one with teachers, see docs/starter.md.
"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import lightning as L
import torch
from lightning.pytorch.loggers import CSVLogger
from safetensors.torch import save_file
from torch import Tensor, nn

from onesheet.data.augmentation import augment
from onesheet.data.datamodule import PosterDataModule
from onesheet.errors import ConfigError
from onesheet.image import PreprocessSpec
from onesheet.training.checkpoint import PRETRAINING, read_pretraining
from onesheet.training.launch import processes, under_torchrun
from onesheet.training.network import PosterNet
from onesheet.training.optimizers import build_optimizer
from onesheet.training.pretrained import require_pretrained
from onesheet.training.run import (
    check_same_run,
    checkpoint_to_resume,
    explaining_interruption,
    recorded,
    training_manifest,
)
from onesheet.training.seeding import seed_step
from onesheet.training.tracking import METRICS_FOLDER
from onesheet.training.trainer import build_trainer, without_chatter

if TYPE_CHECKING:
    from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig

    from onesheet.data.dataset import OnPoster
    from onesheet.training.config import TrainConfig

BACKBONE_FILE: Final = "backbone.safetensors"

_PROJECTION: Final = 1024
# Weight of "no two outputs the same information"; the paper's.
_REDUNDANCY: Final = 0.005


def pretrain(config: TrainConfig, on_poster: OnPoster | None = None) -> Path:
    """Train a backbone on the training posters without their genres.

    Args:
        config: Of the run. Its loss, loggers, mixup, growing pictures and early stopping play no part: there are no
            genres, and the series go to a CSV file in its folder.
        on_poster: Called with (done, total) while posters are read.

    Returns:
        The weights, for `model.pretrained=true model.weights=FILE`.

    Raises:
        DataError: There is no manifest.
        TrainingError: Pretrained weights are out of reach, the run's folder is in use, there is nothing to resume, or
            the run to resume was another one.
        CheckpointError: The checkpoint to resume from is damaged, or one of `onesheet train`.
        ConfigError: More than one process, a model that timm does not know, or a value that Lightning refuses.
    """
    if processes(config) > 1 or under_torchrun():
        raise ConfigError("trainer.devices: pre-training compares the posters of a batch, and runs in one process")
    run_dir = Path(config.run_dir)
    checkpoint = checkpoint_to_resume(config)
    manifest = training_manifest(config)
    if checkpoint is not None:
        check_same_run(read_pretraining(checkpoint), config, manifest)
    elif config.model.pretrained:
        require_pretrained(config.model)
    L.seed_everything(config.seed, workers=True, verbose=False)
    network = PosterNet(config.model, len(manifest.genres), pretrained=config.model.pretrained and not config.resume)
    module = TwinsModule(network, config, manifest.fingerprint)
    spec = PreprocessSpec(config.model.height, config.model.width)
    posters = PosterDataModule(manifest, config.data, spec, seed=config.seed, on_poster=on_poster)
    with recorded(config, manifest), without_chatter(), explaining_interruption(run_dir):
        trainer = build_trainer(config, [CSVLogger(run_dir, name=METRICS_FOLDER)])
        trainer.fit(module, posters, ckpt_path=checkpoint)
    weights = {name: tensor.contiguous() for name, tensor in module.network.backbone.state_dict().items()}
    save_file(weights, run_dir / BACKBONE_FILE, {"backbone": config.model.backbone, "data": manifest.fingerprint})
    return run_dir / BACKBONE_FILE


class TwinsModule(L.LightningModule):
    """Shows a network two views of each poster.

    Args:
        network: Its backbone is trained; its head is not.
        config: Of the run; `augment` makes the views.
        fingerprint: Of the manifest.
    """

    def __init__(self, network: PosterNet, config: TrainConfig, fingerprint: str) -> None:
        super().__init__()
        self.network = network
        self.config = config
        self.fingerprint = fingerprint
        self.projector = nn.Sequential(
            nn.Linear(network.head.in_features, _PROJECTION, bias=False),
            nn.BatchNorm1d(_PROJECTION),
            nn.ReLU(),
            nn.Linear(_PROJECTION, _PROJECTION, bias=False),
        )
        self.network.run_as(config.trainer)

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:  # noqa: ARG002  Lightning's signature
        """Make the views a function of seed, epoch and step."""
        seed_step(self.config.seed, self.global_rank, self.current_epoch, batch_idx)

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:  # noqa: ARG002
        """Loss of two views of the posters."""
        loss = self._loss(batch[0])
        self.log("train/loss", loss, on_step=True, on_epoch=True, prog_bar=True, batch_size=len(batch[0]))
        return loss

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        """The same on posters that are not trained on, always with the same views."""
        seed_step(self.config.seed, self.global_rank, 0, batch_idx)
        self.log("val/loss", self._loss(batch[0]), prog_bar=True, batch_size=len(batch[0]))

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        """Backbone and projection alike."""
        parts = [(self.network.backbone, 1.0), (self.projector, 1.0)]
        return build_optimizer(parts, self.config.optimizer, int(self.trainer.estimated_stepping_batches))

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Say what it is, no model of genres, and which run may go on with it."""
        checkpoint[PRETRAINING] = {"fingerprint": self.fingerprint, "model": asdict(self.config.model)}

    def _loss(self, images: Tensor) -> Tensor:
        one, other = (self.projector(self.network.backbone(self._view(images))) for _ in range(2))
        return barlow_twins(one.float(), other.float())

    def _view(self, images: Tensor) -> Tensor:
        config = self.config
        # In bfloat16 the positions and colours would come out in 256 steps.
        with torch.no_grad(), torch.autocast(images.device.type, enabled=False):
            pixels = augment(images, config.augment, config.model.height, config.model.width)
            inputs = self.network.standardise(pixels)
        return inputs.contiguous(memory_format=torch.channels_last) if config.trainer.channels_last else inputs


def barlow_twins(one: Tensor, other: Tensor) -> Tensor:
    """How far the cross-correlation of two views' outputs is from the identity (Zbontar et al., 2021).

    Args:
        one: float `[N, D]`.
        other: float `[N, D]`, of the same posters.
    """
    one, other = ((part - part.mean(0)) / (part.std(0) + 1e-5) for part in (one, other))
    correlation = one.T @ other / len(one)
    same = torch.diagonal(correlation)
    return ((same - 1) ** 2).sum() + _REDUNDANCY * ((correlation**2).sum() - (same**2).sum())
