"""The posters that a model gets most right and most wrong."""

from __future__ import annotations

import base64
import io
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from PIL import Image

from onesheet.image import decode, read_bytes, to_rgb

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from onesheet.evaluation.evaluate import Scored

_SHOWN: Final = 12
_LONGEST_SIDE: Final = 150
_QUALITY: Final = 72
_LISTED: Final = 3


def best_and_worst(scored: Scored) -> dict[str, list[dict[str, Any]]]:
    """Up to 12 posters of lowest (`best`) and of highest (`worst`) cross-entropy, the most extreme first.

    Returns:
        For each its `id`, `cross_entropy` (nats, mean over the genres), `true` genres, and `answer`: the genres that
        were said, or else the most probable ones, with `probability`, and whether each was `said` and is `right`.
    """
    losses = cross_entropy(scored.probabilities, scored.targets)
    order = np.argsort(losses, kind="stable")
    shown = min(_SHOWN, len(order) // 2)
    return {
        "best": [_card(scored, int(i), float(losses[i])) for i in order[:shown]],
        "worst": [_card(scored, int(i), float(losses[i])) for i in order[::-1][:shown]],
    }


def cross_entropy(probabilities: NDArray[np.floating], targets: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Binary cross-entropy of each poster, in nats, mean over the genres: float64 `[N]`."""
    likelihood = np.where(targets, probabilities, 1 - probabilities.astype(np.float64))
    # float32 may round a probability to 0 or 1; one such answer shall not cost infinitely much.
    losses: NDArray[np.float64] = -np.log(np.maximum(likelihood, 1e-7)).mean(axis=1)
    return losses


def thumbnail(path: Path) -> str:
    """A small JPEG as a `data:` URI.

    Raises:
        ImageError: The picture cannot be read any more.
    """
    image = to_rgb(decode(read_bytes(path), at_least=(_LONGEST_SIDE, _LONGEST_SIDE)))
    image.thumbnail((_LONGEST_SIDE, _LONGEST_SIDE), Image.Resampling.BICUBIC)
    file = io.BytesIO()
    image.save(file, "JPEG", quality=_QUALITY, optimize=True)
    return "data:image/jpeg;base64," + base64.b64encode(file.getvalue()).decode()


def _card(scored: Scored, poster: int, loss: float) -> dict[str, Any]:
    probabilities, said, true = (x[poster] for x in (scored.probabilities, scored.decisions, scored.targets))
    ranking = np.argsort(-probabilities, kind="stable")
    listed = [genre for genre in ranking if said[genre]] or ranking[:_LISTED]
    return {
        "id": scored.ids[poster],
        "cross_entropy": loss,
        "true": [genre for genre, is_true in zip(scored.genres, true, strict=True) if is_true],
        "answer": [
            {
                "label": scored.genres[genre],
                "probability": float(probabilities[genre]),
                "said": bool(said[genre]),
                "right": bool(true[genre]),
            }
            for genre in listed
        ],
    }
