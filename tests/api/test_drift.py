"""Production beside the reference: what moved is named, and what only looks so is not."""

from __future__ import annotations

import asyncio
import io
import json
import os
import re
import signal
import sys
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import uuid4

import httpx
import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from onesheet.bundle import load_bundle, write_bundle
from onesheet.cli import app as command_line
from onesheet.errors import BundleCorruptError
from onesheet.image_statistics import STATISTICS
from onesheet.monitoring.drift import find_drift
from onesheet.monitoring.drift.report import Report
from onesheet.monitoring.drift.service import create_drift_app
from onesheet.monitoring.drift.two_samples import domain_classifier
from onesheet.predictionlog import DriftRun, DriftRuns, Feedback, LoggedPrediction, PredictionLog
from tests.processes import MAX_WAIT

NOW = datetime.now(UTC)
WEEK = timedelta(days=7)
REFERENCE = 400
# Seconds; what lets others go first may wait long beside other tests.


class World:
    """Posters and a model's answers, made by chance of one kind, and bundles whose reference they are."""

    def __init__(self, metadata: dict, files: dict[str, bytes], seed: int = 0) -> None:
        self._metadata, self._files = metadata, files
        self._rng = np.random.default_rng(seed)
        self.genres = tuple(metadata["genres"])

    def columns(self, n: int) -> dict[str, np.ndarray]:
        embeddings = self._rng.normal(size=(n, 8))
        probabilities = 1 / (1 + np.exp(-embeddings[:, :4] - self._rng.normal(size=(n, 4)) / 4))
        statistics = {name: self._rng.gamma(4, 10, size=n) for name in STATISTICS}
        statistics["aspect"] = self._rng.choice([2 / 3, 27 / 40, 0.7], size=n)
        return {**statistics, "probabilities": probabilities, "embedding": embeddings}

    def bundle(self, folder):
        columns = self.columns(REFERENCE)
        probabilities = columns.pop("probabilities").astype(np.float32)
        embedding = columns.pop("embedding").astype(np.float16)
        true = [[genre for genre, p in zip(self.genres, row, strict=True) if p > 0.5] for row in probabilities]
        table = pa.table(
            {
                "id": [str(number) for number in range(REFERENCE)],
                "sha256": [f"{number:064x}" for number in range(REFERENCE)],
                "genres": true,
                **{name: pa.array(values, pa.float32()) for name, values in columns.items()},
                "probabilities": pa.array(list(probabilities), pa.list_(pa.float32())),
                "embedding": pa.array(list(embedding), pa.list_(pa.float16())),
            }
        )
        encoded = io.BytesIO()
        pq.write_table(table, encoded)
        write_bundle(self._metadata, {**self._files, "reference.parquet": encoded.getvalue()}, folder)
        return load_bundle(folder)

    def answers(self, n: int, *, age: timedelta = timedelta(hours=1), version: str = "1.2.3", **changed):
        columns = {**self.columns(n), **changed}
        return [
            LoggedPrediction(
                id=uuid4(),
                time=NOW - age,
                role="answered",
                model_name="tiny",
                model_version=version,
                genres=self.genres,
                probabilities=columns["probabilities"][place].astype(np.float32),
                embedding=columns["embedding"][place].astype(np.float32),
                threshold=None,
                predicted=(),
                statistics={name: float(columns[name][place]) for name in STATISTICS},
                latency_ms=5.0,
                file_name=None,
                content_sha256=uuid4().hex * 2,
                request_id=None,
            )
            for place in range(n)
        ]


@pytest.fixture
def world(tiny_bundle) -> World:
    loaded = load_bundle(tiny_bundle)
    files = {path.name: path.read_bytes() for path in tiny_bundle.iterdir() if path.name != "bundle.json"}
    return World(loaded.metadata.model_dump(exclude={"files", "schema_version"}), files)


@pytest.fixture
def bundle(world, tmp_path):
    return world.bundle(tmp_path / "judged")


def found(log, bundle):
    return find_drift(log, bundle, NOW - WEEK, NOW)


