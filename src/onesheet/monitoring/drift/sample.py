"""Pictures and answers as numbers: the same for the reference of a bundle and for what production has seen."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import TYPE_CHECKING, Final, Self

import numpy as np
from sqlalchemy import ColumnElement, and_, exists, func, select

from onesheet.errors import BundleCorruptError
from onesheet.image_statistics import STATISTICS
from onesheet.predictionlog.activity import is_faster_by_id, sampled, without_index
from onesheet.predictionlog.schema import FEEDBACK, MODELS, PREDICTIONS

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from onesheet.bundle import Bundle
    from onesheet.predictionlog import PredictionLog

# Of more answers about so many are looked at: a reference of some hundreds cannot tell more of them apart.
_MOST: Final = 10_000
_MOST_FEEDBACK: Final = 5_000


@dataclass(frozen=True, slots=True)
class Judged:
    """Answers of which the truth is known, or at least said.

    Attributes:
        predicted: bool `[M, G]`, by the bundle's own thresholds.
        true: bool `[M, G]`.
    """

    predicted: NDArray[np.bool_]
    true: NDArray[np.bool_]

    @property
    def agreement(self) -> NDArray[np.float64]:
        """Jaccard index of the predicted and the true genres of each, `[M]`; 1 where there are none of either."""
        both, either = (self.predicted & self.true).sum(axis=1), (self.predicted | self.true).sum(axis=1)
        return np.where(either, both / np.maximum(either, 1), 1.0)


@dataclass(frozen=True, slots=True)
class Sample:
    """Distinct pictures and what the model said of them; NaN where the log holds nothing that could be it.

    Attributes:
        genres: `G` names, in the order of the columns below.
        statistics: float32 `[N, S]`, in the order of `STATISTICS`. A reference keeps no more: beside numbers that are
            exacter, each of its values would lie a little off, and many pictures of one shape would seem to have moved.
        probabilities: float32 `[N, G]`.
        embeddings: float32 `[N, D]`.
        predicted: bool `[N, G]`, by the bundle's own thresholds.
        judged: Those of which the truth is known; of a window they need not be among the `N`.
        answers: How many there were in all.
    """

    genres: tuple[str, ...]
    statistics: NDArray[np.float32]
    probabilities: NDArray[np.float32]
    embeddings: NDArray[np.float32]
    predicted: NDArray[np.bool_]
    judged: Judged
    answers: int

    @property
    def is_usable(self) -> NDArray[np.bool_]:
        """Of which every number is one, `[N]`."""
        numbers = np.column_stack([self.statistics, self.probabilities, self.embeddings])
        return np.asarray(np.isfinite(numbers).all(axis=1))

    @property
    def usable(self) -> Self:
        """Those alone."""
        kept = self.is_usable
        return replace(
            self,
            statistics=self.statistics[kept],
            probabilities=self.probabilities[kept],
            embeddings=self.embeddings[kept],
            predicted=self.predicted[kept],
        )

    @property
    def columns(self) -> dict[str, NDArray[np.float32]]:
        """By name what is one number of each picture: image statistics, `confidence` and `probability:GENRE`."""
        return {
            **{name: self.statistics[:, place] for place, name in enumerate(STATISTICS)},
            "confidence": self.probabilities.max(axis=1),
            **{f"probability:{genre}": self.probabilities[:, place] for place, genre in enumerate(self.genres)},
        }

    @classmethod
    def of_reference(cls, bundle: Bundle) -> Self:
        """The validation posters of a bundle.

        Raises:
            BundleCorruptError: Its reference does not hold what it should.
        """
        from pyarrow import ArrowException

        from onesheet.parquet import read_table

        genres = tuple(bundle.metadata.genres)
        try:
            table = read_table(bundle.files["reference.parquet"])
            columns = {name: table[name].to_numpy() for name in STATISTICS}
            probabilities = np.stack(table["probabilities"].to_numpy()).astype(np.float32)
            embeddings = np.stack(table["embedding"].to_numpy()).astype(np.float32)
            true = _marks(table["genres"].to_pylist(), genres)
        except (ArrowException, KeyError, ValueError) as error:
            raise BundleCorruptError("the bundle's reference.parquet does not hold what it should") from error
        predicted = probabilities >= _thresholds(bundle)
        statistics = np.column_stack([columns[name].astype(np.float32) for name in STATISTICS])
        return cls(genres, statistics, probabilities, embeddings, predicted, Judged(predicted, true), len(statistics))

    @classmethod
    def of_window(cls, log: PredictionLog, bundle: Bundle, width: int, since: datetime, until: datetime) -> Self:
        """What a bundle's model answered in a window of time, to clients or as their shadow, in bounded memory.

        The same picture counts once, however often it was asked: tests of samples take each of them for independent.

        Args:
            log: Its tables must be there.
            bundle: Whose model.
            width: Of its embeddings, `D`.
            since: The first moment.
            until: The moment after the last.

        Raises:
            LogUnavailableError: The log cannot be read.
        """
        genres, thresholds = tuple(bundle.metadata.genres), _thresholds(bundle)
        model_id = _model_id(log, bundle)
        window = _answered(model_id, since, until)
        ((answers,),) = log.rows(select(func.count()).select_from(PREDICTIONS).where(window))
        wanted = (PREDICTIONS.c.content_sha256, PREDICTIONS.c.probabilities, PREDICTIONS.c.embedding)
        query = select(*wanted, *(PREDICTIONS.c[name] for name in STATISTICS))
        share = min(1.0, _MOST / answers) if answers else 1.0
        found = _answered(model_id, since, until, by_id=is_faster_by_id(log, answers, _MOST))
        distinct = {row.content_sha256: row for row in log.rows(query.where(found, sampled(PREDICTIONS.c.id, share)))}
        rows = list(distinct.values())
        probabilities = _stack([row.probabilities for row in rows], "<f4", len(genres))
        statistics = np.array([[row._mapping[name] for name in STATISTICS] for row in rows], np.float32)
        return cls(
            genres,
            statistics.reshape(len(rows), len(STATISTICS)),
            probabilities,
            _stack([row.embedding for row in rows], "<f2", width),
            probabilities >= thresholds,
            _judged(log, window, genres, thresholds),
            answers,
        )


def _model_id(log: PredictionLog, bundle: Bundle) -> int | None:
    name, version = bundle.metadata.name, bundle.metadata.version
    found = list(log.rows(select(MODELS.c.id).where(MODELS.c.name == name, MODELS.c.version == version)))
    return found[0].id if found else None


def _answered(model_id: int | None, since: datetime, until: datetime, *, by_id: bool = False) -> ColumnElement[bool]:
    """The answers of a window, found by their times; or by their ids, with the index on times hidden."""
    time = without_index(PREDICTIONS.c.time) if by_id else PREDICTIONS.c.time
    return and_(PREDICTIONS.c.model_id == model_id, time >= since, time < until)


def _judged(
    log: PredictionLog, window: ColumnElement[bool], genres: tuple[str, ...], thresholds: NDArray[np.float64]
) -> Judged:
    """The latest feedback on answers of the window; of each answer the last word counts."""
    later = FEEDBACK.alias("later")
    is_last = ~exists().where(later.c.prediction_id == FEEDBACK.c.prediction_id, later.c.id > FEEDBACK.c.id)
    query = select(PREDICTIONS.c.probabilities, FEEDBACK.c.genres).join(
        FEEDBACK, FEEDBACK.c.prediction_id == PREDICTIONS.c.id
    )
    latest = query.where(window, is_last).order_by(FEEDBACK.c.id.desc()).limit(_MOST_FEEDBACK)
    rows = list(log.rows(latest))
    probabilities = _stack([row.probabilities for row in rows], "<f4", len(genres))
    return Judged(probabilities >= thresholds, _marks([row.genres for row in rows], genres))


def _stack(blobs: Sequence[bytes], dtype: str, width: int) -> NDArray[np.float32]:
    """float32 `[N, width]`; NaN for what is not so wide, as of another model of the same name and version."""
    size = width * np.dtype(dtype).itemsize
    missing = np.full(width, np.nan, dtype).tobytes()
    whole = b"".join(blob if len(blob) == size else missing for blob in blobs)
    return np.frombuffer(whole, dtype).reshape(len(blobs), width).astype(np.float32)


def _marks(named: Sequence[Sequence[str]], genres: tuple[str, ...]) -> NDArray[np.bool_]:
    """Which genres are named: bool `[N, G]`."""
    marks = [[genre in names for genre in genres] for names in named]
    return np.array(marks, np.bool_).reshape(len(named), len(genres))


def _thresholds(bundle: Bundle) -> NDArray[np.float64]:
    return np.array([bundle.metadata.thresholds[genre] for genre in bundle.metadata.genres])
