"""A timm backbone with a multi-label head, from uint8 pixels to logits."""

from __future__ import annotations

import difflib
import pickle
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from onesheet.errors import ConfigError, reason

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from onesheet.training.config import ModelConfig, TrainerConfig


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
        self.head = nn.Linear(_embedding_size(self.backbone, config), genres)
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

    def run_as(self, config: TrainerConfig) -> None:
        """Take the memory layout, and the compilation, that a run asks for."""
        if config.channels_last:
            self.to(memory_format=torch.channels_last)
        if config.compile:
            self.backbone.compile()

    def normalise(self, images: Tensor) -> Tensor:
        """uint8 `[N, H, W, 3]` to the float `[N, 3, H, W]` that the backbone was made for."""
        return self.standardise(images.permute(0, 3, 1, 2).float())

    def standardise(self, pixels: Tensor) -> Tensor:
        """Float `[N, 3, H, W]`, 0-255, to the range that the backbone was made for."""
        return (pixels / 255 - self.mean) / self.std

    def start_from(self, frequencies: NDArray[np.floating]) -> None:
        """Let the new head answer each genre's frequency `[G]`, 0-1, from the first step (Lin et al., 2017)."""
        with torch.no_grad():
            self.head.bias.copy_(torch.logit(torch.from_numpy(frequencies), eps=1e-4))

    def classify(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        """Logits and embedding of normalised inputs, float `[N, 3, H, W]`."""
        embedding = self.backbone(inputs)
        return self.head(self.dropout(embedding)), embedding


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
    except (RuntimeError, pickle.UnpicklingError, EOFError, SafetensorError) as error:
        problem = f"{config.weights} does not hold weights of" if config.weights else "no pretrained weights for"
        raise ConfigError(f"{problem} {config.backbone}: {reason(error)}") from error


def _embedding_size(backbone: nn.Module, config: ModelConfig) -> int:
    """Length of what the backbone really returns; timm's `num_features` is that of a layer before in some families."""
    training = backbone.training
    try:
        with torch.no_grad():
            return int(backbone.eval()(torch.zeros(1, 3, config.height, config.width)).shape[1])
    except (AssertionError, RuntimeError) as error:
        raise ConfigError(
            f"{config.backbone} does not take pictures of {config.height} x {config.width}: "
            f"{reason(error).rstrip('.')}; some models want +model.options.img_size=[HEIGHT,WIDTH]"
        ) from error
    finally:
        backbone.train(training)


def _channel_buffer(values: tuple[float, ...]) -> Tensor:
    return torch.tensor(values).view(1, 3, 1, 1)
