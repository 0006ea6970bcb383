"""Pictures that were answered are kept where the settings say so, and go with the last answer about them."""

from __future__ import annotations

import hashlib
import os
import threading
import time
from contextlib import closing
from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid4

import anyio
import numpy as np
import pytest
from sqlalchemy import text
from typer.testing import CliRunner

from onesheet.bundle import load_bundle
from onesheet.cli import app as command_line
from onesheet.data.from_log import FeedbackCounts, from_log
from onesheet.data.labels import read_labels
from onesheet.errors import LogUnavailableError
from onesheet.image_statistics import STATISTICS
from onesheet.monitoring.metrics import Metrics
from onesheet.predictionlog import LoggedPrediction, PictureFolder, PredictionLog
from onesheet.serving import create_app
from onesheet.serving.keeper import PictureKeeper
from tests.processes import MAX_WAIT

NOW = datetime.now(UTC)


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def answer(content: bytes, days: float = 0, **fields) -> LoggedPrediction:
    """About a picture, so many days ago."""
    usual = {
        "id": uuid4(),
        "time": NOW - timedelta(days=days),
        "role": "answered",
        "model_name": "tiny",
        "model_version": "1",
        "genres": ("Comedy", "Drama"),
        "probabilities": np.array([0.25, 0.75], np.float32),
        "embedding": np.array([1, 2], np.float32),
        "threshold": None,
        "predicted": ("Drama",),
        "statistics": dict.fromkeys(STATISTICS, 1.0),
        "latency_ms": 1.0,
        "file_name": None,
        "content_sha256": sha256(content),
        "request_id": None,
    }
    return LoggedPrediction(**{**usual, **fields})


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "pictures"


@pytest.fixture
def pictures(folder):
    return PictureFolder(folder)


def kept(folder) -> set[str]:
    """The names of all files there."""
    return {path.name for path in folder.rglob("*") if path.is_file()}


def made_days_ago(path, days: float) -> None:
    moment = time.time() - days * 86400
    os.utime(path, (moment, moment))


# ------------------------------------------------------------------------------------------------ the folder


def test_a_picture_is_kept_once_and_found_by_its_hash(pictures, folder):
    pictures.keep(sha256(b"film"), b"film")
    path = pictures.find(sha256(b"film"))
    assert path == folder / sha256(b"film")[:2] / sha256(b"film")
    assert path.read_bytes() == b"film"
    before = path.stat()
    pictures.keep(sha256(b"film"), b"film")
    after = path.stat()
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    assert pictures.find(sha256(b"other")) is None


def test_what_a_failure_left_is_repaired(pictures, folder):
    pictures.keep(sha256(b"film"), b"film")
    path = pictures.find(sha256(b"film"))
    path.write_bytes(b"fi")
    path.with_name(path.name + ".partial").write_bytes(b"f")
    pictures.keep(sha256(b"film"), b"film")
    assert path.read_bytes() == b"film"
    assert kept(folder) == {path.name}


def test_a_picture_never_has_its_name_by_half(pictures, folder, monkeypatch):
    def full(self, target):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pathlib.Path.replace", full)
    with pytest.raises(OSError, match="No space left"):
        pictures.keep(sha256(b"film"), b"film")
    assert pictures.find(sha256(b"film")) is None