def test_what_looks_like_the_reference_is_ok(log, world, bundle):
    log.append(world.answers(200))
    drift = found(log, bundle)

    assert (drift.verdict, drift.columns, drift.n, drift.pictures) == ("ok", (), 200, 200)
    assert {column.name for column in drift.watched} >= {*STATISTICS, "confidence", "embedding", "probability:Drama"}
    assert all(abs(genre["reference"] - genre["current"]) < 0.2 for genre in drift.genres)


def test_a_picture_statistic_that_moved_is_named_with_how_far(log, world, bundle):
    log.append(world.answers(200, sharpness=world.columns(200)["sharpness"] / 2))
    drift = found(log, bundle)

    assert (drift.verdict, [column.name for column in drift.columns]) == ("drift", ["sharpness"])
    moved = drift.columns[0]
    assert moved.current == pytest.approx(moved.reference / 2, rel=0.2)
    assert 0.3 < moved.distance < 1
    assert moved.q_value < 0.005
    assert "sharpness" in drift.summary


def test_embeddings_that_moved_together_are_found_though_no_number_alone_did(log, world, bundle):
    embedding = world.columns(200)["embedding"]
    embedding[:, 5] = embedding[:, 4] * 0.1 + 1.2  # the last four make no probability
    log.append(world.answers(200, embedding=embedding))
    drift = found(log, bundle)

    assert (drift.verdict, [column.name for column in drift.columns]) == ("drift", ["embedding"])
    assert drift.columns[0].distance > 0.8


def test_pictures_of_another_size_warn_and_no_more(log, world, bundle):
    log.append(world.answers(200, width=np.full(200, 4000.0)))
    drift = found(log, bundle)

    assert (drift.verdict, [column.name for column in drift.columns]) == ("warning", ["width"])


def test_chance_alone_seldom_looks_like_drift(world):
    rng = np.random.default_rng(3)
    false = 0
    for _ in range(100):
        reference, current = rng.normal(size=(120, 8)), rng.normal(size=(60, 8))
        false += domain_classifier(reference.astype(np.float32), current.astype(np.float32)).p_value <= 0.05
    assert 1 <= false <= 12


def test_of_many_vectors_a_share_is_looked_at_and_the_answer_says_which(monkeypatch):
    monkeypatch.setattr("onesheet.monitoring.drift.two_samples._MOST", 100)
    rng = np.random.default_rng(0)
    found = domain_classifier(
        rng.normal(size=(300, 4)).astype(np.float32), 3 + rng.normal(size=(90, 4)).astype(np.float32)
    )
    assert found.area > 0.95
    assert (np.isfinite(found.reference).sum(), np.isfinite(found.current).sum()) == (100, 90)
    assert np.nanmax(found.reference) < np.mean(found.current)


def test_what_is_no_number_is_left_out_and_warned_of(log, world, bundle):
    answers = world.answers(203)
    answers[0].embedding[2] = np.nan
    answers[1].statistics["sharpness"] = float("inf")
    answers[2] = replace(answers[2], embedding=np.zeros(5, np.float32))  # of another model of this name and version
    log.append(answers)
    drift = found(log, bundle)

    assert (drift.verdict, drift.n, drift.pictures, drift.unusable) == ("warning", 203, 200, 3)
    (column,) = drift.columns
    assert (column.name, column.kind, column.current) == ("unusable", "quality", pytest.approx(3 / 203))
    assert all(np.isfinite([other.distance, other.current or 0]).all() for other in drift.watched)


def test_only_what_is_no_number_is_not_enough(log, world, bundle):
    log.append(world.answers(60, embedding=np.full((60, 8), np.nan)))
    drift = found(log, bundle)

    assert (drift.verdict, drift.pictures, drift.unusable) == ("not enough data", 0, 60)
    assert "60 more are unusable" in drift.summary


def test_the_same_picture_again_and_again_is_one_picture(log, world, bundle):
    again = world.answers(1)[0]
    repeated = [
        LoggedPrediction(**{**{f: getattr(again, f) for f in again.__slots__}, "id": uuid4()}) for _ in range(300)
    ]
    log.append(repeated)
    drift = found(log, bundle)

    assert (drift.verdict, drift.n, drift.pictures, drift.columns) == ("not enough data", 300, 1, ())
    log.append(world.answers(200))
    assert found(log, bundle).verdict == "ok"


