"""`onesheet train`: a configuration to a folder with checkpoints, metrics and a record."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from onesheet.data.manifest import MANIFEST_FILE, Manifest, read_manifest
from onesheet.errors import TrainingError
from onesheet.image import PreprocessSpec
from onesheet.training.compose import to_yaml
from onesheet.training.config import TrainConfig
from onesheet.training.launch import launch, processes, rank, under_torchrun
from onesheet.training.pretrained import require_pretrained
from onesheet.training.record import (
    BEST,
    CONFIG_FILE,
    LAST,
    RunRecord,
    git_commit,
    new_record,
    now,
    read_record,
    write_record,
)
from onesheet.training.requirements import check_trainable

if TYPE_CHECKING:
    from lightning.pytorch.callbacks import Callback
    from lightning.pytorch.loggers import Logger

    from onesheet.data.datamodule import PosterDataModule
    from onesheet.training.checkpoint import Begun
    from onesheet.training.module import GenreModule

OnPoster = Callable[[int, int], None]


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


def train(
    config: TrainConfig, *, callbacks: Sequence[Callback] = (), on_poster: OnPoster | None = None
) -> TrainingResult:
    """Train a model, in as many processes as the configuration asks for.

    Args:
        config: Of the run.
        callbacks: Further ones for the trainer; for a run in one process.
        on_poster: Called with (done, total) while posters are read; for a run in one process.

    Raises:
        DataError: There is no manifest.
        TrainingError: There are too few posters, pretrained weights are out of reach, the run's folder is in use, the
            run to resume was another one, or a process failed.
        CheckpointError: The checkpoint to resume from, or a teacher, is damaged.
        ConfigError: timm does not know the model, or Lightning refuses a value.
    """
    manifest = training_manifest(config)
    checkpoint = checkpoint_to_resume(config)
    if checkpoint is not None:
        from onesheet.training.checkpoint import load_checkpoint

        check_same_run(load_checkpoint(checkpoint).begun, config, manifest)
    elif config.model.pretrained:
        require_pretrained(config.model)
    if processes(config) > 1 or under_torchrun():
        with explaining_interruption(Path(config.run_dir)):
            return launch(train_here, config)
    return train_here(config, callbacks=callbacks, on_poster=on_poster)


def repeat_differences(run_dir: Path, config: TrainConfig) -> list[str]:
    """What is not as it was when a run was made that is to be repeated, one sentence each.

    Raises:
        TrainingError: The folder holds no record of a run.
        DataError: There is no manifest.
    """
    return read_record(run_dir).differences(new_record(config.seed, training_manifest(config).fingerprint))


def train_here(
    config: TrainConfig, *, callbacks: Sequence[Callback] = (), on_poster: OnPoster | None = None
) -> TrainingResult:
    """The part of `train` that runs in each process."""
    import lightning as L

    from onesheet.training.tracking import close_loggers, log_outcome, open_loggers
    from onesheet.training.trainer import build_trainer, genre_callbacks, without_chatter

    L.seed_everything(config.seed, workers=True, verbose=False)
    run_dir = Path(config.run_dir)
    manifest = training_manifest(config)
    check_trainable(manifest)
    module, posters = _module_and_posters(config, manifest, on_poster)
    loggers: list[Logger] = []
    try:
        with recorded(config, manifest) as record, without_chatter(), explaining_interruption(run_dir):
            if rank() == 0:  # the first process writes for all
                loggers += open_loggers(config, record)
                write_record(record, run_dir)  # now, so that a killed run finds its way back to its series
            trainer = build_trainer(config, loggers, [*genre_callbacks(config), *callbacks])
            with _profiled(config):
                trainer.fit(module, posters, ckpt_path=run_dir / LAST if config.resume else None)
            record.best = _best_metrics(run_dir / BEST)
        log_outcome(loggers, config, record, run_dir / BEST)
    finally:
        close_loggers(loggers)
    return TrainingResult(run_dir / BEST, run_dir / LAST, record.best.get("val/map_macro", 0.0))


def training_manifest(config: TrainConfig) -> Manifest:
    """The films that a run is about.

    Raises:
        DataError: There is no manifest.
    """
    return read_manifest(Path(config.data.processed) / MANIFEST_FILE, Path(config.data.raw))


def checkpoint_to_resume(config: TrainConfig) -> Path | None:
    """The checkpoint that a run goes on from, if it shall.

    Raises:
        TrainingError: There is none, or the folder is in use.
    """
    run_dir, last = Path(config.run_dir), Path(config.run_dir, LAST)
    if config.resume and not last.is_file():
        raise TrainingError(f"nothing to resume: {last} is not there")
    if not config.resume and last.exists():
        raise TrainingError(f"{run_dir} holds a run: go on with resume=true, or name another run_dir")
    return last if config.resume else None


def check_same_run(begun: Begun, config: TrainConfig, manifest: Manifest) -> None:
    """A run goes on with its own network and its own split, or posters that it trained on would validate it.

    Raises:
        TrainingError: They are others, or the run has all its epochs.
    """
    if begun.fingerprint != manifest.fingerprint:
        raise TrainingError("the manifest has changed since this run began: name another run_dir")
    # Where the first weights came from does not matter any more.
    if replace(begun.model, pretrained=False, weights=None) != replace(config.model, pretrained=False, weights=None):
        raise TrainingError("the model is not the one that this run began with: name another run_dir")
    if begun.epoch >= config.trainer.epochs:
        raise TrainingError(f"this run has its {begun.epoch} epochs: raise trainer.epochs to go on")


def _module_and_posters(
    config: TrainConfig, manifest: Manifest, on_poster: OnPoster | None
) -> tuple[GenreModule, PosterDataModule]:
    from onesheet.data.datamodule import PosterDataModule, limited
    from onesheet.training.distillation import taught_targets
    from onesheet.training.module import GenreModule
    from onesheet.training.network import PosterNet

    films = limited(manifest.split("train"), config.data.limit)
    counts = films.targets().sum(axis=0)
    pretrained = config.model.pretrained and not config.resume
    network = PosterNet(config.model, len(manifest.genres), pretrained=pretrained)
    network.start_from(counts / max(1, len(films.entries)))
    provenance = _provenance(config, manifest)
    module = GenreModule(network, config, provenance, posters=len(films.entries), counts=counts.tolist())
    taught = taught_targets(films, config.loss, manifest.fingerprint, on_poster) if config.loss.teachers else None
    spec = PreprocessSpec(config.model.height, config.model.width)
    posters = PosterDataModule(
        manifest, config.data, spec, seed=config.seed, targets=taught, on_poster=on_poster if rank() == 0 else None
    )
    return module, posters


@contextlib.contextmanager
def recorded(config: TrainConfig, manifest: Manifest) -> Iterator[RunRecord]:
    """Keep the record of a run in its folder, however it ends."""
    run_dir = Path(config.run_dir)
    if rank() != 0:
        yield new_record(config.seed, manifest.fingerprint)
        return
    record = read_record(run_dir) if config.resume else new_record(config.seed, manifest.fingerprint)
    record.status = "running"
    run_dir.mkdir(parents=True, exist_ok=True)
    (run_dir / CONFIG_FILE).write_text(to_yaml(config))
    write_record(record, run_dir)
    began = time.monotonic()
    try:
        yield record
        record.status = "finished"
    except BaseException:
        record.status = "stopped"
        raise
    finally:
        record.finished = now()
        record.seconds = round(record.seconds + time.monotonic() - began, 1)
        write_record(record, run_dir)


def _profiled(config: TrainConfig) -> contextlib.AbstractContextManager[None]:
    from onesheet.training.profiling import cprofiled

    return cprofiled(Path(config.run_dir)) if config.trainer.profiler == "cprofile" else contextlib.nullcontext()


@contextlib.contextmanager
def explaining_interruption(run_dir: Path) -> Iterator[None]:
    """Say after Ctrl-C how the run goes on."""
    try:
        yield
    except SystemExit as error:  # how Lightning and the launcher end after Ctrl-C
        way_on = f"go on with: resume=true run_dir={run_dir}" if (run_dir / LAST).exists() else "nothing was kept"
        raise TrainingError(f"interrupted; {way_on}") from error


def _best_metrics(checkpoint: Path) -> dict[str, Any]:
    """Epoch and metrics that the best checkpoint was kept for."""
    import torch

    content = torch.load(checkpoint, map_location="cpu", weights_only=True)
    return {"epoch": int(content["epoch"]) + 1, **content["metrics"]}


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
        "git_commit": git_commit(),
    }
