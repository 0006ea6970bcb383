"""What may happen to a training poster, and to no other."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torchvision.transforms import v2

if TYPE_CHECKING:
    from onesheet.training.config import AugmentConfig

# A poster's proportions matter: crops are stretched by no more than this.
_STRETCH = 1.2


def train_transform(config: AugmentConfig, height: int, width: int) -> v2.Transform:
    """Random crop, flip, colours and erasure of a uint8 `[3, H, W]` tensor, to `[3, height, width]`."""
    shape = width / height
    return v2.Compose(
        [
            v2.RandomResizedCrop(
                (height, width),
                scale=(config.min_scale, 1.0),
                ratio=(shape / _STRETCH, shape * _STRETCH),
                antialias=True,
            ),
            v2.RandomHorizontalFlip(config.flip),
            v2.ColorJitter(brightness=config.jitter, contrast=config.jitter, saturation=config.jitter),
            v2.RandomErasing(config.erase, scale=(0.02, 0.2)),
        ]
    )
