"""The log keeps every answer, once, in SQLite and in PostgreSQL, whoever writes beside it."""

from __future__ import annotations

import dataclasses
import sqlite3
import sys
import threading
from contextlib import closing
from datetime import UTC, datetime, timedelta
from uuid import uuid4

import numpy as np
import pytest
from sqlalchemy import create_engine, inspect

from onesheet.errors import InvalidRequestError, LogUnavailableError, UnknownPredictionError
from onesheet.image_statistics import STATISTICS
from onesheet.predictionlog import Feedback, GroupWriter, LoggedPrediction, PredictionLog
from onesheet.predictionlog.migrate import upgrade
from onesheet.predictionlog.schema import METADATA
from tests.processes import MAX_WAIT

NOW = datetime(2026, 11, 23, 12, tzinfo=UTC)


def answer(**fields) -> LoggedPrediction:
    """One to be logged."""
    usual = {
        "id": uuid4(),
        "time": NOW,
        "role": "answered",
        "model_name": "tiny",
        "model_version": "1.2.3",
        "genres": ("Comedy", "Drama"),
        "probabilities": np.array([0.25, 0.75], np.float32),
        "embedding": np.array([1.5, -2.0, 0.0], np.float32),
        "threshold": None,
        "predicted": ("Drama",),
        "statistics": {name: float(place) for place, name in enumerate(STATISTICS)},
        "latency_ms": 12.5,
        "file_name": "pöster.jpg",
        "content_sha256": "0" * 64,
        "request_id": "abc",
    }
    return LoggedPrediction(**{**usual, **fields})


def test_an_answer_comes_back_as_it_was(log):
    given = answer(threshold=0.4, time=datetime(2026, 3, 1, 1, tzinfo=UTC))
    log.append([given])
    (kept,) = log.predictions()
    for field in dataclasses.fields(LoggedPrediction):
        if field.name in ("probabilities", "embedding"):
            np.testing.assert_array_equal(getattr(kept, field.name), getattr(given, field.name))
        else:
            assert getattr(kept, field.name) == getattr(given, field.name), field.name


def test_the_migrations_make_the_tables_that_the_code_knows(log, log_url):
    engine = create_engine(log_url.replace("postgresql", "postgresql+psycopg"))
    found = inspect(engine)
    assert set(found.get_table_names()) == {*METADATA.tables, "alembic_version"}
    for name, table in METADATA.tables.items():
        assert {column["name"] for column in found.get_columns(name)} == set(table.columns.keys())
        assert {index["name"] for index in found.get_indexes(name)} >= {index.name for index in table.indexes}
        assert found.get_pk_constraint(name)["constrained_columns"] == [key.name for key in table.primary_key]
    engine.dispose()


def test_to_write_a_group_again_doubles_nothing(log):
    group = [answer() for _ in range(3)]
    log.append(group)
    log.append([*group, answer()])
    assert log.count() == 4


def test_a_shadow_answer_stands_beside_the_one_that_was_given(log):
    given = answer()
    log.append([given, dataclasses.replace(given, role="shadow", model_version="2")])
    assert {(kept.id, kept.role) for kept in log.predictions()} == {(given.id, "answered"), (given.id, "shadow")}


def test_a_window_of_time_and_a_model_are_read_in_order(log):
    hours = [answer(time=NOW + timedelta(hours=number), model_version=str(number % 2)) for number in range(6)]
    log.append(hours[::-1])
    window = log.predictions(since=hours[1].time, until=hours[5].time)
    assert [kept.id for kept in window] == [given.id for given in hours[1:5]]
    assert [kept.id for kept in log.predictions(model_version="1")] == [given.id for given in hours[1::2]]


def test_feedback_joins_the_answer_that_it_is_about(log):
    given = answer()
    log.append([given])
    said = Feedback(given.id, NOW, ("Comedy",))
    log.add_feedback(said)
    assert list(log.feedback(given.id)) == [said]
    with pytest.raises(UnknownPredictionError):
        log.add_feedback(Feedback(uuid4(), NOW, ()))
    assert list(log.feedback()) == [said]


def test_answers_are_forgotten_by_id_and_by_age_with_what_was_said_of_them(log):
    old, kept, named = answer(time=NOW - timedelta(days=91)), answer(), answer()
    log.append([old, kept, named])
    for given in (old, kept, named):
        log.add_feedback(Feedback(given.id, NOW, ()))
    assert log.delete([named.id, uuid4()]) == 1
    assert log.delete_before(NOW - timedelta(days=90)) == 1
    assert [left.id for left in log.predictions()] == [kept.id]
    assert [left.prediction_id for left in log.feedback()] == [kept.id]


