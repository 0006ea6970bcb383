"""What the graph of every bundle takes and gives: names, types, shapes and ranges."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from onesheet.errors import BundleCorruptError, ModelError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from onesheet.bundle import BundleMetadata

INPUT: Final = "images"
OUTPUTS: Final = ("probabilities", "embedding")


def check_signature(session: Any, metadata: BundleMetadata) -> None:
    """Hold a graph to the inputs and outputs that every bundle promises, for any number of pictures.

    Args:
        session: Of ONNX Runtime.
        metadata: Of the bundle.

    Raises:
        BundleCorruptError: It says of itself that it takes or gives something else.
    """
    spec = metadata.preprocess
    inputs, outputs = _signature(session.get_inputs()), _signature(session.get_outputs())
    _, embedding_shape = outputs.get("embedding", ("", []))
    if inputs != {INPUT: ("tensor(uint8)", [None, spec.height, spec.width, 3])} or outputs != {
        "probabilities": ("tensor(float)", [None, len(metadata.genres)]),
        "embedding": ("tensor(float)", [None, *embedding_shape[-1:]]),
    }:
        raise BundleCorruptError("the model's inputs and outputs are not those that the bundle describes")


def check_outputs(
    probabilities: NDArray[np.float32], embedding: NDArray[np.float32], pictures: int, genres: int
) -> None:
    """Hold what a graph gave to the same promise.

    Args:
        probabilities: float32 `[N, G]`, 0-1.
        embedding: float32 `[N, D]`, finite.
        pictures: N.
        genres: G.

    Raises:
        ModelError: It is something else; the message says what.
    """
    if probabilities.shape != (pictures, genres):
        raise ModelError(
            f"the model gave probabilities of shape {list(probabilities.shape)}, not {[pictures, genres]}, "
            "for so many pictures and genres"
        )
    if embedding.ndim != 2 or len(embedding) != pictures:
        raise ModelError(f"the model gave an embedding of shape {list(embedding.shape)} for {pictures} pictures")
    outside = probabilities[~((probabilities >= 0) & (probabilities <= 1))]  # so is what is no number
    if outside.size:
        raise ModelError(f"the model gave a probability of {outside[0]:g}; they are numbers from 0 to 1")
    if not np.isfinite(embedding).all():
        raise ModelError("the model gave an embedding with values that are not finite")


def _signature(nodes: Sequence[Any]) -> dict[str, tuple[str, list[int | None]]]:
    """Type and shape of each input or output; None for a size that is free."""
    return {node.name: (node.type, [size if isinstance(size, int) else None for size in node.shape]) for node in nodes}
