"""What production watches of pictures."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from onesheet.image import Picture

# What `image_statistics` tells of a picture; each is a column of the prediction log and of catalogues.
STATISTICS: Final = (
    "mean",
    "std",
    "min",
    "max",
    "brightness",
    "contrast",
    "colourfulness",
    "sharpness",
    "width",
    "height",
    "aspect",
)

# Of red, green and blue from 0 to 255, to a luma from 0 to 1 (Rec. 601).
_LUMA = np.array([0.299, 0.587, 0.114], np.float32) / np.float32(255)


def image_statistics(pictures: Sequence[Picture]) -> list[dict[str, float]]:
    """What production watches of pictures; reference and current data both come from here.

    Args:
        pictures: All of the same size. Together they cost a server much less than one by one: each of the calls below
            lets go of Python's lock, and a busy server has it back only after a while.

    Returns:
        For each `mean`, `std`, `min`, `max` of the 0-255 samples; `brightness` and `contrast` (mean and standard
        deviation of the Rec. 601 luma, 0-1); `colourfulness` (Hasler and Suesstrunk 2003); `sharpness` (variance of the
        Laplacian of the luma, Pech-Pacheco et al. 2000); `width`, `height` in pixels and `aspect` = width / height
        of the original.
    """
    pixels = np.stack([picture.pixels for picture in pictures])
    # One plane a colour: numpy is slow at every third number.
    rgb = np.ascontiguousarray(pixels.transpose(3, 0, 1, 2)).astype(np.float32)
    red, green, blue = rgb
    luma = np.tensordot(_LUMA, rgb, 1)
    # In place where it can be: new memory for each sum takes longer than the sum.
    laplacian = luma[:, :-2, 1:-1] + luma[:, 2:, 1:-1]
    laplacian += luma[:, 1:-1, :-2]
    laplacian += luma[:, 1:-1, 2:]
    laplacian -= 4 * luma[:, 1:-1, 1:-1]
    yellow_blue = red + green
    yellow_blue *= 0.5
    yellow_blue -= blue
    (brightness, contrast), (_, edges) = map(_mean_and_std, (luma, laplacian))
    (red_green_mean, red_green_std), (yellow_blue_mean, yellow_blue_std) = map(
        _mean_and_std, (red - green, yellow_blue)
    )
    colours = [_mean_and_std(plane) for plane in rgb]
    mean = sum(mean for mean, _ in colours) / 3
    std = np.sqrt(sum(std**2 + (own - mean) ** 2 for own, std in colours) / 3)
    columns = {
        "mean": mean,
        "std": std,
        "min": pixels.min(axis=(1, 2, 3)),
        "max": pixels.max(axis=(1, 2, 3)),
        "brightness": brightness,
        "contrast": contrast,
        "colourfulness": np.hypot(red_green_std, yellow_blue_std) + 0.3 * np.hypot(red_green_mean, yellow_blue_mean),
        "sharpness": edges**2,
        "width": np.array([picture.width for picture in pictures], np.float64),
        "height": np.array([picture.height for picture in pictures], np.float64),
    }
    columns["aspect"] = columns["width"] / columns["height"]
    return [dict(zip(columns, map(float, row), strict=True)) for row in zip(*columns.values(), strict=True)]


def _mean_and_std(values: NDArray[np.float32]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Of each picture in `[N, H, W]`; float64 `[N]` each."""
    flat = values.reshape(len(values), -1)
    mean = flat.mean(axis=1, keepdims=True)
    deviations = flat - mean
    variance = np.vecdot(deviations, deviations).astype(np.float64) / flat.shape[1]
    return mean[:, 0].astype(np.float64), np.sqrt(variance)
