"""The prediction log's file or tables are replaced under a running service: what is acknowledged is in the new ones."""

from __future__ import annotations

import ast
import os
import shutil
import sqlite3
import subprocess
import sys
import threading
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from uuid import uuid4

import numpy as np
import pytest
from sqlalchemy import create_engine, text

from onesheet.errors import LogUnavailableError
from onesheet.image_statistics import STATISTICS
from onesheet.predictionlog import DriftRuns, Feedback, LoggedPrediction, PredictionLog, summarize
from onesheet.predictionlog import sqlite_file as sqlite_file_module

NOW = datetime(2026, 11, 23, 12, tzinfo=UTC)


def answer(version: str = "1.2.3") -> LoggedPrediction:
    return LoggedPrediction(
        id=uuid4(),
        time=NOW,
        role="answered",
        model_name="tiny",
        model_version=version,
        genres=("Comedy", "Drama"),
        probabilities=np.array([0.25, 0.75], np.float32),
        embedding=np.zeros(3, np.float32),
        threshold=None,
        predicted=("Drama",),
        statistics=dict.fromkeys(STATISTICS, 1.0),
        latency_ms=12.5,
        file_name=None,
        content_sha256="0" * 64,
        request_id=None,
    )


def found_at(path: Path) -> set[str]:
    """The answers that another process finds there: nothing of what this one has open is seen by it."""
    code = "import sqlite3, sys; print(sqlite3.connect(sys.argv[1]).execute('SELECT id FROM predictions').fetchall())"
    done = subprocess.run([sys.executable, "-c", code, path], capture_output=True, text=True, check=True)
    return {row[0] for row in ast.literal_eval(done.stdout)}


def keys(answers) -> set[str]:
    return {kept.id.hex for kept in answers}


def beside(path: Path) -> list[Path]:
    return [path.with_name(path.name + end) for end in ("-wal", "-shm")]


@pytest.fixture
def path(tmp_path) -> Path:
    (tmp_path / "folder").mkdir()
    return tmp_path / "folder" / "log.db"


@pytest.fixture
def log(path, monkeypatch):
    monkeypatch.setattr(sqlite_file_module, "_QUIET_SECONDS", 0.05)
    with closing(PredictionLog(f"sqlite:///{path}")) as opened:
        opened.migrate()
        yield opened


def append_soon(log, given, eventually) -> None:
    """As a service does: what was refused is asked again, until it is acknowledged."""

    def appended() -> bool:
        try:
            log.append(given)
        except LogUnavailableError:
            return False
        return True

    eventually(appended, 60)


def remove(path: Path) -> None:
    path.unlink()


def remove_all(path: Path) -> None:
    for each in (path, *beside(path)):
        each.unlink()


def rotate(path: Path) -> None:
    path.rename(path.with_name("rotated.db"))


def rotate_all(path: Path) -> None:
    for each in (path, *beside(path)):
        each.rename(each.with_name(each.name.replace("log", "rotated")))


def restore_as_another_file(path: Path) -> None:
    shutil.copy(path.with_name("backup.db"), path.with_name("restored.db"))
    path.with_name("restored.db").replace(path)


def restore_in_place(path: Path) -> None:
    shutil.copy(path.with_name("backup.db"), path)


def restore_an_old_schema_in_place(path: Path) -> None:
    with closing(sqlite3.connect(path.with_name("old.db"))) as old:
        old.executescript("CREATE TABLE unrelated (x); INSERT INTO unrelated VALUES (zeroblob(200000));")
    shutil.copy(path.with_name("old.db"), path)


def empty(path: Path) -> None:
    path.write_bytes(b"")


def remove_what_lies_beside(path: Path) -> None:
    for each in beside(path):
        each.unlink()


def remove_the_index(path: Path) -> None:
    beside(path)[1].unlink()


def drop_tables(path: Path) -> None:
    with closing(sqlite3.connect(path)) as other:
        other.executescript("PRAGMA foreign_keys=OFF; DROP TABLE predictions; DROP TABLE models;")


def drop_everything(path: Path) -> None:
    with closing(sqlite3.connect(path)) as other:
        tables = ["predictions", "models", "feedback", "drift_runs", "alembic_version"]
        other.executescript("PRAGMA foreign_keys=OFF;" + "".join(f"DROP TABLE {table};" for table in tables))


