"""What runs beside the requests for as long as the service does: it survives what nobody expected, and says so."""

from __future__ import annotations

import os
import threading

import anyio
import pytest

from onesheet.bundle import load_bundle
from onesheet.errors import LogUnavailableError, ModelError
from onesheet.monitoring.metrics import Metrics
from onesheet.predictionlog import GroupWriter, PredictionLog
from onesheet.predictionlog import writer as writer_module
from onesheet.predictor import Predictor
from onesheet.serving import background, create_app, engine, insights, recorder
from onesheet.serving import service as service_module
from onesheet.serving.choice import SharedChoice
from onesheet.serving.engine import Engine
from onesheet.serving.keeper import PictureKeeper
from onesheet.serving.recorder import Recorder

pytestmark = pytest.mark.anyio


class Unexpected(Exception):  # noqa: N818  it is no error of ours
    """Something that no library should let out."""


class UnexpectedEnd(BaseException):
    """The same, of the kind that `except Exception` lets through."""


def stumbling(function, *errors):
    """The function, after it has raised each of these once."""
    left = list(errors)

    def stumble(*arguments, **options):
        if left:
            raise left.pop(0)
        return function(*arguments, **options)

    return stumble


async def until(condition) -> None:
    with anyio.fail_after(60):
        while not condition():
            await anyio.sleep(0.02)


def logged(read_log, event: str) -> list[dict]:
    return [line for line in read_log() if line["event"] == event]


# -------------------------------------------------------------------------------------------------- the log's writer


@pytest.mark.parametrize("error", [Unexpected("so"), MemoryError(), UnexpectedEnd("so")], ids=repr)
async def test_a_writer_whose_database_does_something_unexpected_fails_that_group_only_and_says_why(error, read_log):
    groups = []
    writer = GroupWriter(stumbling(groups.append, error))
    refused = writer.submit("first").exception(timeout=60)
    assert isinstance(refused, LogUnavailableError)
    assert refused.__cause__ is error
    assert writer.submit("second").result(timeout=60) is None
    writer.close()
    assert groups == [["second"]]
    (line,) = logged(read_log, "the writer of the prediction log failed")
    assert type(error).__name__ in line["exception"]


async def test_a_writer_that_stumbles_between_two_groups_goes_on(read_log, monkeypatch):
    writer = GroupWriter(lambda group: None)
    monkeypatch.setattr(writer, "_gather", stumbling(writer._gather, MemoryError()))
    for _ in range(3):  # the first one wakes it from the old wait
        assert writer.submit("any").result(timeout=60) is None
    writer.close()
    assert logged(read_log, "the writer of the prediction log failed")


async def test_a_writer_whose_database_hangs_is_not_waited_for(read_log, monkeypatch):
    monkeypatch.setattr(writer_module, "_CLOSING_SECONDS", 0.1)
    let_go = threading.Event()
    writer = GroupWriter(lambda group: let_go.wait())
    written = writer.submit("any")
    writer.close()
    assert logged(read_log, "the last answers are not in the prediction log")
    let_go.set()
    assert written.result(timeout=60) is None


# ----------------------------------------------------------------------------------------------------- engine, pictures


async def test_an_engine_outlives_what_happens_to_its_threads(predictor, make_poster, monkeypatch, read_log):
    running = Engine(predictor, threads=1, max_waiting=8, max_batch=4, patience=60)
    monkeypatch.setattr(predictor, "read", stumbling(predictor.read, UnexpectedEnd("so")))
    assert isinstance(running.submit(make_poster()).exception(60), UnexpectedEnd)
    assert running.submit(make_poster()).result(60)
    running.close()
    assert running._busy == 0
    assert logged(read_log, "unexpected error of the engine")


class FailsForBlack(Predictor):
    """As a graph does that fails on some pictures."""

    def run(self, pixels):
        if (pixels.reshape(len(pixels), -1).max(axis=1) == 0).any():
            raise ModelError("the model gave a probability of nan; they are numbers from 0 to 1")
        return super().run(pixels)


async def test_a_picture_that_the_model_fails_on_fails_alone_and_says_why(
    settings, tiny_bundle, connect, make_poster, read_log
):
    app = create_app(settings.model_copy(update={"threads": 1}), FailsForBlack(load_bundle(tiny_bundle)))
    answers = {}
    async with connect(app) as client, anyio.create_task_group() as tasks:

        async def ask(colour: str) -> None:
            answers[colour] = await client.post("/predict", files={"file": make_poster(colour, kind="PNG")})

        for colour in ("red", "black", "blue", "white"):
            tasks.start_soon(ask, colour)
        files = [("files", make_poster(colour, kind="PNG")) for colour in ("red", "black")]
        batch = await client.post("/predict/batch", files=files)
    assert {colour: answer.status_code for colour, answer in answers.items()} == {
        "red": 200,
        "black": 500,
        "blue": 200,
        "white": 200,
    }
    assert answers["black"].json()["type"] == "/problems/model_failed"
    assert "a probability of nan" in answers["black"].json()["detail"]
    fine, failed = batch.json()["results"]
    assert (fine["error"], failed["error"]["code"]) == (None, "model_failed")
    assert {line["version"] for line in logged(read_log, "the model failed")} == {"1.2.3"}


async def test_an_engine_whose_model_does_not_end_is_closed_all_the_same(
    endless_bundle, make_poster, monkeypatch, read_log
):
    monkeypatch.setattr(engine, "_CLOSING_SECONDS", 0.2)
    running = Engine(Predictor(load_bundle(endless_bundle)), threads=2, max_waiting=8, max_batch=1, patience=0.1)
    futures = [running.submit(make_poster()) for _ in range(2)]
    running.close()
    assert all(isinstance(future.exception(60), ModelError) for future in futures)
    assert logged(read_log, "the model did not end and was stopped")


