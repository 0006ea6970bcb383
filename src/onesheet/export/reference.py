"""`reference.parquet`: what production is compared with."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from onesheet.image import Picture
from onesheet.image_statistics import image_statistics

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from onesheet.data.manifest import Entry


def reference_table(
    entries: Sequence[Entry],
    pictures: Sequence[Picture],
    probabilities: NDArray[np.float32],
    embeddings: NDArray[np.float32],
) -> bytes:
    """Parquet with a row for each validation poster.

    Columns: `id`, `sha256`, `genres`, one for each image statistic, `probabilities` (float32 list `[G]`) and
    `embedding` (float16 list `[D]`: half the size, and distances do not need more).
    """
    statistics = [image_statistics([picture])[0] for picture in pictures]
    columns: dict[str, pa.Array] = {
        "id": pa.array([entry.id for entry in entries]),
        "sha256": pa.array([entry.sha256 for entry in entries]),
        "genres": pa.array([list(entry.genres) for entry in entries]),
        **{name: pa.array([row[name] for row in statistics], pa.float32()) for name in statistics[0]},
        "probabilities": pa.array(list(probabilities), pa.list_(pa.float32())),
        "embedding": pa.array(list(embeddings.astype(np.float16)), pa.list_(pa.float16())),
    }
    buffer = io.BytesIO()
    pq.write_table(pa.table(columns), buffer, compression="zstd")
    return buffer.getvalue()
