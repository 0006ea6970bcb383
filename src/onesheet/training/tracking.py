"""Where a run is written down: MLflow on a local store, Weights & Biases, TensorBoard, CSV; any of them together."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from PIL import Image

from onesheet.errors import ConfigError, TrainingError, reason
from onesheet.mlflow_artifacts import as_address, database_file, settle_artifacts
from onesheet.mlflow_store import open_mlflow_store

if TYPE_CHECKING:
    from lightning.pytorch.loggers import Logger
    from matplotlib.figure import Figure

    from onesheet.training.config import MlflowConfig, TrainConfig, WandbConfig
    from onesheet.training.record import RunRecord

METRICS_FOLDER: Final = "metrics"
# Beside MLflow's database, if that is a file.
_ARTIFACTS: Final = "mlartifacts"


def open_loggers(config: TrainConfig, record: RunRecord) -> list[Logger]:
    """Open every store that the configuration names, and note in the record what each calls the run.

    Raises:
        ConfigError: Weights & Biases is asked for without an account.
        TrainingError: A store is out of reach.
    """
    from lightning.pytorch.loggers import CSVLogger, MLFlowLogger, TensorBoardLogger

    run_dir = Path(config.run_dir)
    loggers: list[Logger] = []
    begun = "mlflow" in record.loggers
    if config.logger.csv:
        loggers.append(CSVLogger(run_dir, name=METRICS_FOLDER))
    if config.logger.tensorboard:
        loggers.append(TensorBoardLogger(run_dir, name="tensorboard", default_hp_metric=False))
    if config.logger.mlflow is not None:
        loggers.append(_open_mlflow(config, config.logger.mlflow, record))
    if config.logger.wandb is not None:
        loggers.append(_open_wandb(config, config.logger.wandb, record))
    for logger in loggers:
        # MLflow holds a run to the parameters that it began with.
        if not (begun and isinstance(logger, MLFlowLogger)):
            logger.log_hyperparams(asdict(config))
    return loggers


def log_picture(loggers: Sequence[Logger], name: str, figure: Figure, step: int) -> None:
    """Show a figure in every store that can show one.

    Args:
        loggers: Of the trainer.
        name: Such as `val/curves`.
        figure: The picture.
        step: Of the optimizer.
    """
    from lightning.pytorch.loggers import MLFlowLogger, TensorBoardLogger, WandbLogger

    for logger in loggers:
        if isinstance(logger, MLFlowLogger):
            logger.experiment.log_figure(logger.run_id, figure, f"{name}/{step:06d}.png")
        elif isinstance(logger, TensorBoardLogger):
            logger.experiment.add_figure(name, figure, step, close=False)
        elif isinstance(logger, WandbLogger):
            logger.log_image(name, [_as_image(figure)])


def log_outcome(loggers: Sequence[Logger], config: TrainConfig, record: RunRecord, best: Path) -> None:
    """Close the books: the record, and for Weights & Biases the best checkpoint as an artifact with its metadata."""
    from lightning.pytorch.loggers import MLFlowLogger, WandbLogger

    for logger in loggers:
        if isinstance(logger, MLFlowLogger):
            logger.experiment.log_dict(logger.run_id, asdict(record), "run.json")
            for name, value in record.best.items():
                logger.experiment.log_metric(logger.run_id, f"best/{name.removeprefix('val/')}", value)
            logger.experiment.log_metric(logger.run_id, "seconds", record.seconds)
        elif isinstance(logger, WandbLogger):
            logger.experiment.summary.update(
                {f"best/{name.removeprefix('val/')}": v for name, v in record.best.items()}
            )
            if config.logger.wandb is not None and config.logger.wandb.log_checkpoint:
                _log_checkpoint(logger.experiment, config, record, best)


def close_loggers(loggers: Sequence[Logger]) -> None:
    """Let go of runs that live in the process: Weights & Biases keeps one open until told."""
    from lightning.pytorch.loggers import WandbLogger

    for logger in loggers:
        if isinstance(logger, WandbLogger):
            logger.experiment.finish()


def _as_image(figure: Figure) -> Image.Image:
    encoded = io.BytesIO()
    figure.savefig(encoded, format="png", dpi=100)
    return Image.open(encoded)


def _open_mlflow(config: TrainConfig, mlflow: MlflowConfig, record: RunRecord) -> Logger:
    uri = open_mlflow_store(mlflow.uri)
    from lightning.pytorch.loggers import MLFlowLogger
    from mlflow.exceptions import MlflowException

    database, artifacts = database_file(mlflow.uri), mlflow.artifacts
    if database:
        artifacts = as_address(artifacts or str(database.parent / _ARTIFACTS))
        settle_artifacts(database, mlflow.experiment, artifacts)
    tags = {"run_dir": config.run_dir, "fingerprint": record.fingerprint, "git_commit": record.git_commit or "unknown"}
    logger = MLFlowLogger(
        mlflow.experiment,
        config.name,
        uri,
        tags=tags,
        artifact_location=artifacts,
        run_id=record.loggers.get("mlflow"),
    )
    try:
        run_id = logger.run_id
    except MlflowException as error:
        raise TrainingError(f"MLflow at {mlflow.uri} cannot be used: {reason(error)}") from error
    record.loggers["mlflow"] = str(run_id)
    return logger


def _open_wandb(config: TrainConfig, settings: WandbConfig, record: RunRecord) -> Logger:
    import wandb
    from lightning.pytorch.loggers import WandbLogger

    Path(config.run_dir).mkdir(parents=True, exist_ok=True)
    logger = WandbLogger(
        config.name,
        save_dir=config.run_dir,
        project=settings.project,
        entity=settings.entity,
        mode="offline" if settings.offline else None,
        id=record.loggers.get("wandb"),
        log_model=False,  # ours below carries the run's metadata
        settings=wandb.Settings(silent=True),
    )
    try:
        record.loggers["wandb"] = str(logger.experiment.id)
    except wandb.errors.UsageError as error:
        raise ConfigError("logger=wandb needs an account: `wandb login`, or say logger.wandb.offline=true") from error
    except wandb.errors.CommError as error:
        raise TrainingError(f"Weights & Biases cannot be used: {reason(error)}") from error
    logger.experiment.define_metric("val/map_macro", summary="max")
    return logger


def _log_checkpoint(run: Any, config: TrainConfig, record: RunRecord, best: Path) -> None:
    import wandb

    metadata = {**asdict(record), "config": asdict(config)}
    artifact = wandb.Artifact(f"{config.name}-checkpoint", "model", metadata=metadata)
    artifact.add_file(str(best), best.name)
    run.log_artifact(artifact, aliases=["best"])