def test_several_who_keep_the_same_picture_do_not_disturb_each_other(pictures, folder):
    data = os.urandom(300_000)
    failures = []
    start = threading.Barrier(8)

    def keep() -> None:
        start.wait()
        try:
            pictures.keep(sha256(data), data)
        except OSError as error:
            failures.append(error)

    for _ in range(20):
        threads = [threading.Thread(target=keep) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert pictures.find(sha256(data)).read_bytes() == data
        assert kept(folder) == {sha256(data)}
        pictures.remove([sha256(data)])
    assert failures == []


# --------------------------------------------------------------------------------------------- going with the log


@pytest.fixture
def keeping_log(log, log_url, pictures):
    """The log of `log`, which has the pictures too."""
    with closing(PredictionLog(log_url, pictures=pictures)) as opened:
        yield opened


def fill(log, pictures, answers: dict[str, list[LoggedPrediction]]) -> None:
    for name, about in answers.items():
        pictures.keep(sha256(name.encode()), name.encode())
        if about:
            log.append(about)


def test_a_picture_goes_with_the_last_answer_about_it(keeping_log, pictures, folder):
    first, second, other = answer(b"a"), answer(b"a"), answer(b"b")
    shadow = answer(b"a", id=first.id, role="shadow")
    fill(keeping_log, pictures, {"a": [first, shadow, second], "b": [other]})
    assert keeping_log.delete([first.id]) == 2
    assert kept(folder) == {sha256(b"a"), sha256(b"b")}
    assert keeping_log.delete([second.id, uuid4()]) == 1
    assert kept(folder) == {sha256(b"b")}


def test_a_picture_goes_with_all_answers_about_it_at_once(keeping_log, pictures, folder):
    both = [answer(b"a"), answer(b"a")]
    fill(keeping_log, pictures, {"a": both})
    keeping_log.delete([one.id for one in both])
    assert kept(folder) == set()


def test_old_answers_take_their_pictures_along_batch_by_batch(keeping_log, pictures, folder, monkeypatch):
    monkeypatch.setattr("onesheet.predictionlog.store._BATCH", 2)
    old = {f"old {number}": [answer(f"old {number}".encode(), days=91 + number)] for number in range(5)}
    asked_again = {"both": [answer(b"both", days=99), answer(b"both", days=1)], "new": [answer(b"new", days=1)]}
    fill(keeping_log, pictures, {**old, **asked_again})
    assert keeping_log.delete_before(NOW - timedelta(days=90)) == 6
    assert kept(folder) == {sha256(b"both"), sha256(b"new")}


def test_old_pictures_that_no_answer_is_about_go_too(keeping_log, pictures, folder):
    fill(keeping_log, pictures, {name: [] for name in ("old", "young", "half")})
    fill(keeping_log, pictures, {"asked again": [answer(b"asked again", days=1)]})
    half = pictures.find(sha256(b"half"))
    half = half.rename(half.with_name(half.name + ".partial"))
    mine = folder / "README"
    mine.touch()
    for path in (pictures.find(sha256(b"old")), pictures.find(sha256(b"asked again")), half, mine):
        made_days_ago(path, 91)
    assert keeping_log.delete_before(NOW - timedelta(days=90)) == 0
    assert kept(folder) == {sha256(b"young"), sha256(b"asked again"), "README"}


def test_where_a_picture_cannot_be_removed_its_answer_stays(keeping_log, pictures, monkeypatch):
    given = answer(b"a")
    fill(keeping_log, pictures, {"a": [given]})

    def refused(self, contents):
        raise PermissionError(13, "Permission denied")

    with monkeypatch.context() as patched:
        patched.setattr(PictureFolder, "remove", refused)
        with pytest.raises(LogUnavailableError, match="kept pictures cannot be removed: Permission denied"):
            keeping_log.delete([given.id])
    assert keeping_log.count() == 1
    assert keeping_log.delete([given.id]) == 1
    assert pictures.find(sha256(b"a")) is None


def test_the_commands_remove_pictures(log, log_url, pictures, folder, monkeypatch):
    monkeypatch.setenv("ONESHEET_KEEP_PICTURES", str(folder))
    named, old, young = answer(b"named"), answer(b"old", days=91), answer(b"young")
    fill(log, pictures, {"named": [named], "old": [old], "young": [young]})
    run = CliRunner().invoke
    assert "1 answers removed" in run(command_line, ["log", "delete", str(named.id), "--url", log_url]).stdout
    assert kept(folder) == {sha256(b"old"), sha256(b"young")}
    assert (
        "1 answers removed" in run(command_line, ["log", "prune", "--older-than-days", "90", "--url", log_url]).stdout
    )
    assert kept(folder) == {sha256(b"young")}


def test_an_index_on_a_long_log_may_take_its_time(postgres_log_url, monkeypatch):
    monkeypatch.setattr("onesheet.predictionlog.database._STATEMENT_SECONDS", 1)
    waited = []

    def slow(config, target) -> None:
        config.attributes["connection"].execute(text("SELECT pg_sleep(1.3)"))
        waited.append(target)

    monkeypatch.setattr("alembic.command.upgrade", slow)
    with closing(PredictionLog(postgres_log_url)) as log:
        log.migrate()
        with pytest.raises(LogUnavailableError):
            log.write(text("SELECT pg_sleep(1.3)"))
    assert waited == ["head"]


# ----------------------------------------------------------------------------------------------- in a service

NOT_KEPT = "onesheet_pictures_not_kept_total"


async def until(condition, seconds: float = 20) -> None:
    with anyio.fail_after(seconds):
        while not condition():
            await anyio.sleep(0.02)


@pytest.fixture
def keeping(settings, folder):
    return settings.model_copy(update={"keep_pictures": str(folder)})


@pytest.mark.anyio
async def test_the_pictures_of_answers_are_kept_once_each(keeping, predictor, connect, make_poster, folder):
    red, blue = make_poster("red"), make_poster("blue", kind="PNG")
    app = create_app(keeping, predictor)
    async with app.router.lifespan_context(app), connect(app) as client:
        for poster in (red, blue, red):
            assert (await client.post("/predict", files={"file": poster})).status_code == 200
        assert (await client.post("/predict", files={"file": b"no picture"})).status_code == 400
        green = make_poster("green")
        assert (await client.post("/predict/batch", files=[("files", green), ("files", red)])).status_code == 200
        assert f"{NOT_KEPT} 0.0" in (await client.get("/metrics")).text
    pictures = PictureFolder(folder)  # closed: what was waiting is there
    assert kept(folder) == {sha256(poster) for poster in (red, blue, green)}
    for poster in (red, blue, green):
        assert pictures.find(sha256(poster)).read_bytes() == poster
    with closing(PredictionLog(keeping.log_url)) as log:
        assert {one.content_sha256 for one in log.predictions()} == kept(folder)


@pytest.mark.anyio
async def test_nothing_is_kept_by_default(settings, predictor, connect, make_poster, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    before = set(threading.enumerate())
    app = create_app(settings, predictor)
    assert not [thread for thread in set(threading.enumerate()) - before if thread.name.startswith("pictures")]
    async with app.router.lifespan_context(app), connect(app) as client:
        assert (await client.post("/predict", files={"file": make_poster()})).status_code == 200
    assert {path.name.partition("-")[0] for path in tmp_path.rglob("*")} <= {"log.db"}


@pytest.mark.anyio
async def test_what_is_not_in_the_log_is_not_kept(keeping, predictor, connect, make_poster, folder, tmp_path):
    away = {"log_url": f"sqlite:///{tmp_path}/nowhere/log.db", "log_failure": "answer"}
    app = create_app(keeping.model_copy(update=away), predictor)
    async with app.router.lifespan_context(app), connect(app) as client:
        answered = (await client.post("/predict", files={"file": make_poster()})).json()
    assert answered["prediction_id"] is None
    assert kept(folder) == set()


@pytest.mark.anyio
async def test_a_folder_that_fails_fails_no_answer_and_is_counted(
    keeping, predictor, connect, make_poster, folder, read_log
):
    folder.write_bytes(b"a file where the folder should be")
    app = create_app(keeping, predictor)
    async with app.router.lifespan_context(app), connect(app) as client:
        assert (await client.post("/predict", files={"file": make_poster()})).status_code == 200
        with anyio.fail_after(MAX_WAIT):
            while f"{NOT_KEPT} 1.0" not in (await client.get("/metrics")).text:
                await anyio.sleep(0.02)
    (line,) = [line for line in read_log() if line["event"] == "picture not kept"]
    assert line["level"] == "warning"
    assert line["reason"] in ("File exists", "Not a directory")


@pytest.mark.anyio
async def test_a_slow_folder_delays_no_answer(keeping, predictor, connect, make_poster, monkeypatch):
    may_go = threading.Event()
    kept = []
    monkeypatch.setattr(PictureFolder, "keep", lambda *_: kept.append(may_go.wait(MAX_WAIT)))
    app = create_app(keeping, predictor)
    async with app.router.lifespan_context(app), connect(app) as client:
        for _ in range(20):
            assert (await client.post("/predict", files={"file": make_poster()})).status_code == 200
        before = list(kept)
        may_go.set()
    assert before == []


def test_what_waits_for_a_slow_folder_is_bounded(monkeypatch, eventually):
    monkeypatch.setattr("onesheet.serving.keeper._MOST_BYTES", 100)
    may_go, done = threading.Event(), []

    class Slow(PictureFolder):
        def keep(self, sha256, data):
            assert may_go.wait(MAX_WAIT)
            done.append(sha256)

    metrics = Metrics()
    keeper = PictureKeeper(Slow("nowhere"), metrics)
    for number in range(20):
        keeper.offer(str(number), bytes(30))
    assert f"{NOT_KEPT} 17.0" in metrics.render().decode()
    may_go.set()
    eventually(lambda: len(done) == 3 and keeper._held == 0)
    keeper.offer("large", bytes(1000))  # there is always room for one
    keeper.close()
    assert sorted(done) == ["0", "1", "2", "large"]


def test_a_folder_that_hangs_does_not_hold_up_the_end(monkeypatch, read_log):
    monkeypatch.setattr("onesheet.serving.keeper._CLOSING_SECONDS", 0.1)
    may_go, gone = threading.Event(), threading.Event()

    class Hanging(PictureFolder):
        def keep(self, sha256, data):
            may_go.wait(MAX_WAIT)
            gone.set()

    keeper = PictureKeeper(Hanging("nowhere"), Metrics())
    keeper.offer("a", bytes(30))
    keeper.close()
    held_up = gone.is_set()
    may_go.set()
    assert not held_up
    assert any(line["event"] == "the last pictures are not kept" and line["bytes"] == 30 for line in read_log())


@pytest.mark.anyio
async def test_a_service_forgets_pictures_with_their_answers(log, log_url, keeping, pictures, folder):
    fill(log, pictures, {"old": [answer(b"old", days=10)], "young": [answer(b"young")]})
    app = create_app(keeping.model_copy(update={"log_url": log_url, "log_retention_days": 5}))
    async with app.router.lifespan_context(app):
        await until(lambda: log.count() == 1)
        await until(lambda: kept(folder) == {sha256(b"young")})


@pytest.mark.anyio
async def test_a_deleted_answer_takes_the_picture_of_a_service_along(keeping, predictor, connect, make_poster, folder):
    app = create_app(keeping, predictor)
    async with app.router.lifespan_context(app), connect(app) as client:
        ids = [(await client.post("/predict", files={"file": make_poster()})).json()["prediction_id"] for _ in range(2)]
        await until(lambda: kept(folder) == {sha256(make_poster())})
    with closing(PredictionLog(keeping.log_url, pictures=PictureFolder(folder))) as log:
        log.delete([UUID(ids[0])])
        assert kept(folder) == {sha256(make_poster())}
        log.delete([UUID(ids[1])])
        assert kept(folder) == set()


@pytest.mark.anyio
async def test_from_an_answer_to_a_labelled_poster(
    log, log_url, keeping, predictor, connect, make_poster, folder, tmp_path
):
    """The whole loop, in both kinds of database; the starter's own reference has the hashes that it needs."""
    app = create_app(keeping.model_copy(update={"log_url": log_url}), predictor)
    async with app.router.lifespan_context(app), connect(app) as client:
        for colour, genres in {"red": ["Romance"], "blue": ["Drama", "Comedy"], "white": []}.items():
            answered = (await client.post("/predict", files={"file": make_poster(colour)})).json()
            feedback = {"prediction_id": answered["prediction_id"], "genres": genres}
            assert (await client.post("/feedback", json=feedback)).is_success
    counts = from_log(log, tmp_path / "set", load_bundle(), PictureFolder(folder))
    assert counts == FeedbackCounts(taken=2, empty=1)
    names = {colour: f"fb-{sha256(make_poster(colour))[:16]}" for colour in ("red", "blue")}
    assert read_labels(tmp_path / "set/train.csv").by_id == {
        names["red"]: ("Romance",),
        names["blue"]: ("Comedy", "Drama"),
    }
    assert (tmp_path / "set/Images" / f"{names['red']}.jpg").read_bytes() == make_poster("red")