def test_only_the_window_and_the_model_of_the_bundle_count(log, world, bundle):
    dark = world.columns(100)["brightness"] / 5
    log.append(world.answers(100, age=timedelta(days=8), brightness=dark))
    log.append(world.answers(100, version="0.9.0", brightness=dark))
    assert (found(log, bundle).verdict, found(log, bundle).n) == ("not enough data", 0)
    log.append(world.answers(100))
    assert (found(log, bundle).verdict, found(log, bundle).n) == ("ok", 100)


def test_predictions_of_other_versions_are_told_and_never_taken_for_ok(log, world, bundle):
    log.append(world.answers(60, version="2.0.0"))
    log.append([replace(answer, role="shadow") for answer in world.answers(30, version="3.0.0")])
    drift = found(log, bundle)
    assert (drift.verdict, drift.n, drift.other_models, drift.is_blind) == (
        "not enough data",
        0,
        {"tiny 2.0.0": 60},
        True,
    )
    assert drift.summary == (
        "There are no predictions of tiny 1.2.3 in the window. "
        "Not compared, as the reference is of tiny 1.2.3: 60 of tiny 2.0.0."
    )
    assert drift.to_dict()["other_models"] == {"tiny 2.0.0": 60}

    log.append(world.answers(59))
    drift = found(log, bundle)
    (column,) = drift.columns
    assert (drift.verdict, drift.is_blind) == ("warning", True)
    assert (column.name, column.kind, column.current) == ("other_versions", "quality", pytest.approx(60 / 119))
    assert drift.summary.startswith("59 pictures look like the reference. Not compared")

    log.append(world.answers(1))
    drift = found(log, bundle)
    assert (drift.verdict, drift.is_blind, drift.other_models) == ("ok", False, {"tiny 2.0.0": 60})


def test_a_shadow_is_compared_though_another_version_answers(log, world, bundle):
    log.append(world.answers(200, version="2.0.0"))
    log.append([replace(answer, role="shadow") for answer in world.answers(100)])
    drift = found(log, bundle)
    assert (drift.verdict, drift.n, drift.is_blind) == ("ok", 100, False)


def test_of_many_answers_a_share_is_looked_at(log, world, bundle, monkeypatch):
    monkeypatch.setattr("onesheet.monitoring.drift.sample._MOST", 300)
    log.append(world.answers(2000, sharpness=world.columns(2000)["sharpness"] / 2))
    drift = found(log, bundle)

    assert drift.n == 2000
    assert 200 < drift.pictures < 400
    assert drift.verdict == "drift"


def test_feedback_is_set_beside_what_the_reference_promised(log, world, bundle):
    answers = world.answers(200)
    log.append(answers)
    for answer in answers[:80]:
        log.add_feedback(Feedback(answer.id, NOW, ("Horror",)))  # corrected below
        log.add_feedback(Feedback(answer.id, NOW, ()))
    drift = found(log, bundle)

    assert drift.feedback["count"] == 80
    assert drift.feedback["agreement"] < 0.3 < drift.feedback["expected_agreement"]
    assert set(drift.feedback["precision"].values()) == {0.0}
    assert (drift.verdict, [column.name for column in drift.columns]) == ("warning", ["agreement"])


def test_runs_are_kept(log, world, bundle):
    log.append(world.answers(100))
    first, second = found(log, bundle), found(log, bundle)

    runs = DriftRuns(log).latest(5)
    assert [run.id for run in runs] == [second.id, first.id]
    assert runs[1].result == json.loads(json.dumps(first.to_dict()))
    assert (runs[0].model_name, runs[0].model_version, runs[0].verdict) == ("tiny", "1.2.3", second.verdict)
    assert DriftRuns(log).report(first.id) is None


def test_reports_of_long_past_runs_are_forgotten(log):
    runs, ids = DriftRuns(log), [uuid4() for _ in range(32)]
    for number, run_id in enumerate(ids):
        run = DriftRun(run_id, NOW + timedelta(seconds=number), "tiny", "1", "ok", {}, has_report=False)
        runs.add(run, b"<html>" * 100)

    assert [run.id for run in runs.latest(100) if run.has_report] == ids[:1:-1]
    assert (runs.report(ids[-1]), runs.report(ids[0])) == (b"<html>" * 100, None)
    assert len(runs.latest(100)) == 32