@pytest.mark.parametrize(
    "fault",
    [
        remove,
        remove_all,
        rotate,
        rotate_all,
        restore_as_another_file,
        restore_in_place,
        restore_an_old_schema_in_place,
        empty,
        remove_what_lies_beside,
        remove_the_index,
        drop_tables,
        drop_everything,
    ],
)
@pytest.mark.parametrize("checkpointed", [False, True], ids=["in the write-ahead log", "in the file"])
def test_what_is_acknowledged_afterwards_is_in_the_file_at_the_path(log, path, fault, checkpointed, eventually):
    log.append([answer("0")])
    with closing(sqlite3.connect(path)) as other, closing(sqlite3.connect(path.with_name("backup.db"))) as backup:
        other.backup(backup)
    log.append([answer("another") for _ in range(3)])
    if checkpointed:
        with closing(sqlite3.connect(path)) as other:
            other.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        log.append([answer("another")])

    fault(path)
    acknowledged = [answer() for _ in range(30)]
    for given in acknowledged:
        append_soon(log, [given], eventually)

    assert keys(acknowledged) <= found_at(path)
    assert {kept.model_version for kept in log.predictions() if kept.id in {a.id for a in acknowledged}} == {"1.2.3"}
    log.add_feedback(Feedback(acknowledged[0].id, NOW, ("Drama",)))
    assert summarize(log, NOW, NOW.replace(hour=13)).answers == log.count()
    with closing(sqlite3.connect(path)) as other:
        assert other.execute("PRAGMA integrity_check").fetchall() == [("ok",)]


def test_a_file_that_is_replaced_between_the_commit_and_the_answer_is_noticed(log, path, monkeypatch):
    given, count = answer(), log._database._count_change

    def replaced_now(connection) -> None:
        count(connection)
        monkeypatch.undo()
        path.unlink()

    monkeypatch.setattr(log._database, "_count_change", replaced_now)
    log.append([given])
    assert keys([given]) == found_at(path)


def test_what_was_acknowledged_before_is_in_the_file_that_was_put_aside(log, path):
    before = [answer() for _ in range(5)]
    log.append(before)
    rotate(path)
    log.append([answer()])
    assert keys(before) == found_at(path.with_name("rotated.db"))
    assert len(found_at(path)) == 1


@pytest.mark.parametrize("fault", [remove_what_lies_beside, remove_the_index])
def test_what_was_acknowledged_before_the_write_ahead_log_was_removed_is_kept(log, path, fault):
    before = [answer() for _ in range(5)]
    log.append(before)
    fault(path)
    log.append(after := [answer()])
    assert keys([*before, *after]) == found_at(path)


@pytest.mark.skipif(sys.platform == "win32", reason="needs rights for symbolic links there")
def test_a_file_that_a_link_leads_to_is_used_and_followed_to_another(path, monkeypatch, eventually):
    monkeypatch.setattr(sqlite_file_module, "_QUIET_SECONDS", 0.05)
    first, second = path.with_name("first.db"), path.with_name("second.db")
    path.symlink_to(first.name)
    with closing(PredictionLog(f"sqlite:///{path}")) as log:
        log.migrate()
        log.append(before := [answer()])
        first.unlink()
        log.append(after_removal := [answer()])
        empty(first)
        append_soon(log, emptied := [answer()], eventually)
        assert path.is_symlink()
        assert keys(before + after_removal).isdisjoint(found_at(path))

        with closing(sqlite3.connect(first)) as reader:  # which keeps the write-ahead log from being brought home
            reader.execute("BEGIN").execute("SELECT id FROM predictions").fetchall()
            log.append(late := [answer()])
            path.unlink()
            path.symlink_to(second.name)
            log.append(elsewhere := [answer()])
    assert keys(emptied + late) == found_at(first)
    assert keys(elsewhere) == found_at(second) == found_at(path)


@pytest.mark.parametrize("fault", [remove, drop_everything])
def test_reads_find_what_is_at_the_path(log, path, fault):
    log.append([answer()])
    fault(path)
    assert log.count() == 0
    assert list(log.predictions()) == []
    assert DriftRuns(log).latest() == []
    assert summarize(log, NOW, NOW.replace(hour=13)).answers == 0


def test_what_cannot_be_used_is_refused_with_the_reason_until_it_can(log, path):
    log.append([answer()])
    shutil.rmtree(path.parent)
    for ask in (lambda: log.append([answer()]), log.count):
        with pytest.raises(LogUnavailableError, match="unable to open database file") as refused:
            ask()
        assert str(path.parent) not in refused.value.message
    path.parent.mkdir()
    path.write_bytes(b"no database, but something of somebody's" * 1000)
    os.utime(path, (0, 0))
    with pytest.raises(LogUnavailableError, match="file is not a database"):
        log.append([answer()])
    assert path.read_bytes().startswith(b"no database")
    path.unlink()
    log.append([answer()])
    assert len(found_at(path)) == 1


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda path: path.write_bytes(b"garbage " * 100_000), "file is not a database"),
        (lambda path: os.truncate(path, 4096), "database disk image is malformed"),
    ],
    ids=["garbage", "truncated"],
)
def test_a_file_that_is_spoiled_in_its_place_is_refused_and_left_as_it_is(log, path, spoil, reason, eventually):
    log.append([answer() for _ in range(20)])
    with closing(sqlite3.connect(path)) as other:
        other.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    spoil(path)
    spoiled = path.read_bytes()

    def refused() -> bool:
        with pytest.raises(LogUnavailableError) as failure:
            log.append([answer()])
        return reason in failure.value.message

    eventually(refused)
    assert path.read_bytes() == spoiled


