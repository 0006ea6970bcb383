"""The posters of a scored catalogue that are most like another one, by the model's own embedding.

Up to `INDEX_FROM` rows the catalogue itself is read from end to end. Beyond, an index answers (HNSW, by usearch), which
is made once and kept beside the catalogue. It is a cache: whatever is wrong with it, it is made again.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from onesheet.errors import DataError, reason
from onesheet.scoring.identity import FORMAT, METADATA_KEY
from onesheet.scoring.index import EXPANSION, Advance, IndexStore, fingerprint

if TYPE_CHECKING:
    from numpy.typing import NDArray

INDEX_FROM: Final = 200_000
"""Rows from which the index answers: to read so many takes about a second."""

_IDENTITY: Final = ("name", "version", "sha256")
# More at a time takes twice as long: every batch would then be memory that the system has to find and clear first.
_BATCH_ROWS: Final = 1024
_BUFFER_BYTES: Final = 2**20


@dataclass(frozen=True, slots=True)
class SimilarPoster:
    """A poster of the catalogue.

    Attributes:
        poster: Its path or address.
        genres: Those that the model said.
        distance: 1 - cosine similarity of the embeddings, as in `onesheet.similar`.
        row: Its number in the catalogue, from 0.
    """

    poster: str
    genres: tuple[str, ...]
    distance: float
    row: int

    def to_dict(self) -> dict[str, Any]:
        """The JSON contract."""
        return {**asdict(self), "genres": list(self.genres), "distance": round(self.distance, 6)}


@dataclass(frozen=True, slots=True)
class Similar:
    """An answer.

    Attributes:
        posters: Nearest first.
        exact: Whether every row was compared; an index may miss one now and then.
        bundle: Of the catalogue; see `bundle_identity`.
        note: Why there is no index where there should be one.
    """

    posters: tuple[SimilarPoster, ...]
    exact: bool
    bundle: dict[str, str]
    note: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """The JSON contract."""
        return {
            "similar": [poster.to_dict() for poster in self.posters],
            "exact": self.exact,
            "bundle": self.bundle,
        }


class Catalogue:
    """A Parquet file of `onesheet score --embeddings`, read in bounded memory however long it is.

    Attributes:
        bundle: Which one it was scored with; see `bundle_identity`.
        rows: How many, those without an embedding too.
        fingerprint: What changes with the content: size, time of the last change, and the footer, which describes
            every column; the whole would take longer to read than to search.

    Args:
        path: The file.

    Raises:
        OSError: There is none.
        DataError: It is no catalogue, or one without embeddings.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        # Before it is opened: if it is replaced meanwhile, the two do not fit, and no index is taken for another's.
        state = path.stat()
        with self._reading():
            # Without a buffer size the column of a whole row group would be held, which may be all of the file.
            self._file = pq.ParquetFile(
                path, buffer_size=_BUFFER_BYTES, pre_buffer=False, page_checksum_verification=True
            )
            schema = self._file.schema_arrow
            self.fingerprint = fingerprint(path, state, state.st_size - self._file.metadata.serialized_size)
        self.rows: int = self._file.metadata.num_rows
        self.bundle = self._read_bundle((schema.metadata or {}).get(METADATA_KEY))
        self._check_columns(schema)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def check_bundle(self, identity: dict[str, str]) -> None:
        """Refuse another bundle than that of the catalogue.

        Raises:
            DataError: Its embeddings are others.
        """
        if identity != self.bundle:
            theirs, ours = (f"{one['name']} {one['version']} ({one['sha256'][:12]})" for one in (self.bundle, identity))
            raise DataError(
                f"{self.path.name} was scored with {theirs}, and the poster would be with {ours}: their embeddings "
                "cannot be compared; name the bundle of the catalogue with --bundle, or score it again"
            )

    def similar(
        self, embedding: NDArray[np.float32], count: int, *, exact: bool = False, on_progress: Advance | None = None
    ) -> Similar:
        """The most similar posters.

        Args:
            embedding: `[D]`, by the bundle of the catalogue.
            count: How many; all if there are fewer. Very many are never taken from an index.
            exact: Never use an index.
            on_progress: Called with rows done and rows in all while the index is made.

        Raises:
            DataError: The catalogue is damaged, or nothing in it has an embedding.
        """
        note = None
        if not exact and self.rows > INDEX_FROM and count <= EXPANSION:
            try:
                found = self._search_index(embedding, count, on_progress)
                return Similar(self._posters(*found), exact=False, bundle=self.bundle)
            except ImportError:
                note = "every row is read, as there is no usearch to make an index with: pip install 'onesheet[score]'"
            except OSError as error:
                note = f"every row is read, as the index cannot be kept beside the catalogue: {reason(error)}"
        return Similar(self._posters(*self.nearest(embedding, count)), exact=True, bundle=self.bundle, note=note)

    def nearest(self, embedding: NDArray[np.float32], count: int) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Compare every row; of those at the same distance the first come first.

        Args:
            embedding: `[D]`.
            count: How many.

        Returns:
            `(row numbers [K], distances [K])`, nearest first, K up to `count`.

        Raises:
            DataError: As in `similar`.
        """
        best_rows, best = np.empty(0, np.int64), np.empty(0, np.float32)
        for rows, embeddings in self.embeddings(len(embedding)):
            best_rows, best = np.append(best_rows, rows), np.append(best, _distances(embeddings, embedding))
            best_rows, best = _nearest_first(best_rows, best, count)
        return best_rows, best

    def embeddings(self, size: int) -> Iterator[tuple[NDArray[np.int64], NDArray[np.float16]]]:
        """All rows that have an embedding, batch by batch.

        Args:
            size: D, that every one must have.

        Yields:
            `(row numbers [N], float16 [N, D])`.

        Raises:
            DataError: The file is damaged, an embedding has another size, or there is none at all.
        """
        first = seen = 0
        with self._reading():
            for batch in self._file.iter_batches(_BATCH_ROWS, columns=["embedding"], use_threads=False):
                column = batch.column(0)
                rows = first + np.flatnonzero(column.is_valid().to_numpy(zero_copy_only=False))
                first += len(column)
                values = column.drop_null()
                if pc.any(pc.not_equal(pc.list_value_length(values), size)).as_py():
                    raise DataError(f"{self.path.name} has embeddings of another size than {size}")
                seen += len(rows)
                yield rows, values.flatten().to_numpy(zero_copy_only=False).reshape(-1, size)
        if not seen:
            raise DataError(f"{self.path.name} holds no poster that could be scored")

    def _search_index(
        self, embedding: NDArray[np.float32], count: int, on_progress: Advance | None
    ) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """As `nearest`, but from the index, which is made if there is none that fits.

        Raises:
            ImportError: There is no usearch.
            OSError: The index cannot be written.
            DataError: As in `similar`.
        """
        store = IndexStore(self)
        index = store.open(len(embedding)) or store.build(len(embedding), on_progress)
        rows = index.search(embedding, min(count, len(index))).keys.astype(np.int64)
        # In half precision, as in the catalogue: so the distances are those that an exact search finds.
        embeddings = np.array(index.get(rows), np.float16)
        return _nearest_first(rows, _distances(embeddings, embedding), count)

    def _posters(self, rows: NDArray[np.int64], distances: NDArray[np.float32]) -> tuple[SimilarPoster, ...]:
        """What the catalogue says of some rows; only the row groups that they are in are read."""
        sizes = [self._file.metadata.row_group(group).num_rows for group in range(self._file.num_row_groups)]
        ends = np.cumsum(sizes)
        found: dict[int, tuple[str, tuple[str, ...]]] = {}
        with self._reading():
            for group in np.unique(np.searchsorted(ends, rows, side="right")).tolist():
                first = int(ends[group]) - sizes[group]
                batches = self._file.iter_batches(
                    _BATCH_ROWS, row_groups=[group], columns=["poster", "genres"], use_threads=False
                )
                for batch in batches:
                    for row in rows[(rows >= first) & (rows < first + len(batch))].tolist():
                        values = batch.slice(row - first, 1).to_pylist()[0]
                        found[row] = str(values["poster"]), tuple(values["genres"] or ())
                    first += len(batch)
        return tuple(
            SimilarPoster(*found[row], max(0.0, distance), row)
            for row, distance in zip(rows.tolist(), distances.tolist(), strict=True)
        )

    def _read_bundle(self, document: bytes | None) -> dict[str, str]:
        if document is None:
            raise DataError(f"{self.path.name} was not made by onesheet score")
        try:
            fields = json.loads(document)
            made_as, bundle = fields["format"], {name: str(fields["bundle"][name]) for name in _IDENTITY}
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            raise DataError(f"{self.path.name} does not say what it was scored with") from error
        if made_as != FORMAT:
            raise DataError(f"{self.path.name} was made by another version of onesheet; score it again")
        return bundle

    def _check_columns(self, schema: pa.Schema) -> None:
        kinds = dict(zip(schema.names, schema.types, strict=True))
        if "embedding" not in kinds:
            raise DataError(f"{self.path.name} has no embeddings: score it with --embeddings")
        expected = {"poster": pa.types.is_string, "genres": pa.types.is_list, "embedding": _is_embedding}
        for name, is_expected in expected.items():
            if name not in kinds or not is_expected(kinds[name]):
                raise DataError(f"{self.path.name} was not made by onesheet score: its column {name} is another")

    @contextmanager
    def _reading(self) -> Iterator[None]:
        """Say in one line what Arrow finds wrong with the file."""
        try:
            yield
        except (pa.ArrowException, OSError, ValueError) as error:
            raise DataError(f"{self.path.name} is no Parquet file, or damaged: {reason(error)}") from error


def _distances(embeddings: NDArray[np.float16], other: NDArray[np.float32]) -> NDArray[np.float32]:
    """1 - cosine similarity, `[N]`; 1 to an embedding of zeros, NaN to one that holds no numbers."""
    ours = embeddings.astype(np.float32)
    with np.errstate(invalid="ignore"):
        lengths = np.sqrt(np.einsum("nd,nd->n", ours, ours) * (other @ other))
        return np.subtract(1, ours @ other / np.where(lengths == 0, 1, lengths), dtype=np.float32)


def _nearest_first(
    rows: NDArray[np.int64], distances: NDArray[np.float32], count: int
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Up to `count` of them, in order; without those that have no distance."""
    order = np.argsort(distances, kind="stable")[:count]
    order = order[~np.isnan(distances[order])]
    return rows[order], distances[order]


def _is_embedding(kind: pa.DataType) -> bool:
    """Lists of either make: Arrow writes those of a fixed size, but before 26 cannot read them where one is null."""
    is_list = pa.types.is_list(kind) or pa.types.is_fixed_size_list(kind)
    return bool(is_list and pa.types.is_float16(kind.value_type))