def test_a_reference_that_is_none_is_an_error(log, tiny_bundle, tmp_path):
    loaded = load_bundle(tiny_bundle)
    files = {path.name: path.read_bytes() for path in tiny_bundle.iterdir() if path.name != "bundle.json"}
    table = io.BytesIO()
    pq.write_table(pa.table({"id": ["1"]}), table)
    write_bundle(
        loaded.metadata.model_dump(exclude={"files", "schema_version"}),
        {**files, "reference.parquet": table.getvalue()},
        tmp_path / "odd",
    )
    with pytest.raises(BundleCorruptError):
        found(log, load_bundle(tmp_path / "odd"))


# ------------------------------------------------------------------------------------------------- the command


@pytest.fixture
def drifted(world, bundle, tmp_path, monkeypatch):
    monkeypatch.setenv("ONESHEET_LOG_URL", f"sqlite:///{tmp_path}/log.db")
    monkeypatch.setenv("ONESHEET_BUNDLE", str(tmp_path / "judged"))
    log = PredictionLog(f"sqlite:///{tmp_path}/log.db")
    log.migrate()
    log.append(world.answers(150, sharpness=world.columns(150)["sharpness"] / 3))
    yield log
    log.close()


def run_command(*arguments: str):
    return CliRunner().invoke(command_line, ["drift", *arguments])


@pytest.fixture
def drawn(monkeypatch):
    """No Evidently: half a minute that one test of it is enough for."""
    report = Report(b"<html>report</html>", b"{}")
    monkeypatch.setattr("onesheet.monitoring.drift.run.make_report", lambda *_: report)
    return report


def test_the_command_tells_people_and_programs(drifted, drawn, tmp_path):
    shown = run_command()
    assert shown.exit_code == 0
    assert shown.output.startswith("drift: ")
    assert "sharpness" in shown.output

    answered = run_command("--json", "--fail-on-drift", "--out", str(tmp_path / "report"))
    assert answered.exit_code == 1
    result = json.loads(answered.stdout)
    assert (result["verdict"], result["n"], result["columns"][0]["name"]) == ("drift", 150, "sharpness")
    assert json.loads((tmp_path / "report/drift.json").read_text()) == result
    assert (tmp_path / "report/report.html").read_bytes() == drawn.html
    assert (tmp_path / "report/report.json").read_bytes() == drawn.json


def test_a_check_that_sees_nothing_is_not_green(drifted, world):
    empty = ["--json", "--since", "2w", "--until", "8d"]
    assert run_command(*empty).exit_code == 0
    answered = run_command(*empty, "--fail-on-drift")
    assert answered.exit_code == 3
    assert json.loads(answered.stdout)["verdict"] == "not enough data"
    assert "no predictions of tiny 1.2.3 in the window" in json.loads(answered.stdout)["summary"]

    drifted.append(world.answers(100, version="2.0.0", age=timedelta(days=10)))
    answered = run_command(*empty, "--fail-on-drift")
    assert (answered.exit_code, json.loads(answered.stdout)["other_models"]) == (3, {"tiny 2.0.0": 100})
    assert "name its bundle with --bundle" in answered.stderr

    drifted.append(world.answers(90, age=timedelta(days=10)))
    answered = run_command(*empty, "--fail-on-drift")
    assert (answered.exit_code, json.loads(answered.stdout)["verdict"]) == (3, "warning")


@pytest.mark.parametrize("since", ["yesterday", "7x", "1e9d", "99999999d", "2026-13-01"])
def test_a_moment_that_is_none_is_refused(drifted, since):
    refused = run_command("--since", since)
    assert refused.exit_code != 0
    assert "neither" in str(refused.exception)


# -------------------------------------------------------------------------------------------------- the report


