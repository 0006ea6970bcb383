"""What happened in a window of time, for a page that watches: bounded in memory and time, however long the log is."""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import Any, Final
from uuid import UUID

import numpy as np
from sqlalchemy import ColumnElement, and_, exists, func, select, true

from onesheet.errors import InvalidRequestError
from onesheet.predictionlog.schema import FEEDBACK, MODELS, PREDICTIONS
from onesheet.predictionlog.store import PredictionLog

# Of more answers only about so many are looked at.
_MOST: Final = 20_000
_MOST_BUCKETS: Final = 500
# To read an answer by its id costs about so many times what it costs to read the next one in time.
_COST_OF_A_JUMP: Final = 4


@dataclass(frozen=True, slots=True)
class Bucket:
    """A part of the window.

    Attributes:
        start: Its first moment, UTC.
        answers: How many were given.
        p50_ms: Median of their latencies; None without answers, as the next two.
        p95_ms: 95th percentile of their latencies.
        confidence: Mean of their highest probabilities.
        genres: For each predicted genre, in how many answers.
    """

    start: datetime
    answers: int
    p50_ms: float | None
    p95_ms: float | None
    confidence: float | None
    genres: dict[str, int]


@dataclass(frozen=True, slots=True)
class FeedbackSummary:
    """Answers beside what was last said of them.

    Attributes:
        count: Answers that somebody spoke of.
        agreement: Mean Jaccard index of the predicted and the true genres; None without feedback.
        precision: Share of the predicted genres that are true; None where nothing was predicted.
        recall: Share of the true genres that were predicted; None where nothing is true.
        per_genre: How often it was `predicted`, `confirmed` (predicted and true) and `true`.
    """

    count: int
    agreement: float | None
    precision: float | None
    recall: float | None
    per_genre: dict[str, dict[str, int]]


@dataclass(frozen=True, slots=True)
class Activity:
    """A window. `answers` and `models` are exact; the rest is estimated where fewer answers were `sampled` than given.

    Attributes:
        since: The first moment, UTC.
        until: The moment after the last, UTC.
        answers: How many were given.
        sampled: How many of them were looked at.
        buckets: Equal parts of the window, in order.
        models: How many answers each gave, by name and version.
        feedback: What people say.
    """

    since: datetime
    until: datetime
    answers: int
    sampled: int
    buckets: tuple[Bucket, ...]
    models: dict[str, int]
    feedback: FeedbackSummary

    def to_dict(self) -> dict[str, Any]:
        """As JSON."""
        window = {"since": self.since.isoformat(), "until": self.until.isoformat()}
        buckets = [{**asdict(bucket), "start": bucket.start.isoformat()} for bucket in self.buckets]
        return {**asdict(self), **window, "buckets": buckets}


@dataclass(slots=True)
class _Tally:
    latencies: list[float] = field(default_factory=list)
    confidences: list[float] = field(default_factory=list)
    genres: Counter[str] = field(default_factory=Counter)

    def to_bucket(self, start: datetime, scale: float) -> Bucket:
        if not self.latencies:
            return Bucket(start, 0, None, None, None, {})
        p50, p95 = np.percentile(self.latencies, (50, 95)).tolist()
        genres = {genre: round(count * scale) for genre, count in sorted(self.genres.items())}
        return Bucket(start, round(len(self.latencies) * scale), p50, p95, float(np.mean(self.confidences)), genres)


def summarize(log: PredictionLog, since: datetime, until: datetime, buckets: int = 48) -> Activity:
    """What was answered in a window of time, and what people say of it; shadow answers do not count.

    Args:
        log: To read.
        since: The first moment.
        until: The moment after the last.
        buckets: Into how many equal parts to divide it.

    Raises:
        InvalidRequestError: The window is empty, or there are too few or too many parts.
        LogUnavailableError: The log cannot be read.
    """
    since, until = since.astimezone(UTC), until.astimezone(UTC)
    if since >= until:
        raise InvalidRequestError("the window of time must end after it starts")
    if not 1 <= buckets <= _MOST_BUCKETS:
        raise InvalidRequestError(f"the window of time has from 1 to {_MOST_BUCKETS} parts, not {buckets}")
    models = _count(log, _answered(since, until))
    answers = models.total()
    by_id = is_faster_by_id(log, answers, _MOST)
    window = _answered(since, until, by_id=by_id)
    starts = [since + (until - since) * (place / buckets) for place in range(buckets)]
    tallies, found = _tally(log, window, _share(answers), starts)
    sampled = found.total()
    if answers <= _MOST:
        # Some may have come since they were counted.
        models, answers = found, sampled
    scale = answers / max(sampled, 1)
    parts = tuple(tally.to_bucket(start, scale) for tally, start in zip(tallies, starts, strict=True))
    feedback = _feedback(log, window, answers)
    return Activity(since, until, answers, sampled, parts, dict(sorted(models.items())), feedback)


def count_by_model(log: PredictionLog, since: datetime, until: datetime) -> Counter[str]:
    """How many answers each model gave in a window of time, by name and version; shadow answers do not count.

    Raises:
        LogUnavailableError: The log cannot be read.
    """
    return _count(log, _answered(since.astimezone(UTC), until.astimezone(UTC)))


