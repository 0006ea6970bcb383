"""Posters to rows of a catalogue: the one function that every engine runs."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeAlias

import numpy as np
import pyarrow as pa

from onesheet.bundle import Bundle
from onesheet.errors import ImageError
from onesheet.image import Picture
from onesheet.image_statistics import STATISTICS, image_statistics
from onesheet.predictor import Prediction, Predictor, map_batches, usable_cores
from onesheet.scoring.identity import FORMAT, METADATA_KEY, bundle_identity
from onesheet.scoring.rows import Row

if TYPE_CHECKING:
    from onesheet.bundle import Precision
    from onesheet.image import ImageLimits

# Half the size, and distances do not need more. Of one length; but lists that Parquet knows to be so cannot be null.
_EMBEDDING: Final = pa.list_(pa.float16())

_REMOTE_THREADS: Final = 32
_TABLE_ROWS: Final = 128
"""To make a table of a few rows costs nearly as much as of many."""

_Known: TypeAlias = tuple[Prediction, dict[str, float]]
"""What the model says of a picture, and its statistics."""


class _Answer(NamedTuple):
    """What has become of a row: an error, or what is known of its picture."""

    row: Row
    error: ImageError | None
    known: _Known | None


class Scorer:
    """A bundle that answers rows with a table.

    Args:
        bundle: The model.
        limits: What is accepted as a poster.
        precision: Which graph of the bundle answers.
        embeddings: Whether the table has them.
    """

    def __init__(self, bundle: Bundle, limits: ImageLimits, precision: Precision, *, embeddings: bool) -> None:
        self._predictor = Predictor(bundle, limits, precision=precision)
        self._embeddings = embeddings
        self.schema = _schema(bundle, precision, embeddings=embeddings)
        # More threads than cores may wait for posters; no more of them shall work, which takes memory.
        self._cores = threading.BoundedSemaphore(usable_cores())

    def score(self, rows: Iterable[Row], threads: int) -> Iterator[pa.Table]:
        """Tables of a few rows each, in order, however many there are.

        Args:
            rows: The posters.
            threads: To work on.

        Raises:
            OnesheetError: The posters cannot be reached at all; what is wrong with one is in its row.
        """
        answers = map_batches(self._answer, rows, threads)
        while some := list(islice(answers, _TABLE_ROWS)):
            yield self._table(some)

    def _answer(self, rows: Sequence[Row]) -> list[_Answer]:
        read = [self._read(row) for row in rows]
        known = iter(self._look_at([item for item in read if isinstance(item, Picture)]))
        return [
            _Answer(row, item, None) if isinstance(item, ImageError) else _Answer(row, None, next(known))
            for row, item in zip(rows, read, strict=True)
        ]

    def _read(self, row: Row) -> Picture | ImageError:
        try:
            data = row.read()
            with self._cores:
                return self._predictor.read(data)
        except ImageError as error:
            return error

    def _look_at(self, pictures: Sequence[Picture]) -> list[_Known]:
        if not pictures:
            return []
        with self._cores:
            outputs = self._predictor.run(np.stack([picture.pixels for picture in pictures]))
            statistics = image_statistics(pictures)
        predictions = [self._predictor.judge(*row) for row in zip(*outputs, strict=True)]
        return list(zip(predictions, statistics, strict=True))

    def _table(self, answers: Sequence[_Answer]) -> pa.Table:
        """As `schema`; a poster without an answer has null in all columns but four."""
        known = [answer.known for answer in answers if answer.known]
        numbers = iter(range(len(known)))
        places = pa.array([next(numbers) if answer.known else None for answer in answers], pa.int32())
        errors = [answer.error for answer in answers]
        columns = {
            **{name: column.take(places) for name, column in self._columns(known).items()},
            "poster": pa.array([answer.row.name for answer in answers], pa.string()),
            "etag": pa.array([answer.row.etag for answer in answers], pa.string()),
            "error": pa.array([error and error.code for error in errors], pa.string()),
            "message": pa.array([error and error.message for error in errors], pa.string()),
        }
        return pa.table([columns[field.name] for field in self.schema], self.schema)

    def _columns(self, known: Sequence[_Known]) -> dict[str, pa.Array]:
        genres = self._predictor.genres
        predicted = [[score.label for score in prediction.predicted] for prediction, _ in known]
        probabilities = np.array([prediction.probabilities for prediction, _ in known], np.float32)
        embeddings = [prediction.embedding.astype(np.float16) for prediction, _ in known]
        return {
            "genres": pa.array(predicted, pa.list_(pa.string())),
            "probabilities": pa.StructArray.from_arrays(list(probabilities.reshape(-1, len(genres)).T), list(genres)),
            **{name: pa.array([statistics[name] for _, statistics in known], pa.float32()) for name in STATISTICS},
            **({"embedding": pa.array(embeddings, _EMBEDDING)} if self._embeddings else {}),
        }


def threads_for(*, remote: bool) -> int:
    """As many as there are cores; more where posters are mostly waited for."""
    return max(usable_cores(), _REMOTE_THREADS) if remote else usable_cores()


def _schema(bundle: Bundle, precision: Precision, *, embeddings: bool) -> pa.Schema:
    """Of the catalogue, with what it was made with as metadata."""
    genres = bundle.metadata.genres
    fields = [
        pa.field("poster", pa.string(), nullable=False),
        pa.field("genres", pa.list_(pa.string())),
        pa.field("probabilities", pa.struct([(genre, pa.float32()) for genre in genres])),
        *([pa.field("embedding", _EMBEDDING)] if embeddings else []),
        *(pa.field(name, pa.float32()) for name in STATISTICS),
        pa.field("error", pa.string()),
        pa.field("message", pa.string()),
        pa.field("etag", pa.string()),
    ]
    made_with: dict[str, Any] = {
        "format": FORMAT,
        "bundle": bundle_identity(bundle),
        "precision": precision,
        "embeddings": embeddings,
        "genres": list(genres),
        "thresholds": bundle.metadata.thresholds,
    }
    return pa.schema(fields, {METADATA_KEY: json.dumps(made_with).encode()})
