"""The known posters that are most like another one, by the model's own embedding."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from onesheet.errors import BundleCorruptError, MissingExtraError

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Neighbour:
    """A known poster.

    Attributes:
        id: Of the film, as the data name it.
        title: Where the bundle knows it.
        genres: Its true ones.
        distance: 1 - cosine similarity of the embeddings; 0 for the same poster, 1 for one that has nothing in common.
    """

    id: str
    title: str | None
    genres: tuple[str, ...]
    distance: float

    def to_dict(self) -> dict[str, Any]:
        """The JSON contract."""
        return {
            "id": self.id,
            "title": self.title,
            "genres": list(self.genres),
            "distance": round(self.distance, 6),
        }


class KnownPosters:
    """The posters of a bundle's reference, searched one by one: they are hundreds or a few thousand.

    Args:
        ids: Of the films.
        titles: None where they are not known.
        genres: The true ones.
        embeddings: float32 `[N, D]`.
    """

    def __init__(
        self,
        ids: list[str],
        titles: list[str | None],
        genres: list[tuple[str, ...]],
        embeddings: NDArray[np.float32],
    ) -> None:
        self._ids, self._titles, self._genres = ids, titles, genres
        self._directions = _directions(embeddings)

    @classmethod
    def read(cls, reference: bytes) -> Self:
        """From the `reference.parquet` of a bundle.

        Raises:
            MissingExtraError: Parquet cannot be read here.
            BundleCorruptError: The file does not hold what it should.
        """
        try:
            import pyarrow as pa

            from onesheet.parquet import read_table
        except ImportError as error:
            raise MissingExtraError("similar posters need Parquet: install onesheet[similar]") from error
        try:
            table = read_table(reference)
            embeddings = np.array(table["embedding"].to_pylist(), np.float32)
            ids, genres = table["id"].to_pylist(), [tuple(row) for row in table["genres"].to_pylist()]
            titles = table["title"].to_pylist() if "title" in table.column_names else [None] * len(ids)
        except (pa.ArrowException, KeyError, TypeError, ValueError) as error:
            raise BundleCorruptError(
                "the reference of the bundle does not hold the embeddings that it should"
            ) from error
        return cls(ids, titles, genres, embeddings)

    def nearest(self, embedding: NDArray[np.float32], count: int) -> list[Neighbour]:
        """The most similar ones, nearest first.

        Args:
            embedding: `[D]`, by the same bundle.
            count: How many; all if there are fewer.
        """
        distances = 1 - self._directions @ _directions(embedding[None])[0]
        order = np.argsort(distances, kind="stable")[:count]
        return [Neighbour(self._ids[i], self._titles[i], self._genres[i], max(0.0, float(distances[i]))) for i in order]


def _directions(embeddings: NDArray[np.float32]) -> NDArray[np.float32]:
    """Rows of length one; a row of zeros stays as it is."""
    lengths = np.linalg.norm(embeddings, axis=1, keepdims=True)
    return (embeddings / np.where(lengths == 0, 1, lengths)).astype(np.float32)