def write_many(url: str, number: int) -> None:
    """A process of its own: its answers arrive one by one from several threads."""
    log = PredictionLog(url)
    log.migrate()
    writer = GroupWriter(log.append)
    mine = [answer(request_id=f"{number}-{place}", model_version=str(number)) for place in range(50)]

    def submit(part: list[LoggedPrediction]) -> None:
        for given in part:
            writer.submit(given).result(MAX_WAIT)

    threads = [threading.Thread(target=submit, args=(mine[start::5],)) for start in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    writer.close()
    log.close()


def test_eight_processes_write_at_once_and_nothing_is_lost_or_doubled(log_url, start_process):
    """They also create the tables at once."""
    code = "import runpy, sys; runpy.run_path(sys.argv[1])['write_many'](sys.argv[2], int(sys.argv[3]))"
    processes = [start_process([sys.executable, "-c", code, __file__, log_url, place]) for place in range(8)]
    assert [process.wait(MAX_WAIT) for process in processes] == [0] * 8
    log = PredictionLog(log_url)
    found = [kept.request_id for kept in log.predictions()]
    log.close()
    assert sorted(found) == sorted(f"{number}-{place}" for number in range(8) for place in range(50))


def test_a_database_that_went_away_is_told_and_comes_back(postgres):
    log = PredictionLog(postgres.url)
    log.migrate()
    log.append([answer()])
    postgres.stop()
    with pytest.raises(LogUnavailableError) as failure:
        log.append([answer()])
    assert "127.0.0.1" not in failure.value.message
    postgres.start()
    log.append([answer()])
    assert log.count() == 2
    log.delete_before(NOW + timedelta(days=1))
    log.close()


def test_what_arrives_while_a_group_is_written_becomes_the_next_group():
    may_go, groups = threading.Event(), []

    def append(group) -> None:
        groups.append(len(group))
        may_go.wait(MAX_WAIT)

    writer = GroupWriter(append)
    first = writer.submit(answer())
    while not groups:
        pass
    others = [writer.submit(answer()) for _ in range(20)]
    may_go.set()
    for written in (first, *others):
        written.result(MAX_WAIT)
    writer.close()
    assert groups == [1, 20]


@pytest.fixture
def held_writer():
    """`writer, may_go, written`: the first group is being written until `may_go` is set."""
    may_go, started, written = threading.Event(), threading.Event(), []

    def append(group) -> None:
        started.set()
        assert may_go.wait(MAX_WAIT)
        written.extend(given.id for given in group)

    writer = GroupWriter(append)
    writer.submit(answer())
    assert started.wait(MAX_WAIT)
    yield writer, may_go, written
    may_go.set()
    writer.close()


def test_what_nobody_waits_for_any_more_is_not_written(held_writer):
    writer, may_go, written = held_writer
    given = [answer() for _ in range(3)]
    futures = [writer.submit(one) for one in given]
    assert futures[1].cancel()
    may_go.set()
    futures[2].result(MAX_WAIT)
    assert written[1:] == [given[0].id, given[2].id]


def test_behind_a_database_that_hangs_only_so_many_wait(held_writer, monkeypatch):
    monkeypatch.setattr("onesheet.predictionlog.writer._MOST_WAITING", 2)
    writer, may_go, written = held_writer
    futures = [writer.submit(answer()) for _ in range(3)]
    assert isinstance(futures[2].exception(timeout=0), LogUnavailableError)
    may_go.set()
    futures[1].result(MAX_WAIT)
    assert len(written) == 3


def test_a_group_that_fails_is_told_to_everybody_in_it_and_the_next_is_written():
    failing = True

    def append(group) -> None:
        if failing:
            raise LogUnavailableError

    writer = GroupWriter(append)
    with pytest.raises(LogUnavailableError):
        writer.submit(answer()).result(MAX_WAIT)
    failing = False
    assert writer.submit(answer()).result(MAX_WAIT) is None
    writer.close()


@pytest.mark.parametrize("url", ["nonsense", "mysql://host/database", "oracle+cx://x/y", "sqlite"])
def test_other_addresses_are_refused(url):
    with pytest.raises(InvalidRequestError, match="prediction log"):
        PredictionLog(url)


def test_a_folder_that_is_not_there_is_told_without_its_name(tmp_path):
    log = PredictionLog(f"sqlite:///{tmp_path}/nowhere/log.db")
    with pytest.raises(LogUnavailableError) as failure:
        log.migrate()
    assert str(tmp_path) not in failure.value.message
    log.close()


def test_closing_lets_another_thread_finish_what_it_does_with_the_file(tmp_path, monkeypatch):
    path, is_locked, failures = tmp_path / "log.db", threading.Event(), []
    with closing(sqlite3.connect(path, isolation_level=None, check_same_thread=False)) as other:

        def upgrade_then_lock(engine):
            upgrade(engine)
            other.execute("BEGIN IMMEDIATE")
            is_locked.set()

        def migrate():
            try:
                log.migrate()
            except LogUnavailableError as error:
                failures.append(error)

        monkeypatch.setattr("onesheet.predictionlog.migrate.upgrade", upgrade_then_lock)
        log = PredictionLog(f"sqlite:///{path}")
        migrating, closer = threading.Thread(target=migrate), threading.Thread(target=log.close)
        migrating.start()
        assert is_locked.wait(MAX_WAIT)
        closer.start()
        # Only so that a connection that is closed too early is: whatever comes first here, the rest has to hold.
        closer.join(0.2)
        other.execute("COMMIT")
        migrating.join(MAX_WAIT)
        closer.join(MAX_WAIT)
        (mark,) = other.execute("PRAGMA application_id").fetchone()
    assert not failures
    assert mark