async def test_insights_of_a_model_that_does_not_end_are_closed_all_the_same(endless_bundle, make_poster, monkeypatch):
    monkeypatch.setattr(insights, "_CLOSING_SECONDS", 0.2)
    asked, predictor = insights.Insights(PredictionLog("sqlite://")), Predictor(load_bundle(endless_bundle))
    async with anyio.create_task_group() as tasks:

        async def explain() -> None:
            with pytest.raises(ModelError):
                await asked.explain(predictor, make_poster(), "198.51.100.7")

        tasks.start_soon(explain)
        await until(lambda: asked._running)
        await anyio.to_thread.run_sync(asked.close)


async def test_insights_are_given_where_the_system_forbids_priorities(client, make_poster, monkeypatch):
    def forbidden(*_: object) -> None:
        raise PermissionError

    monkeypatch.setattr(os, "setpriority", forbidden)
    assert (await client.post("/explain", files={"file": make_poster()})).status_code == 200


async def test_pictures_are_kept_after_one_that_could_not_be_for_whatever_reason(read_log):
    kept = []

    class Folder:
        keep = staticmethod(stumbling(lambda *picture: kept.append(picture), *(Unexpected("so") for _ in range(8))))

    metrics = Metrics()
    keeper = PictureKeeper(Folder(), metrics)
    for number in range(12):
        keeper.offer(str(number), b"picture")
    keeper.close()
    assert len(kept) == 4
    assert keeper._held == 0
    assert b"onesheet_pictures_not_kept_total 8.0" in metrics.render()
    assert logged(read_log, "unexpected error of the folder of pictures")


# ------------------------------------------------------------------------------------------------------------- tasks


async def test_the_choice_of_another_process_is_followed_after_an_error(
    settings, predictor, connect, next_bundle, tmp_path, monkeypatch, read_log
):
    monkeypatch.setattr(service_module, "_WATCH_SECONDS", 0.02)
    choice = SharedChoice(tmp_path / "choice")
    app = create_app(settings, predictor, choice)
    async with app.router.lifespan_context(app), connect(app) as client:
        monkeypatch.setattr(choice, "read", stumbling(choice.read, PermissionError("no"), Unexpected("so")))
        await until(lambda: len(logged(read_log, "unexpected error in the background")) == 2)
        SharedChoice(tmp_path / "choice").write(str(next_bundle))
        await until(lambda: app.state.service.predictor.metadata.version == "2.0.0")
        assert (await client.get("/readyz")).status_code == 200


async def test_old_answers_are_removed_after_an_error(settings, monkeypatch, read_log):
    monkeypatch.setattr(recorder, "_RETENTION_SECONDS", 0.02)
    kept = Recorder(settings.model_copy(update={"log_retention_days": 1}), Metrics())
    monkeypatch.setattr(
        kept.log, "deleting_before", stumbling(kept.log.deleting_before, Unexpected("so"), OSError("x"))
    )
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(kept.forget_old_answers)
        await until(lambda: logged(read_log, "old answers removed from the prediction log"))
        tasks.cancel_scope.cancel()
    kept.close()
    assert {line["task"] for line in logged(read_log, "unexpected error in the background")} == {"retention"}


async def test_a_log_that_is_not_there_at_the_start_is_told_before_anybody_asks(settings, predictor, read_log):
    app = create_app(settings.model_copy(update={"log_url": "sqlite:////nowhere/log.db"}), predictor)
    async with app.router.lifespan_context(app):
        await until(lambda: logged(read_log, "prediction log not there yet"))
    (told,) = logged(read_log, "prediction log not there yet")
    assert told["reason"] == "unable to open database file"


async def test_a_log_that_fails_unexpectedly_at_the_start_does_not_keep_the_model_from_loading(
    settings, connect, make_poster, monkeypatch, read_log
):
    app = create_app(settings)
    log = app.state.service.recorder.log
    monkeypatch.setattr(log, "migrate", stumbling(log.migrate, Unexpected("so")))
    async with app.router.lifespan_context(app), connect(app) as client:
        await until(lambda: app.state.service.status == "ok")
        assert (await client.post("/predict", files={"file": make_poster()})).status_code == 200
    assert [line["task"] for line in logged(read_log, "unexpected error in the background")] == ["log"]


async def test_a_start_that_fails_unexpectedly_is_told_by_the_probe(settings, connect, monkeypatch, read_log):
    def unexpected(*_: object) -> None:
        raise Unexpected

    monkeypatch.setattr(service_module.PredictionService, "_use", unexpected)
    app = create_app(settings)
    async with app.router.lifespan_context(app), connect(app) as client:
        await until(lambda: app.state.service.status == "failed")
        answer = await client.get("/readyz")
    assert (answer.status_code, answer.json()["type"]) == (503, "/problems/bad_bundle")
    assert logged(read_log, "model not loaded")


async def test_a_call_that_never_returns_is_left_when_nobody_waits_for_it_any_more():
    let_go = threading.Event()
    with pytest.raises(TimeoutError):
        with anyio.fail_after(0.1):
            await background.in_daemon(let_go.wait)
    let_go.set()
    with pytest.raises(Unexpected):
        await background.in_daemon(stumbling(print, Unexpected("so")))
    assert await background.in_daemon(lambda: 7) == 7