@pytest.mark.slow
def test_the_report_says_what_the_verdict_says(drifted, world, bundle):
    drifted.append(world.answers(1, embedding=np.full((1, 8), np.nan)))
    drift = find_drift(drifted, bundle, NOW - WEEK, NOW, with_report=True)
    page, result = drift.report.html.decode(), json.loads(drift.report.json)

    assert "<!DOCTYPE html>" in page[:100]
    assert "sharpness" in page
    assert "probability:Drama" in page
    assert not re.search(r"""<(?:script|link|img)[^>]*(?:src|href)=["']?(?:https?:)?//""", page)
    assert DriftRuns(drifted).report(drift.id) == drift.report.html
    assert DriftRuns(drifted).latest()[0].has_report

    rates = {one["config"]["column"]: 1 - one["value"] for one in result["metrics"] if "column" in one["config"]}
    watched = {column.name: column.q_value for column in drift.watched if column.kind != "quality"}
    assert rates == pytest.approx(watched, abs=1e-9)
    tests = {test["name"]: test["status"] for test in result["tests"]}
    drifted = {name.rpartition(" ")[2] for name, status in tests.items() if "Drift for" in name and status == "FAIL"}
    assert drifted == {"sharpness"}
    failed = [name for name, status in tests.items() if status == "FAIL" and "Value Drift" not in name]
    assert any("issing" in name for name in failed), "one number is missing"
    assert len([name for name in tests if "olumn count" in name.lower() or "number of columns" in name.lower()]) >= 1


def test_without_a_report_the_rest_is_found_and_kept(drifted, monkeypatch, tmp_path):
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    answered = run_command("--out", str(tmp_path / "report"))

    assert answered.exit_code != 0
    assert answered.stdout.startswith("drift: ")
    assert "report could not be made" in str(answered.exception)
    assert json.loads((tmp_path / "report/drift.json").read_text())["verdict"] == "drift"
    assert not (tmp_path / "report/report.html").exists()
    (run,) = DriftRuns(drifted).latest(5)
    assert (run.verdict, run.has_report) == ("drift", False)


# ------------------------------------------------------------------------------------------------- the service


@pytest.mark.anyio
async def test_the_service_shows_its_reports(drifted, drawn, settings, tmp_path, connect):
    settings = settings.model_copy(update={"bundle": str(tmp_path / "judged")})
    async with connect(create_drift_app(settings, drifted)) as client:
        assert (await client.get("/drift/latest/report")).status_code == 404
        await client.post("/drift/run")
        page = await client.get("/", follow_redirects=True)
        for path in ("/", "/drift/latest", "/drift/latest/report", "/livez", "/readyz"):
            get, head = await client.get(path), await client.head(path)
            assert (head.status_code, head.headers, head.content) == (get.status_code, get.headers, b"")
        assert all("head" not in told for told in (await client.get("/openapi.json")).json()["paths"].values())
        assert (page.url.path, page.content) == ("/drift/latest/report", drawn.html)
        assert "sandbox" in page.headers["content-security-policy"]
        await client.post("/drift/run", params={"report": False})
        assert (await client.get("/drift/latest/report")).status_code == 404


@pytest.mark.anyio
async def test_the_service_compares_and_tells(drifted, drawn, settings, tmp_path, connect):
    settings = settings.model_copy(update={"bundle": str(tmp_path / "judged")})
    async with connect(create_drift_app(settings, drifted)) as client:
        assert (await client.get("/drift/latest")).json()["type"].endswith("unknown_drift_run")
        empty = (await client.get("/metrics")).text
        ran = await client.post("/drift/run", params={"hours": 24})
        assert (ran.status_code, ran.json()["verdict"]) == (200, "drift")
        assert (await client.get("/drift/latest")).json() == ran.json()
        metrics = (await client.get("/metrics")).text
        refused = await client.post("/drift/run", params={"hours": -1})
        assert refused.status_code == 422
        assert (await client.get("/readyz")).status_code == 200
    assert "onesheet_drift_failures_total 0.0" in empty
    assert "onesheet_drift_verdict" not in empty
    assert 'onesheet_drift_verdict{model="tiny",verdict="drift",version="1.2.3"} 1.0' in metrics
    assert 'onesheet_drift_verdict{model="tiny",verdict="ok",version="1.2.3"} 0.0' in metrics
    assert 'onesheet_drift_moved{column="sharpness",model="tiny",version="1.2.3"} 2.0' in metrics
    assert 'onesheet_drift_other_predictions{model="tiny",version="1.2.3"} 0.0' in metrics
    assert 'onesheet_feedback_answers{model="tiny",version="1.2.3"} 0.0' in metrics
    assert "onesheet_feedback_agreement{" not in metrics


