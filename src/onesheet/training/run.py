"""`onesheet train`: a configuration to a folder with checkpoints and metrics."""

from __future__ import annotations

import contextlib
import logging
import subprocess
import warnings
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from onesheet.data.manifest import MANIFEST_FILE, Manifest, read_manifest
from onesheet.errors import ConfigError, TrainingError
from onesheet.image import PreprocessSpec
from onesheet.training.config import TrainConfig, to_yaml
from onesheet.training.pretrained import require_pretrained

if TYPE_CHECKING:
    import lightning as L

BEST = "best.ckpt"
LAST = "last.ckpt"
CONFIG_FILE = "config.yaml"

_EXPECTED_WARNINGS = (
    r".*does not have many workers",
    r"The number of training batches .* is smaller than the logging interval",
    r"Checkpoint directory .* exists and is not empty",
    r".*treespec",
)


@dataclass(frozen=True, slots=True)
class TrainingResult:
    """Where a run has left its work.

    Attributes:
        best: Checkpoint with the highest validation mAP.
        last: Checkpoint to resume from.
        map_macro: The best validation mAP (macro).
    """

    best: Path
    last: Path
    map_macro: float


def train(config: TrainConfig) -> TrainingResult:
    """Train a model.

    Raises:
        DataError: There is no manifest.
        TrainingError: Pretrained weights are out of reach, the run's folder is in use, or the run to resume was
            another one.
        CheckpointError: The checkpoint to resume from is damaged.
        ConfigError: timm does not know the model.
    """
    run_dir = Path(config.run_dir)
    checkpoint = _checkpoint_to_resume(run_dir, resume=config.resume)
    pretrained = config.model.pretrained and checkpoint is None
    manifest = read_manifest(Path(config.data.processed) / MANIFEST_FILE, Path(config.data.raw))
    if pretrained:
        require_pretrained(config.model)

    import lightning as L

    from onesheet.data.datamodule import PosterDataModule
    from onesheet.training.module import GenreModule
    from onesheet.training.network import PosterNet

    L.seed_everything(config.seed, workers=True, verbose=False)
    provenance = _provenance(config, manifest)
    if checkpoint is not None:
        _check_same_run(checkpoint, config, provenance)
    network = PosterNet(config.model, len(manifest.genres), pretrained=pretrained)
    module = GenreModule(network, config, provenance)
    spec = PreprocessSpec(config.model.height, config.model.width)
    posters = PosterDataModule(manifest, config.data, config.augment, spec)
    trainer = _trainer(config, run_dir)
    run_dir.mkdir(parents=True, exist_ok=True)
    (run_dir / CONFIG_FILE).write_text(to_yaml(config))
    try:
        with _without_lightning_chatter():
            trainer.fit(module, posters, ckpt_path=checkpoint)
    except SystemExit as error:  # how Lightning ends after Ctrl-C
        way_on = f"go on with: resume=true run_dir={run_dir}" if (run_dir / LAST).exists() else "nothing was kept"
        raise TrainingError(f"interrupted; {way_on}") from error
    return TrainingResult(run_dir / BEST, run_dir / LAST, _best_score(trainer))


def _checkpoint_to_resume(run_dir: Path, *, resume: bool) -> Path | None:
    last = run_dir / LAST
    if resume and not last.is_file():
        raise TrainingError(f"nothing to resume: {last} is not there")
    if not resume and last.exists():
        raise TrainingError(f"{run_dir} holds a run: go on with resume=true, or name another run_dir")
    return last if resume else None


def _check_same_run(checkpoint: Path, config: TrainConfig, provenance: dict[str, Any]) -> None:
    """A run goes on with its own network and its own split, or posters that it trained on would validate it."""
    from onesheet.training.checkpoint import load_checkpoint

    begun = load_checkpoint(checkpoint)
    if begun.provenance["fingerprint"] != provenance["fingerprint"]:
        raise TrainingError("the manifest has changed since this run began: name another run_dir")
    # Where the first weights came from does not matter any more.
    if replace(begun.model, pretrained=False, weights=None) != replace(config.model, pretrained=False, weights=None):
        raise TrainingError("the model is not the one that this run began with: name another run_dir")
    if begun.epoch >= config.trainer.epochs:
        raise TrainingError(f"this run has its {begun.epoch} epochs: raise trainer.epochs to go on")


def _trainer(config: TrainConfig, run_dir: Path) -> L.Trainer:
    import lightning as L
    from lightning.fabric.utilities.exceptions import MisconfigurationException
    from lightning.pytorch.callbacks import Callback, EMAWeightAveraging, ModelCheckpoint, RichProgressBar
    from lightning.pytorch.loggers import CSVLogger

    best = ModelCheckpoint(run_dir, Path(BEST).stem, monitor="val/map_macro", mode="max", enable_version_counter=False)
    # Of its own: `save_last` would keep it at the best epoch until there is a better one.
    last = ModelCheckpoint(run_dir, Path(LAST).stem, enable_version_counter=False)
    callbacks: list[Callback] = [best, last, RichProgressBar()]
    if config.trainer.ema_decay > 0:
        callbacks.append(EMAWeightAveraging(decay=config.trainer.ema_decay))
    with _without_lightning_chatter():
        try:
            return L.Trainer(
                max_epochs=config.trainer.epochs,
                precision=cast("Any", config.trainer.precision),  # checked by Lightning
                accelerator=config.trainer.accelerator,
                gradient_clip_val=config.trainer.gradient_clip or None,
                log_every_n_steps=config.trainer.log_every,
                callbacks=callbacks,
                logger=CSVLogger(run_dir, name="metrics"),
                default_root_dir=run_dir,
                enable_model_summary=False,
                num_sanity_val_steps=0,
            )
        except (ValueError, MisconfigurationException) as error:
            raise ConfigError(f"trainer: {str(error).splitlines()[0]}") from error


@contextlib.contextmanager
def _without_lightning_chatter() -> Iterator[None]:
    """Hide advertisements, and warnings about what is meant: few workers, a used folder, Lightning's own insides."""
    logger = logging.getLogger("lightning.pytorch")
    level = logger.level
    logger.setLevel(logging.WARNING)
    try:
        with warnings.catch_warnings():
            for message in _EXPECTED_WARNINGS:
                warnings.filterwarnings("ignore", message)
            yield
    finally:
        logger.setLevel(level)


def _provenance(config: TrainConfig, manifest: Manifest) -> dict[str, Any]:
    """What export needs to know, in plain values: a checkpoint is loaded without unpickling."""
    train = manifest.split("train")
    return {
        "name": config.name,
        "model": asdict(config.model),
        "data": {"raw": config.data.raw, "processed": config.data.processed},
        "genres": list(manifest.genres),
        "fingerprint": manifest.fingerprint,
        "split_seed": manifest.seed,
        "genre_counts": dict(zip(manifest.genres, train.targets().sum(axis=0).tolist(), strict=True)),
        "git_commit": _git_commit(),
    }


def _git_commit() -> str | None:
    """Commit of the working folder; None outside a repository."""
    try:
        done = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=True, timeout=10)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


def _best_score(trainer: L.Trainer) -> float:
    return float(getattr(trainer.checkpoint_callback, "best_model_score", 0.0))
