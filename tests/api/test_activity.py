"""The summary of a window counts what is in it, exactly or by a sample, in SQLite and in PostgreSQL."""

from __future__ import annotations

import json
from collections import Counter
from datetime import UTC, datetime, timedelta, timezone
from uuid import UUID, uuid4

import numpy as np
import pytest

from onesheet.errors import InvalidRequestError, LogUnavailableError
from onesheet.image_statistics import STATISTICS
from onesheet.predictionlog import Feedback, LoggedPrediction, PredictionLog, summarize
from onesheet.predictionlog.activity import Bucket, FeedbackSummary

NOON = datetime(2026, 11, 23, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)
NO_FEEDBACK = FeedbackSummary(0, None, None, None, {})


def answer(minutes: float, predicted: tuple[str, ...] = ("Drama",), **fields) -> LoggedPrediction:
    """One that was given so long after noon."""
    usual = {
        "id": uuid4(),
        "time": NOON + timedelta(minutes=minutes),
        "role": "answered",
        "model_name": "tiny",
        "model_version": "1.2.3",
        "genres": ("Comedy", "Drama"),
        "probabilities": np.array([0.25, 0.75], np.float32),
        "embedding": np.array([1.5, -2.0, 0.0], np.float32),
        "threshold": None,
        "predicted": predicted,
        "statistics": dict.fromkeys(STATISTICS, 0.0),
        "latency_ms": 10.0,
        "file_name": None,
        "content_sha256": "0" * 64,
        "request_id": None,
    }
    return LoggedPrediction(**{**usual, **fields})


def test_of_an_empty_log_all_parts_are_there_and_say_nothing(log):
    activity = summarize(log, NOON, NOON + HOUR, 3)
    starts = [NOON + timedelta(minutes=minutes) for minutes in (0, 20, 40)]
    assert activity.buckets == tuple(Bucket(start, 0, None, None, None, {}) for start in starts)
    assert (activity.answers, activity.sampled, activity.models) == (0, 0, {})
    assert activity.feedback == NO_FEEDBACK
    assert len(summarize(log, NOON, NOON + HOUR).buckets) == 48


def test_answers_are_told_by_part_of_the_window_and_by_model(log):
    confident, unsure = np.array([0.875, 0.0], np.float32), np.array([0.5, 0.125], np.float32)
    log.append(
        [
            answer(0, latency_ms=10.0, probabilities=confident),
            answer(5, ("Comedy", "Drama"), latency_ms=20.0, probabilities=unsure),
            answer(14.99, (), latency_ms=40.0, probabilities=confident),
            answer(15, ("Comedy",), latency_ms=70.0, probabilities=unsure, model_version="2"),
            answer(59.99, latency_ms=80.0),
        ]
    )
    activity = summarize(log, NOON, NOON + HOUR, 4)
    quarter = HOUR / 4
    assert activity.buckets == (
        Bucket(NOON, 3, 20.0, 38.0, 0.75, {"Comedy": 1, "Drama": 2}),
        Bucket(NOON + quarter, 1, 70.0, 70.0, 0.5, {"Comedy": 1}),
        Bucket(NOON + 2 * quarter, 0, None, None, None, {}),
        Bucket(NOON + 3 * quarter, 1, 80.0, 80.0, 0.75, {"Drama": 1}),
    )
    assert (activity.answers, activity.sampled) == (5, 5)
    assert activity.models == {"tiny 1.2.3": 4, "tiny 2": 1}


def test_shadow_answers_and_those_outside_the_window_do_not_count(log):
    inside = answer(30)
    shadow = answer(30, ("Comedy",), id=inside.id, role="shadow", model_version="2")
    outside = [answer(-0.001), answer(60)]
    log.append([inside, shadow, *outside])
    for given in (inside, *outside):
        log.add_feedback(Feedback(given.id, NOON, ("Drama",)))
    activity = summarize(log, NOON, NOON + HOUR, 1)
    assert (activity.answers, activity.models) == (1, {"tiny 1.2.3": 1})
    assert activity.buckets[0].genres == {"Drama": 1}
    drama = {"predicted": 1, "confirmed": 1, "true": 1}
    assert activity.feedback == FeedbackSummary(1, 1.0, 1.0, 1.0, {"Drama": drama})


def test_what_was_said_last_of_each_answer_counts(log):
    first, second = answer(1, ("Comedy", "Drama")), answer(2, ("Drama",))
    log.append([first, second, answer(3, ("Comedy",))])
    log.add_feedback(Feedback(first.id, NOON + HOUR, ("Comedy",)))
    log.add_feedback(Feedback(second.id, NOON, ("Horror", "Drama", "Crime")))
    log.add_feedback(Feedback(first.id, NOON, ("Drama",)))
    feedback = summarize(log, NOON, NOON + HOUR).feedback
    assert feedback.count == 2
    assert feedback.agreement == pytest.approx((1 / 2 + 1 / 3) / 2)
    assert (feedback.precision, feedback.recall) == (pytest.approx(2 / 3), pytest.approx(2 / 4))
    assert feedback.per_genre == {
        "Comedy": {"predicted": 1, "confirmed": 0, "true": 0},
        "Crime": {"predicted": 0, "confirmed": 0, "true": 1},
        "Drama": {"predicted": 2, "confirmed": 2, "true": 2},
        "Horror": {"predicted": 0, "confirmed": 0, "true": 1},
    }


