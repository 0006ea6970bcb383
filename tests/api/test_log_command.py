"""`onesheet log`: exported, deleted, pruned; in both kinds of database."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid4

import anyio
import numpy as np
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from onesheet.cli import app
from onesheet.errors import DataError, LogUnavailableError
from onesheet.image_statistics import STATISTICS
from onesheet.monitoring.log_export import export_parquet
from onesheet.predictionlog import Feedback, LoggedPrediction, PredictionLog
from onesheet.serving import create_app
from tests.processes import MAX_WAIT

START = datetime(2026, 11, 1, tzinfo=UTC)


def prediction(hours: float, version: str = "1") -> LoggedPrediction:
    return LoggedPrediction(
        id=uuid4(),
        time=START + timedelta(hours=hours),
        role="answered",
        model_name="tiny",
        model_version=version,
        genres=("Comedy", "Drama"),
        probabilities=np.array([0.25, 0.75], np.float32),
        embedding=np.array([1, 2, 3], np.float32),
        threshold=None,
        predicted=("Drama",),
        statistics=dict.fromkeys(STATISTICS, 1.5),
        latency_ms=12.5,
        file_name="film.jpg",
        content_sha256="0" * 64,
        request_id=None,
    )


@pytest.fixture
def filled(log):
    kept = [prediction(hours, version="1" if hours < 10 else "2") for hours in range(20)]
    log.append(kept)
    for genres in (("Comedy",), ("Drama",)):
        log.add_feedback(Feedback(kept[3].id, START, genres))
    return kept


def run(*arguments: str):
    return CliRunner().invoke(app, ["log", *arguments])


def test_everything_is_exported_with_what_was_said_last(filled, log_url, tmp_path):
    done = run("export", str(tmp_path / "new" / "log.parquet"), "--url", log_url)
    rows = pq.read_table(tmp_path / "new" / "log.parquet").to_pylist()

    assert done.exit_code == 0, done.output
    assert "20 answers" in done.stdout
    assert [row["prediction_id"] for row in rows] == [str(kept.id) for kept in filled]
    row = rows[3]
    assert row["time"] == filled[3].time
    assert row["probabilities"] == [0.25, 0.75]
    assert row["embedding"] == [1, 2, 3]
    assert (row["predicted"], row["feedback"], rows[4]["feedback"]) == (["Drama"], ["Drama"], None)
    assert row["brightness"] == 1.5


def test_a_part_is_exported(filled, log_url, tmp_path):
    out = tmp_path / "log.parquet"
    times = ("--since", "2026-11-01T05:00", "--until", "2026-11-01T15:00")
    assert run("export", str(out), *times, "--url", log_url).exit_code == 0
    assert pq.read_table(out).num_rows == 10
    assert run("export", str(out), *times, "--model-version", "2", "--url", log_url).exit_code == 0
    assert set(pq.read_table(out)["model_version"].to_pylist()) == {"2"}
    assert pq.read_table(out).num_rows == 5


def test_an_export_of_nothing_fails_and_leaves_the_former_file(filled, log_url, tmp_path):
    out = tmp_path / "log.parquet"
    out.write_bytes(b"former")
    done = run("export", str(out), "--model-version", "9", "--url", log_url)
    assert "no predictions of this time and model version" in str(done.exception)
    assert out.read_bytes() == b"former"


def test_memory_holds_a_batch_at_a_time(log, tmp_path, monkeypatch):
    monkeypatch.setattr("onesheet.monitoring.log_export._ROWS", 3)
    log.append([prediction(hours) for hours in range(8)])
    seen: list[int] = []
    assert export_parquet(log, str(tmp_path / "log.parquet"), on_rows=seen.append) == 8
    assert seen == [3, 6, 8]
    assert pq.ParquetFile(tmp_path / "log.parquet").num_row_groups == 3


def test_an_export_that_fails_leaves_the_former_file(filled, log, tmp_path, monkeypatch):
    out = tmp_path / "log.parquet"
    export_parquet(log, str(out))
    before = out.read_bytes()
    monkeypatch.setattr(PredictionLog, "latest_feedback", _unavailable)
    with pytest.raises(LogUnavailableError):
        export_parquet(log, str(out))
    assert out.read_bytes() == before
    assert [path.name for path in tmp_path.iterdir() if "parquet" in path.name] == ["log.parquet"]


def _unavailable(*_):
    raise LogUnavailableError


@pytest.mark.parametrize("out", ["/proc/nowhere/log.parquet", "nonsense://bucket/log.parquet"])
def test_a_place_that_cannot_be_written_is_told(filled, log, out):
    with pytest.raises(DataError, match="cannot write"):
        export_parquet(log, out)


def test_answers_are_deleted_by_id_with_what_was_said(filled, log, log_url):
    done = run("delete", str(filled[3].id), str(filled[4].id), str(uuid4()), "--url", log_url)
    assert "2 answers removed" in done.stdout
    assert log.count() == 18
    assert list(log.feedback()) == []


def test_to_delete_what_is_not_there_fails(filled, log, log_url):
    done = run("delete", str(uuid4()), "--url", log_url)
    assert "holds no prediction with this id" in str(done.exception)
    assert (done.stdout, log.count()) == ("", 20)


def test_old_answers_are_pruned(log, log_url, monkeypatch):
    monkeypatch.setattr("onesheet.predictionlog.store._BATCH", 3)
    age = (datetime.now(UTC) - START).total_seconds() / 3600
    log.append([prediction(age - 24 * days) for days in (0.5, 1, 89, 91, 92, 93, 94, 365)])
    assert "5 answers removed" in run("prune", "--older-than-days", "90", "--url", log_url).stdout
    assert log.count() == 3


def test_no_log_is_made_where_there_was_none(tmp_path):
    with pytest.raises(LogUnavailableError, match="there is no prediction log at"):
        PredictionLog(f"sqlite:///{tmp_path}/log.db", must_exist=True)
    assert list(tmp_path.iterdir()) == []


def test_an_id_that_is_none_is_wrong_usage(tmp_path):
    assert run("delete", "mine").exit_code == 2


def test_ids_of_an_export_are_those_of_the_answers(filled, log, tmp_path):
    export_parquet(log, str(tmp_path / "log.parquet"))
    ids = pq.read_table(tmp_path / "log.parquet")["prediction_id"].to_pylist()
    assert log.delete([UUID(one) for one in ids]) == 20


@pytest.mark.anyio
async def test_a_service_forgets_by_itself(log, log_url, filled, settings):
    days = (datetime.now(UTC) - filled[10].time) / timedelta(days=1) + 0.01
    app = create_app(settings.model_copy(update={"log_url": log_url, "log_retention_days": days}))
    with anyio.fail_after(MAX_WAIT):
        async with app.router.lifespan_context(app):
            while log.count() > 10:
                await anyio.sleep(0.02)
    assert [kept.id for kept in log.predictions()] == [kept.id for kept in filled[10:]]


@pytest.mark.anyio
async def test_a_service_that_cannot_forget_says_so_and_answers_on(read_log, settings, predictor, connect, tmp_path):
    log_url = f"sqlite:///{tmp_path}/nowhere/log.db"
    changes = {"log_url": log_url, "log_retention_days": 1, "log_failure": "answer"}
    app = create_app(settings.model_copy(update=changes), predictor)
    with anyio.fail_after(MAX_WAIT):
        async with app.router.lifespan_context(app), connect(app) as client:
            while not any(line["event"].startswith("old answers not removed") for line in read_log()):
                await anyio.sleep(0.02)
            assert (await client.get("/readyz")).status_code == 200