def _count(log: PredictionLog, window: ColumnElement[bool]) -> Counter[str]:
    """How many answers each model gave."""
    model = PREDICTIONS.c.model_id
    counted = select(model, func.count().label("answers")).where(window).group_by(model).subquery()
    query = select(MODELS.c.name, MODELS.c.version, counted.c.answers).join(counted, MODELS.c.id == counted.c.model_id)
    return Counter({f"{row.name} {row.version}": row.answers for row in log.rows(query)})


def _tally(
    log: PredictionLog, window: ColumnElement[bool], share: float, starts: Sequence[datetime]
) -> tuple[list[_Tally], Counter[str]]:
    """Look at a share of the answers, part by part of the window; also how many each model gave."""
    light = (PREDICTIONS.c.time, PREDICTIONS.c.latency_ms, PREDICTIONS.c.predicted, PREDICTIONS.c.probabilities)
    query = select(*light, MODELS.c.name, MODELS.c.version).join(MODELS)
    tallies, models = [_Tally() for _ in starts], Counter[str]()
    for row in log.rows(query.where(window, sampled(PREDICTIONS.c.id, share))):
        tally = tallies[bisect_right(starts, row.time) - 1]
        tally.latencies.append(row.latency_ms)
        tally.confidences.append(float(np.frombuffer(row.probabilities, "<f4").max()))
        tally.genres.update(row.predicted)
        models[f"{row.name} {row.version}"] += 1
    return tallies, models


def _feedback(log: PredictionLog, window: ColumnElement[bool], answers: int) -> FeedbackSummary:
    share = _share(answers)
    if share < 1:
        # It is rarer than answers, so that a greater share of it can be looked at.
        ((said,),) = log.rows(select(func.count()).select_from(FEEDBACK))
        share = _share(min(said, answers))
    predicted, confirmed, true_ones = Counter[str](), Counter[str](), Counter[str]()
    count, agreement = 0, 0.0
    for ours, theirs in _said(log, window, share):
        count += 1
        agreement += len(ours & theirs) / len(ours | theirs) if ours | theirs else 1.0
        predicted.update(ours)
        confirmed.update(ours & theirs)
        true_ones.update(theirs)
    columns = {"predicted": predicted, "confirmed": confirmed, "true": true_ones}
    genres = {
        genre: {name: round(column[genre] / share) for name, column in columns.items()}
        for genre in sorted(predicted | true_ones)
    }
    precision = confirmed.total() / predicted.total() if predicted else None
    recall = confirmed.total() / true_ones.total() if true_ones else None
    return FeedbackSummary(round(count / share), agreement / count if count else None, precision, recall, genres)


def _said(log: PredictionLog, window: ColumnElement[bool], share: float) -> Iterator[tuple[set[str], set[str]]]:
    """The predicted and the true genres of a share of the answers that somebody spoke of."""
    later = FEEDBACK.alias("later")
    is_last = ~exists().where(later.c.prediction_id == FEEDBACK.c.prediction_id, later.c.id > FEEDBACK.c.id)
    answer, subject = PREDICTIONS.c.id, FEEDBACK.c.prediction_id
    query = select(PREDICTIONS.c.predicted, FEEDBACK.c.genres).join(FEEDBACK, subject == answer)
    # Whichever table the database begins with, it can leave out most of it at once.
    for row in log.rows(query.where(window, is_last, sampled(answer, share), sampled(subject, share))):
        yield set(row.predicted), set(row.genres)


def _answered(since: datetime, until: datetime, *, by_id: bool = False) -> ColumnElement[bool]:
    """The answers of a window, found by their times; or by their ids, with the index on times hidden."""
    time = without_index(PREDICTIONS.c.time) if by_id else PREDICTIONS.c.time
    return and_(PREDICTIONS.c.role == "answered", time >= since, time < until)


def _share(rows: int) -> float:
    return min(1.0, _MOST / rows) if rows else 1.0


def is_faster_by_id(log: PredictionLog, answers: int, most: int) -> bool:
    """Whether to find so many of a window's answers, taken at random, by their ids, and not by their times.

    Args:
        log: All of it.
        answers: In the window.
        most: How many are wanted.

    Raises:
        LogUnavailableError: The database cannot be read.
    """
    return answers > most and _COST_OF_A_JUMP * most * log.count() < answers**2


def without_index(column: ColumnElement[Any]) -> ColumnElement[Any]:
    """The same values, for which a database looks at no index."""
    return func.coalesce(column, column)


def sampled(column: ColumnElement[UUID], share: float) -> ColumnElement[bool]:
    """A share of all answers, without bias and the same at each call.

    Their ids are uuid4, whose first 48 bits are random: a share of them lies below that share of the numbers of
    128 bits, whatever was answered and when. PostgreSQL compares them as such numbers, and so does SQLite, which keeps
    them as 32 hexadecimal digits. Both have an index that begins with them.
    """
    return column < UUID(int=int(share * 2**128)) if share < 1 else true()
