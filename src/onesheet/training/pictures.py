"""Pictures of a run, for what numbers cannot show: augmented posters, curves, calibration, gradients."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import torch
from lightning.pytorch.callbacks import Callback
from matplotlib.figure import Figure

from onesheet.evaluation.figures import THEMES, overview, reliability
from onesheet.evaluation.metrics import expected_calibration_error, reliability_bins
from onesheet.training.tracking import log_picture

if TYPE_CHECKING:
    import lightning as L
    from torch import Tensor, nn

    from onesheet.training.config import LoggerConfig
    from onesheet.training.module import GenreModule

PICTURES_FOLDER: Final = "pictures"
_GRID: Final = (3, 8)
_LABELS_SHOWN: Final = 3


class Pictures(Callback):
    """Draws into the run's folder and into every store that shows pictures.

    Args:
        config: How often.
        run_dir: Pictures go to its folder `pictures`.
    """

    def __init__(self, config: LoggerConfig, run_dir: Path) -> None:
        self._config = config
        self._folder = run_dir / PICTURES_FOLDER

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Draw the first batch as the network will see it."""
        first = trainer.global_step == 0 and batch_idx == 0
        if self._config.pictures_every and first and trainer.is_global_zero:
            module: GenreModule = pl_module  # type: ignore[assignment]  # the only module we train
            # The picture must not move the random numbers of training.
            with torch.random.fork_rng():
                inputs, targets = module.prepare(*batch)
            pixels = (inputs * module.network.std + module.network.mean).clamp(0, 1)
            self._show(trainer, "train/batch", _batch_figure(pixels, targets, module.provenance["genres"]))

    def on_before_optimizer_step(self, trainer: L.Trainer, pl_module: L.LightningModule, *_: Any) -> None:
        """Draw the gradients, every so many steps."""
        every = self._config.gradients_every
        if every and trainer.global_step % every == 0 and trainer.is_global_zero:
            self._show(trainer, "train/gradients", _gradient_figure(pl_module))

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Draw precision-recall, ROC and reliability of the validation posters, every so many epochs."""
        every, epoch = self._config.pictures_every, trainer.current_epoch + 1
        if every and (epoch % every == 0 or epoch == trainer.max_epochs):
            self._show_validation(trainer, pl_module)

    def _show_validation(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        module: GenreModule = pl_module  # type: ignore[assignment]
        if not trainer.is_global_zero or module.validation is None:
            return
        probabilities, truth = module.validation
        theme = THEMES["light"]
        bins, ece = reliability_bins(probabilities, truth), expected_calibration_error(probabilities, truth)
        self._show(trainer, "val/curves", overview(probabilities, truth, theme))
        self._show(trainer, "val/reliability", reliability(bins, ece, theme))

    def _show(self, trainer: L.Trainer, name: str, figure: Figure) -> None:
        file = self._folder / name / f"{trainer.global_step:06d}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(file, dpi=80)
        log_picture(trainer.loggers, name, figure, trainer.global_step)


def _batch_figure(pixels: Tensor, targets: Tensor, genres: list[str]) -> Figure:
    """Posters `[N, 3, H, W]`, 0-1, with their (mixed) genres `[N, G]`."""
    rows, columns = _GRID
    figure = Figure(figsize=(1.5 * columns, 2.6 * rows), layout="constrained")
    axes = figure.subplots(rows, columns).ravel()
    for axis in axes:
        axis.set_axis_off()
    for axis, image, target in zip(axes, pixels.float().cpu(), targets.cpu(), strict=False):
        axis.imshow(image.permute(1, 2, 0).numpy())
        strongest = target.argsort(descending=True)[:_LABELS_SHOWN].tolist()
        shown = [f"{genres[genre]} {target[genre]:.2g}" for genre in strongest if target[genre] > 0]
        axis.set_title("\n".join(shown), fontsize=7)
    return figure


def _gradient_figure(module: nn.Module) -> Figure:
    """Histograms of log10 |gradient| of the parts of the network, from the input to the head."""
    parts: dict[str, list[Tensor]] = {}
    for name, parameter in module.named_parameters():
        if parameter.grad is not None:
            part = ".".join(name.removeprefix("network.").split(".")[:2])
            parts.setdefault(part, []).append(parameter.grad.detach().abs().flatten().float().cpu())
    figure = Figure(figsize=(7, 0.5 + 0.9 * len(parts)), layout="constrained")
    axes = figure.subplots(len(parts), 1, sharex=True, squeeze=False).ravel()
    for axis, (part, gradients) in zip(axes, parts.items(), strict=True):
        values = torch.cat(gradients).numpy()
        axis.hist(np.log10(values[values > 0]), bins=80, color="tab:blue")
        axis.set_ylabel(part, rotation=0, ha="right", fontsize=7)
        axis.set_yticks([])
    axes[-1].set_xlabel("log10 of the gradient's size")
    return figure
