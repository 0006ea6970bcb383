"""Which parts of a poster speak for a genre: what the model says when they are covered.

Occlusion after Zeiler and Fergus, "Visualizing and Understanding Convolutional Networks" (ECCV 2014): it needs nothing
of the model but its answers, so it explains every bundle alike.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from onesheet.predictor import Predictor

# Cells of the map along the longer side.
_CELLS: Final = 12
# What is covered at once is a cell and half of its neighbours on each side: smaller patches change too little.
_MARGIN: Final = 0.5
_BATCH: Final = 8
# Log-odds of probabilities nearer to 0 or 1 than this say nothing more.
_LEAST: Final = 1e-6


@dataclass(frozen=True, slots=True)
class Explanation:
    """What each part of a poster does for each genre.

    Attributes:
        probabilities: float32 `[G]`, of the whole poster.
        effects: float32 `[G, rows, columns]`; by how much the log-odds of a genre fall when this part is covered.
            Positive where the part speaks for the genre, negative where it speaks against it.
    """

    probabilities: NDArray[np.float32]
    effects: NDArray[np.float32]


def explain(predictor: Predictor, pixels: NDArray[np.uint8]) -> Explanation:
    """Cover one part of a poster after the other, and see what the model says then.

    It takes about as long as a hundred answers.

    Args:
        predictor: The model.
        pixels: uint8 `[H, W, 3]`, as `Predictor.read` makes them.
    """
    height, width, _ = pixels.shape
    scale = _CELLS / max(height, width)
    rows, columns = max(1, round(height * scale)), max(1, round(width * scale))
    (whole,), _ = predictor.run(pixels[None])
    covered = np.concatenate([predictor.run(batch)[0] for batch in _covered(pixels, rows, columns)])
    effects = _log_odds(whole) - _log_odds(covered)
    return Explanation(whole, effects.T.reshape(-1, rows, columns))


def _covered(pixels: NDArray[np.uint8], rows: int, columns: int) -> Iterator[NDArray[np.uint8]]:
    """The picture with one part after the other in its own mean colour, in batches."""
    height, width, _ = pixels.shape
    colour = pixels.mean(axis=(0, 1)).round().astype(np.uint8)
    parts = [
        (_span(row, rows, height), _span(column, columns, width)) for row in range(rows) for column in range(columns)
    ]
    for start in range(0, len(parts), _BATCH):
        some = parts[start : start + _BATCH]
        batch = np.repeat(pixels[None], len(some), axis=0)
        for picture, (vertical, horizontal) in zip(batch, some, strict=True):
            picture[vertical, horizontal] = colour
        yield batch


def _span(cell: int, cells: int, length: int) -> slice:
    """The pixels of a cell and its margin along one side."""
    size = length / cells
    return slice(max(0, round((cell - _MARGIN) * size)), round((cell + 1 + _MARGIN) * size))


def _log_odds(probabilities: NDArray[np.float32]) -> NDArray[np.float32]:
    clipped = probabilities.clip(_LEAST, 1 - _LEAST)
    odds: NDArray[np.float32] = np.log(clipped / (1 - clipped))
    return odds