def test_checkpoints_and_vacuum_of_others_are_not_taken_for_somebody_elses_file(log, path, monkeypatch):
    opened = log._database._file.openings
    for _ in range(20):
        log.append([answer() for _ in range(20)])
        with closing(sqlite3.connect(path)) as other:
            other.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    log.delete([kept.id for kept in log.predictions()])
    with closing(sqlite3.connect(path)) as other:
        other.execute("VACUUM")
    log.append([answer()])
    assert log.count() == 1
    assert log._database._file.openings == opened


@pytest.mark.parametrize(("version", "later"), [(0, 1), (2**31 - 1, -(2**31)), (-1, 0)])
def test_the_number_of_changes_runs_over_without_looking_older(version, later):
    assert sqlite_file_module.following(version) == later
    assert sqlite_file_module._is_before(version, later)
    assert not sqlite_file_module._is_before(later, version)


def test_tables_of_a_newer_version_are_not_touched(log, path):
    with closing(sqlite3.connect(path)) as other:
        other.execute("UPDATE alembic_version SET version_num = '9999'")
        other.commit()
    with (
        closing(PredictionLog(f"sqlite:///{path}")) as later,
        pytest.raises(LogUnavailableError, match="another version of onesheet"),
    ):
        later.migrate()


@pytest.mark.parametrize(
    "statement",
    [
        "DROP TABLE predictions",
        "DROP TABLE predictions, models",
        "DROP SCHEMA public CASCADE; CREATE SCHEMA public",
    ],
)
def test_tables_that_are_dropped_in_postgresql_are_made_again(postgres_log_url, statement):
    with closing(PredictionLog(postgres_log_url)) as log:
        log.migrate()
        log.append([answer("0")])
        engine = create_engine(postgres_log_url.replace("postgresql", "postgresql+psycopg"))
        with engine.begin() as connection:
            connection.execute(text(statement))
        engine.dispose()
        given = answer()
        log.append([given])
        assert [kept.model_version for kept in log.predictions()] == ["1.2.3"]
        log.add_feedback(Feedback(given.id, NOW, ()))


def test_what_a_user_of_postgresql_may_not_is_told_as_it_is(postgres_log_url):
    engine = create_engine(postgres_log_url.replace("postgresql", "postgresql+psycopg"))
    with closing(PredictionLog(postgres_log_url)) as log:
        log.migrate()
        with engine.begin() as connection:
            connection.execute(
                text(
                    "CREATE VIEW in_the_way AS SELECT 1; DROP TABLE predictions; "
                    "CREATE VIEW predictions AS SELECT gen_random_uuid() AS id"
                )
            )
        engine.dispose()
        with pytest.raises(LogUnavailableError) as refused:
            log.append([answer()])
    assert "predictions" in str(refused.value.__cause__)


def test_models_that_have_other_numbers_after_a_restore_are_not_mixed_up(postgres_log_url):
    with closing(PredictionLog(postgres_log_url)) as log:
        log.migrate()
        log.append([answer("1"), answer("2")])
        engine = create_engine(postgres_log_url.replace("postgresql", "postgresql+psycopg"))
        with engine.begin() as connection:
            connection.execute(text("DELETE FROM predictions; DELETE FROM models"))
            connection.execute(text("INSERT INTO models VALUES (1, 'tiny', '2', '[\"Comedy\", \"Drama\"]')"))
        engine.dispose()
        log.append([given := answer("1")])
        assert [(kept.id, kept.model_version) for kept in log.predictions()] == [(given.id, "1")]


def test_two_that_use_the_file_at_once_both_go_on_with_the_new_one(log, path):
    with closing(PredictionLog(f"sqlite:///{path}")) as other:
        other.migrate()
        for fault in (remove, rotate, remove_what_lies_beside):
            for each in (log, other):
                each.append([answer()])
            fault(path)
            given = [answer() for _ in range(20)]
            threads = [
                threading.Thread(target=lambda own, part: [own.append([a]) for a in part], args=(own, part))
                for own, part in ((log, given[:10]), (other, given[10:]))
            ]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            assert keys(given) <= found_at(path)