def test_no_genre_predicted_and_none_true_is_agreement(log):
    given = answer(1, ())
    log.append([given])
    log.add_feedback(Feedback(given.id, NOON, ()))
    assert summarize(log, NOON, NOON + HOUR).feedback == FeedbackSummary(1, 1.0, None, None, {})


def test_the_summary_is_json_with_times_in_utc(log):
    log.append([answer(1)])
    berlin = timezone(HOUR)
    activity = summarize(log, NOON.astimezone(berlin), (NOON + HOUR).astimezone(berlin), 2)
    assert json.loads(json.dumps(activity.to_dict())) == {
        "since": "2026-11-23T12:00:00+00:00",
        "until": "2026-11-23T13:00:00+00:00",
        "answers": 1,
        "sampled": 1,
        "buckets": [
            {
                "start": "2026-11-23T12:00:00+00:00",
                "answers": 1,
                "p50_ms": 10.0,
                "p95_ms": 10.0,
                "confidence": 0.75,
                "genres": {"Drama": 1},
            },
            {
                "start": "2026-11-23T12:30:00+00:00",
                "answers": 0,
                "p50_ms": None,
                "p95_ms": None,
                "confidence": None,
                "genres": {},
            },
        ],
        "models": {"tiny 1.2.3": 1},
        "feedback": {"count": 0, "agreement": None, "precision": None, "recall": None, "per_genre": {}},
    }


# The window is the whole log, or a small part of it: two ways to find the same answers.
@pytest.mark.parametrize("others", [0, 500])
def test_of_many_answers_a_sample_tells_about_all(log, monkeypatch, others):
    monkeypatch.setattr("onesheet.predictionlog.activity._MOST", 150)
    rng = np.random.default_rng(7)

    def new_id() -> UUID:
        return UUID(bytes=rng.bytes(16), version=4)

    genres = [("Drama",) if place % 4 else ("Comedy", "Drama") for place in range(900)]
    given = [
        answer(
            60 * place / 900,
            predicted,
            id=new_id(),
            latency_ms=float(place % 100),
            model_version="2" if place < 3 else "1",
        )
        for place, predicted in enumerate(genres)
    ]
    shadows = [answer(30, ("Horror",), id=one.id, role="shadow") for one in given[::3]]
    log.append([*given, *shadows, *(answer(-9, ("Horror",), id=new_id()) for _ in range(others))])
    for one in given[::3]:
        log.add_feedback(Feedback(one.id, NOON, ("Drama",)))

    activity = summarize(log, NOON, NOON + HOUR, 2)
    assert (activity.answers, activity.models) == (900, {"tiny 1": 897, "tiny 2": 3})
    assert activity.sampled == pytest.approx(150, abs=40)
    counted = sum((Counter(bucket.genres) for bucket in activity.buckets), Counter())
    assert counted["Drama"] == pytest.approx(900, abs=2)
    assert counted["Comedy"] == pytest.approx(225, abs=90)
    assert set(counted) == {"Comedy", "Drama"}
    for bucket in activity.buckets:
        assert bucket.answers == pytest.approx(450, abs=110)
        assert bucket.p50_ms == pytest.approx(49.5, abs=15)
        assert bucket.p95_ms == pytest.approx(94, abs=6)
        assert bucket.confidence == 0.75
    assert activity.feedback.count == pytest.approx(300, abs=60)
    assert activity.feedback.recall == 1
    assert activity.feedback.precision == pytest.approx(0.8, abs=0.08)


def test_as_many_as_are_looked_at_are_counted_exactly(log, monkeypatch):
    monkeypatch.setattr("onesheet.predictionlog.activity._MOST", 30)
    log.append([answer(place) for place in range(30)])
    activity = summarize(log, NOON, NOON + HOUR, 6)
    assert (activity.answers, activity.sampled) == (30, 30)
    assert [bucket.answers for bucket in activity.buckets] == [10, 10, 10, 0, 0, 0]


@pytest.mark.parametrize(
    ("hours", "buckets", "problem"),
    [(0, 48, "must end after"), (-1, 48, "must end after"), (1, 0, "parts, not 0"), (1, 501, "from 1 to 500 parts")],
)
def test_a_window_that_is_none_is_refused(tmp_path, hours, buckets, problem):
    log = PredictionLog(f"sqlite:///{tmp_path}/log.db")
    with pytest.raises(InvalidRequestError, match=problem):
        summarize(log, NOON, NOON + hours * HOUR, buckets)
    log.close()


def test_a_log_that_cannot_be_read_is_told(tmp_path):
    log = PredictionLog(f"sqlite:///{tmp_path}/nowhere/log.db")
    with pytest.raises(LogUnavailableError):
        summarize(log, NOON, NOON + HOUR)
    log.close()
