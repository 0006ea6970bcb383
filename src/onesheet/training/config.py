"""Every knob of a training run, typed; the files of `configs/` set them, `training.compose` puts them together."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from omegaconf import MISSING


@dataclass
class DataConfig:
    """Which posters, and how they reach the network.

    Attributes:
        raw: Folder that `onesheet data fetch` filled.
        processed: Folder that `onesheet data prepare` filled.
        batch_size: Posters in a step, over all processes together.
        cache: Keep the decoded posters in memory; they are read once, by all cores.
        workers: Loader processes beside each training process. With the cache none is fastest.
        limit: Take only so many posters of each split; 0 takes all.
        shards: Folder or gs:// address that `onesheet data shard` filled: posters are streamed from there, with no
            cache and no limit. Empty: they are files below `raw`.
    """

    raw: str = "data/raw"
    processed: str = "data/processed"
    batch_size: int = 64
    cache: bool = True
    workers: int = 0
    limit: int = 0
    shards: str = ""


@dataclass
class ModelConfig:
    """The network.

    Attributes:
        backbone: Any timm model.
        pretrained: Start from timm's pretrained weights.
        weights: A local file of such weights, instead of a download.
        height: Rows of the input, in pixels.
        width: Columns of the input, in pixels.
        dropout: In front of the head.
        options: Further arguments of the timm model.
    """

    backbone: str = "resnet18"
    pretrained: bool = True
    weights: str | None = None
    height: int = 320
    width: int = 224
    dropout: float = 0.2
    options: dict[str, Any] = field(default_factory=dict)


@dataclass
class OptimizerConfig:
    """A linear warm-up and a cosine down to nothing.

    Attributes:
        name: `adamw`, or `muon`: orthogonal steps for convolutions and matrices (Jordan et al., 2024), AdamW for the
            rest. A step of Muon costs more and learns more; both take the same learning rates.
        lr: Peak learning rate of the head.
        backbone_lr_factor: The backbone learns at this share of it; below 1 spares pretrained weights.
        weight_decay: Of weights, not of biases and normalisation.
        warmup: Share of all steps.
    """

    name: str = "adamw"
    lr: float = 1e-3
    backbone_lr_factor: float = 1.0
    weight_decay: float = 0.05
    warmup: float = 0.1


@dataclass
class LossConfig:
    """What is minimised.

    Attributes:
        name: `bce`, `focal` (Lin et al., 2017) or `asymmetric` (Ridnik et al., 2021).
        gamma_positive: Focusing of the genres that a poster has; for focal and asymmetric.
        gamma_negative: Focusing of the genres that it has not; for focal the same as `gamma_positive`.
        clip: Probability below which an absent genre costs nothing; for asymmetric.
        balance: Weights genres by their effective number of posters (beta of Cui et al., 2019); 0 treats all alike.
        smoothing: How far the truth is moved towards the genres' frequencies.
        teachers: Checkpoints (`.ckpt`) or bundles whose averaged probabilities are learned beside the truth
            (distillation).
        teacher_weight: Share of the teachers in the target.
    """

    name: str = "bce"
    gamma_positive: float = 0.0
    gamma_negative: float = 0.0
    clip: float = 0.0
    balance: float = 0.0
    smoothing: float = 0.0
    teachers: list[str] = field(default_factory=list)
    teacher_weight: float = 0.5


@dataclass
class AugmentConfig:
    """What may happen to a training poster.

    Attributes:
        min_scale: Smallest share of the poster's area that a crop keeps; 1 switches crops off.
        flip: Probability of a horizontal flip.
        rotate: Largest rotation either way, in degrees.
        jitter: Strength of random brightness, contrast and saturation.
        greyscale: Probability that all colour is taken away.
        erase: Probability that a rectangle is blanked.
        mixup: Alpha of the Beta distribution that two posters are blended by; 0 switches it off.
        cutmix: Alpha of the Beta distribution that a window of another poster is sized by; 0 switches it off.
    """

    min_scale: float = 0.5
    flip: float = 0.5
    rotate: float = 0.0
    jitter: float = 0.2
    greyscale: float = 0.0
    erase: float = 0.2
    mixup: float = 0.2
    cutmix: float = 0.0


@dataclass
class TrainerConfig:
    """How long, how, and on what.

    Attributes:
        epochs: Passes over the training posters.
        start_scale: Share of the input's height and width that the first epochs train at; it grows to 1 over three
            quarters of the epochs, which costs less time than full size from the start. 1 switches it off.
        patience: Epochs without a better validation mAP after which training stops; 0 never stops early.
        threshold: Probability from which validation counts a genre as said. It moves `val/f1_*`, never the loss, and
            the bundle gets its own thresholds at export.
        accelerator: Lightning's: `auto`, `cpu`, `gpu`.
        devices: Processes on each machine, each with a device or a share of the cores.
        nodes: Machines; more than one are started with torchrun.
        precision: Lightning's: `32-true`, `bf16-mixed`, `16-mixed`.
        channels_last: Memory layout that convolutions like on most machines.
        compile: Compile the network with `torch.compile`.
        accumulate: Batches that make one step.
        gradient_clip: Largest gradient norm; 0 switches clipping off.
        ema_decay: Of the averaged weights that are validated and kept; 0 switches averaging off.
        log_every: Steps between two points of the training series.
        progress: Show a progress bar.
        profiler: `none`, `cprofile` (for snakeviz) or `pytorch` (for TensorBoard).
        profile_batches: Training ends after so many batches of the first epoch when it is profiled.
    """

    epochs: int = 30
    start_scale: float = 1.0
    patience: int = 0
    threshold: float = 0.3
    accelerator: str = "auto"
    devices: int = 1
    nodes: int = 1
    precision: str = "32-true"
    channels_last: bool = True
    compile: bool = False
    accumulate: int = 1
    gradient_clip: float = 1.0
    ema_decay: float = 0.999
    log_every: int = 10
    progress: bool = True
    profiler: str = "none"
    profile_batches: int = 20


@dataclass
class MlflowConfig:
    """MLflow, on a local store by default.

    Attributes:
        uri: SQLite file or tracking server.
        experiment: That runs are gathered in.
        artifacts: Folder or address of the pictures; default: `mlartifacts` beside the SQLite file; a server has its
            own.
    """

    uri: str = "sqlite:///outputs/mlflow.db"
    experiment: str = "onesheet"
    artifacts: str | None = None


@dataclass
class WandbConfig:
    """Weights & Biases.

    Attributes:
        project: That runs are gathered in.
        entity: Team or user; default: the account's own.
        offline: Write into the run's folder; `wandb sync` sends it later.
        log_checkpoint: Keep the best checkpoint as an artifact.
    """

    project: str = "onesheet"
    entity: str | None = None
    offline: bool = False
    log_checkpoint: bool = True


@dataclass
class LoggerConfig:
    """Where a run is written down, beside its own folder; several at once with `logger=[mlflow,wandb]`.

    Attributes:
        csv: `metrics.csv` files in the run's folder.
        tensorboard: Event files in the run's folder.
        mlflow: MLflow.
        wandb: Weights & Biases.
        pictures_every: Epochs between two sets of pictures; the last epoch has one too. 0 draws none.
        gradients_every: Steps between two histograms of the gradients; 0 draws none.
    """

    csv: bool = False
    tensorboard: bool = False
    mlflow: MlflowConfig | None = None
    wandb: WandbConfig | None = None
    pictures_every: int = 10
    gradients_every: int = 0


@dataclass
class TrainConfig:
    """A training run.

    Attributes:
        name: Names the model in the bundle, and the run where runs are listed.
        run_dir: Folder of the run: configuration, metrics, checkpoints.
        seed: Of weights, order and augmentation.
        resume: Go on from the last checkpoint in `run_dir`.
    """

    name: str = "onesheet"
    run_dir: str = MISSING
    seed: int = 42
    resume: bool = False
    data: DataConfig = field(default_factory=DataConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    trainer: TrainerConfig = field(default_factory=TrainerConfig)
    logger: LoggerConfig = field(default_factory=LoggerConfig)