@pytest.mark.anyio
async def test_what_the_alerts_ask_for_is_exported(log, world, bundle, settings, connect):
    answers = world.answers(100)
    log.append(answers)
    log.add_feedback(Feedback(answers[0].id, NOW, ("Drama",)))
    found(log, bundle)
    async with connect(create_drift_app(settings, log)) as client:
        exported = (await client.get("/metrics")).text
    rules = Path(__file__).parents[2] / "deploy/prometheus/rules/onesheet.yml"
    asked = set(re.findall(r"onesheet_(?:drift|feedback)_\w+", rules.read_text()))

    assert len(asked) > 5
    assert not [name for name in asked if f"\n{name}" not in exported]


@pytest.mark.anyio
async def test_a_webhook_that_is_away_is_counted_and_takes_nothing_from_the_answer(
    drifted, drawn, settings, tmp_path, connect, monkeypatch
):
    monkeypatch.setattr("onesheet.webhook._WAITS_SECONDS", ())
    update = {"bundle": str(tmp_path / "judged"), "drift_webhook": "http://127.0.0.1:9/"}
    async with connect(create_drift_app(settings.model_copy(update=update), drifted)) as client:
        assert (await client.post("/drift/run")).json()["verdict"] == "drift"
        assert "onesheet_drift_failures_total 1.0" in (await client.get("/metrics")).text


def test_the_command_tells_only_whom_it_knows(drifted, monkeypatch):
    refused = run_command("--notify")
    assert "needs ONESHEET_DRIFT_WEBHOOK" in str(refused.exception)
    assert DriftRuns(drifted).latest() == []

    monkeypatch.setenv("ONESHEET_DRIFT_WEBHOOK", "http://127.0.0.1:9/")
    monkeypatch.setattr("onesheet.webhook._WAITS_SECONDS", ())
    told = run_command("--notify")
    assert told.stdout.startswith("drift: ")
    assert "was not told" in str(told.exception)


@pytest.mark.anyio
async def test_the_service_counts_what_fails_and_goes_on(drifted, settings, tmp_path, connect):
    settings = settings.model_copy(update={"bundle": str(tmp_path / "nowhere")})
    async with connect(create_drift_app(settings, drifted)) as client:
        assert (await client.post("/drift/run")).status_code == 503
        assert "onesheet_drift_failures_total 1.0" in (await client.get("/metrics")).text


@pytest.mark.skipif(sys.platform != "linux", reason="priorities of threads are Linux's")
def test_the_service_runs_until_it_is_asked_to_stop_and_lets_others_go_first(
    drifted, tmp_path, start_process, eventually
):
    command = [sys.executable, "-m", "onesheet", "watch", "--port", "0", "--every", "0.0001"]
    with (tmp_path / "said").open("w") as said:
        process = start_process(command, cwd=tmp_path, stdout=said, stderr=said)
    eventually(lambda: "listening" in (tmp_path / "said").read_text())
    url = re.search(r"http://[\d.:]+", (tmp_path / "said").read_text())[0]
    assert httpx.get(f"{url}/livez").json() == {"status": "ok"}
    eventually(lambda: "onesheet_drift_verdict" in httpx.get(f"{url}/metrics").text)
    assert {os.getpriority(os.PRIO_PROCESS, thread.id) for thread in psutil.Process(process.pid).threads()} == {19}
    process.send_signal(signal.SIGTERM)
    assert process.wait(MAX_WAIT) == 0
    assert "Traceback" not in (tmp_path / "said").read_text()


@pytest.mark.anyio
async def test_the_service_compares_by_itself(drifted, drawn, settings, tmp_path, connect, eventually):
    settings = settings.model_copy(update={"bundle": str(tmp_path / "judged"), "drift_every_hours": 0.0001})
    app = create_drift_app(settings, drifted)
    async with app.router.lifespan_context(app):
        for _ in range(400):
            if len(DriftRuns(drifted).latest(5)) >= 2:
                break
            await asyncio.sleep(0.05)
    assert len(DriftRuns(drifted).latest(5)) >= 2
