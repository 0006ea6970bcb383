"""What may happen to training posters, and to no others: on whole batches, on the device that trains.

One affine map does crop, stretch, flip and rotation together, one 3 x 4 matrix all colours; so a batch costs a few
per cent of a training step, and no loader process has to run beside it.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final

import torch
from torch import Tensor
from torch.nn import functional as F

if TYPE_CHECKING:
    from onesheet.training.config import AugmentConfig

# A poster's proportions matter: crops are stretched by no more than this.
_STRETCH: Final = 1.2
# Share of the poster that an erased rectangle covers, and how much longer one of its sides may be.
_ERASED: Final = (0.02, 0.2)
_ERASED_ASPECT: Final = 3.0
# ITU-R BT.601
_LUMA: Final = (0.299, 0.587, 0.114)


def augment(images: Tensor, config: AugmentConfig, height: int, width: int) -> Tensor:
    """Crop, flip, rotate, colour and erase at random, each poster in its own way.

    Args:
        images: uint8 `[N, H, W, 3]`, of any size.
        config: How much.
        height: Of the result, in pixels.
        width: Of the result, in pixels.

    Returns:
        float32 `[N, 3, height, width]`, 0-255.
    """
    pixels = images.permute(0, 3, 1, 2).float()
    pixels = _move(pixels, config, height, width)
    if config.jitter > 0 or config.greyscale > 0:
        pixels = _colour(pixels, config)
    if config.erase > 0:
        pixels = _erase(pixels, config.erase)
    return pixels


def shrink(images: Tensor, factor: float) -> Tensor:
    """Smaller by a factor, with the smoothing that `augment` leaves out; uint8 `[N, H, W, 3]` before and after."""
    if factor <= 1:
        return images
    size = [round(side / factor) for side in images.shape[1:3]]
    pixels = images.permute(0, 3, 1, 2)
    # Bytes are interpolated on the CPU alone.
    samples = pixels if pixels.device.type == "cpu" else pixels.float()
    smaller = F.interpolate(samples, size=size, mode="bilinear", antialias=True)
    if smaller.dtype != torch.uint8:
        smaller = smaller.round().clamp(0, 255).to(torch.uint8)
    return smaller.permute(0, 2, 3, 1)


def mix(inputs: Tensor, targets: Tensor, config: AugmentConfig) -> tuple[Tensor, Tensor]:
    """Mixup (Zhang et al., 2018) or cutmix (Yun et al., 2019); where both are on, every batch takes one at random.

    Args:
        inputs: float `[N, C, H, W]`.
        targets: float `[N, G]`.
        config: Their strengths.

    Returns:
        Both, mixed with a random partner from the same batch.
    """
    cut = config.cutmix > 0 and (config.mixup <= 0 or bool(torch.rand(()) < 0.5))
    if not cut and config.mixup <= 0:
        return inputs, targets
    partner = torch.randperm(len(inputs)).to(inputs.device)
    if cut:
        return _cutmix(inputs, targets, partner, config.cutmix)
    share = _beta(config.mixup, len(inputs)).to(inputs.device)
    return (
        torch.lerp(inputs[partner], inputs, share.view(-1, 1, 1, 1)),
        torch.lerp(targets[partner], targets, share.view(-1, 1)),
    )


def _move(pixels: Tensor, config: AugmentConfig, height: int, width: int) -> Tensor:
    """Crop, stretch, flip, rotate and resize by one bilinear affine map."""
    count, device = len(pixels), pixels.device
    side = _uniform(count, config.min_scale, 1.0).sqrt()
    stretch = torch.exp(_uniform(count, -1.0, 1.0) * math.log(_STRETCH) / 2)
    stretch = stretch.clamp(min=side, max=1 / side)  # a crop ends where the poster does
    across, down = side * stretch, side / stretch
    centre_x = _uniform(count, -1.0, 1.0) * (1 - across)
    centre_y = _uniform(count, -1.0, 1.0) * (1 - down)
    mirror = torch.where(torch.rand(count) < config.flip, -1.0, 1.0)
    angle = _uniform(count, -1.0, 1.0) * math.radians(config.rotate)
    aspect = pixels.shape[2] / pixels.shape[3]
    theta = torch.stack(
        [
            torch.stack([mirror * across * angle.cos(), -down * angle.sin() * aspect, centre_x], 1),
            torch.stack([mirror * across * angle.sin() / aspect, down * angle.cos(), centre_y], 1),
        ],
        dim=1,
    ).to(device)
    grid = F.affine_grid(theta, [count, 3, height, width], align_corners=False)
    return F.grid_sample(pixels, grid, mode="bilinear", padding_mode="reflection", align_corners=False)


def _colour(pixels: Tensor, config: AugmentConfig) -> Tensor:
    """Saturation, contrast, brightness: linear in the pixels, so together one matrix and one offset for each poster."""
    count, device = len(pixels), pixels.device
    brightness, contrast, saturation = 1 + config.jitter * _uniform(3 * count, -1.0, 1.0).view(3, count, 1, 1)
    saturation = torch.where(torch.rand(count, 1, 1) < config.greyscale, 0.0, saturation)
    luma = torch.tensor(_LUMA).expand(3, 3)
    saturate = saturation * torch.eye(3) + (1 - saturation) * luma
    matrix = (brightness * contrast * saturate).to(device)
    mean = (pixels.mean((2, 3)) @ luma[0].to(device)).view(count, 1, 1)
    offset = (brightness * (1 - contrast)).to(device) * mean
    flat = torch.baddbmm(offset.expand(count, 3, 1), matrix, pixels.flatten(2))
    return flat.clamp_(0, 255).view_as(pixels)


def _erase(pixels: Tensor, probability: float) -> Tensor:
    """Blank one rectangle with the poster's own mean colour (random erasing, Zhong et al., 2020)."""
    count, device = len(pixels), pixels.device
    area = _uniform(count, *_ERASED)
    aspect = torch.exp(_uniform(count, -1.0, 1.0) * math.log(_ERASED_ASPECT))
    erased = torch.rand(count) < probability
    rows = _inside((area * aspect).sqrt().clamp(max=1), pixels.shape[2])
    columns = _inside((area / aspect).sqrt().clamp(max=1), pixels.shape[3])
    mask = rows[:, :, None] & columns[:, None, :] & erased[:, None, None]
    return torch.where(mask[:, None].to(device), pixels.mean((2, 3), keepdim=True), pixels)


def _cutmix(inputs: Tensor, targets: Tensor, partner: Tensor, alpha: float) -> tuple[Tensor, Tensor]:
    side = (1 - _beta(alpha, len(inputs))).sqrt()
    rows, columns = _inside(side, inputs.shape[2]), _inside(side, inputs.shape[3])
    window = (rows[:, :, None] & columns[:, None, :]).to(inputs.device)
    kept = 1 - window.float().mean((1, 2))
    return (
        torch.where(window[:, None], inputs[partner], inputs),
        torch.lerp(targets[partner], targets, kept.view(-1, 1)),
    )


def _inside(share: Tensor, size: int) -> Tensor:
    """Bool `[N, size]`: a randomly placed stretch that covers `share` `[N]` of the side."""
    start = torch.rand(len(share)) * (1 - share)
    position = (torch.arange(size) + 0.5) / size
    return (position >= start[:, None]) & (position < (start + share)[:, None])


def _beta(alpha: float, count: int) -> Tensor:
    parameter = torch.full((count,), alpha)
    return torch.distributions.Beta(parameter, parameter).sample()


def _uniform(count: int, low: float, high: float) -> Tensor:
    return torch.empty(count).uniform_(low, high)
