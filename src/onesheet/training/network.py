"""A timm backbone with a multi-label head, from uint8 pixels to logits."""

from __future__ import annotations

import difflib
import urllib.error
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from onesheet.errors import ConfigError, TrainingError

if TYPE_CHECKING:
    from onesheet.training.config import ModelConfig

_PROBE_SECONDS = 1.5


class PosterNet(nn.Module):
    """Normalisation, backbone, pooling and head in one, so that nobody can get the first wrong.

    Args:
        config: Which backbone, and how.
        genres: Number of outputs.
        pretrained: Load pretrained weights into the backbone; False when a checkpoint follows.

    Raises:
        ConfigError: timm has no such model, or refuses its options.
    """

    def __init__(self, config: ModelConfig, genres: int, *, pretrained: bool) -> None:
        super().__init__()
        self.backbone = _create_backbone(config, pretrained)
        self.dropout = nn.Dropout(config.dropout)
        self.head = nn.Linear(self.backbone.num_features, genres)
        self.register_buffer("mean", _channel_buffer(self.backbone.pretrained_cfg["mean"]), persistent=False)
        self.register_buffer("std", _channel_buffer(self.backbone.pretrained_cfg["std"]), persistent=False)
        self.mean: Tensor
        self.std: Tensor

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Logits and embedding of RGB images.

        Args:
            images: uint8 `[N, H, W, 3]`.

        Returns:
            `(logits [N, G], embedding [N, D])`, float.
        """
        return self.classify(self.normalise(images))

    def normalise(self, images: Tensor) -> Tensor:
        """uint8 `[N, H, W, 3]` to the float `[N, 3, H, W]` that the backbone was made for."""
        return (images.permute(0, 3, 1, 2).float() / 255 - self.mean) / self.std

    def classify(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        """Logits and embedding of normalised inputs, float `[N, 3, H, W]`."""
        embedding = self.backbone(inputs)
        return self.head(self.dropout(embedding)), embedding


def require_pretrained(config: ModelConfig) -> None:
    """Fail at once, not after minutes of retries, when pretrained weights can be had from nowhere.

    Raises:
        TrainingError: They are neither in a local file, nor in a cache, nor within reach.
    """
    if config.weights is not None:
        if not Path(config.weights).is_file():
            raise TrainingError(f"no file of weights at {config.weights} (model.weights)")
        return
    if _is_cached(config.backbone):
        return
    from huggingface_hub import constants

    try:
        request = urllib.request.Request(constants.ENDPOINT, method="HEAD")  # noqa: S310  https, set by the hub
        with urllib.request.urlopen(request, timeout=_PROBE_SECONDS):  # noqa: S310
            return
    except urllib.error.HTTPError:
        return  # it answers; what it says of the weights is the hub client's business
    except OSError as error:
        raise TrainingError(
            f"pretrained weights of {config.backbone} cannot be downloaded: {constants.ENDPOINT} is out of "
            "reach. Train from scratch with model.pretrained=false, or name a local file with model.weights=FILE"
        ) from error


def _is_cached(backbone: str) -> bool:
    from huggingface_hub import constants

    torch_cache = Path(torch.hub.get_dir(), "checkpoints")
    name = backbone.partition(".")[0]
    return any(Path(constants.HF_HUB_CACHE).glob(f"models--timm--{name}*/snapshots/*/*")) or any(
        torch_cache.glob(f"{name}*")
    )


def _create_backbone(config: ModelConfig, pretrained: bool) -> Any:
    import timm

    if not timm.is_model(config.backbone):
        near = difflib.get_close_matches(config.backbone, timm.list_models(), n=3)
        hint = f"; such as {', '.join(near)}" if near else ""
        raise ConfigError(f"timm has no model `{config.backbone}` (model.backbone){hint}")
    overlay = {"file": config.weights} if config.weights else None
    try:
        return timm.create_model(
            config.backbone,
            pretrained=pretrained,
            pretrained_cfg_overlay=overlay,
            num_classes=0,
            **config.options,
        )
    except TypeError as error:
        raise ConfigError(f"{config.backbone} does not take model.options={config.options}") from error


def _channel_buffer(values: tuple[float, ...]) -> Tensor:
    return torch.tensor(values).view(1, 3, 1, 1)
