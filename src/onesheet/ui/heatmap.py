"""Pictures for the page: a poster in a size for the screen, and a heat map over it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
from PIL import Image

from onesheet.image import decode, to_rgb

_SIZE: Final = (480, 720)
# Orange for, blue against: distinguishable for those who see no red from green, and on dark and bright posters.
_FOR, _AGAINST = np.array((255, 140, 0)), np.array((40, 110, 255))


def for_screen(data: bytes) -> Image.Image:
    """An encoded poster as an RGB picture that is no larger than the page shows it.

    Raises:
        ImageError: It cannot be read.
    """
    picture = to_rgb(decode(data, at_least=_SIZE))
    picture.thumbnail(_SIZE, Image.Resampling.LANCZOS)
    return picture


def overlay(poster: Image.Image, effects: Sequence[Sequence[float]], strength: float) -> Image.Image:
    """Paint the parts that speak for a genre orange, and those that speak against it blue.

    Args:
        poster: RGB.
        effects: Rows of parts, as `POST /explain` answers.
        strength: 0 (the poster alone) to 1 (the strongest part shows its colour only).
    """
    parts = np.asarray(effects, np.float32)
    strongest = float(np.abs(parts).max()) or 1.0
    smooth = Image.fromarray(parts / strongest).resize(poster.size, Image.Resampling.BICUBIC)
    share = np.asarray(smooth).clip(-1, 1)[..., None]
    colour = np.where(share > 0, _FOR, _AGAINST)
    weight = np.abs(share) * strength
    mixed = np.asarray(poster) * (1 - weight) + colour * weight
    return Image.fromarray(mixed.round().astype(np.uint8))
