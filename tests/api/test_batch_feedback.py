"""Many posters at once, what the log keeps of answers, and what people say about them."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid4

import pytest

from onesheet.predictionlog import PredictionLog
from onesheet.serving import create_app

pytestmark = pytest.mark.anyio


@pytest.fixture
def log(settings):
    """The prediction log, read after the fact."""
    opened = PredictionLog(settings.log_url)
    yield opened
    opened.close()


# ---------------------------------------------------------------------------------------------------------- batch


async def test_each_of_many_gets_an_answer_or_an_error_in_their_order(client, make_poster, log):
    parts = [
        ("files", ("red.jpg", make_poster("red"))),
        ("files", ("broken.jpg", b"no picture")),
        ("files", ("blue.png", make_poster("blue", kind="PNG"))),
    ]
    answer = await client.post("/predict/batch?topk=1", files=parts)

    assert answer.status_code == 200
    first, broken, last = answer.json()["results"]
    assert [item["file"] for item in (first, broken, last)] == ["red.jpg", "broken.jpg", "blue.png"]
    assert first["answer"]["topk"][0]["label"] == "Romance"
    assert last["answer"]["topk"][0]["label"] == "Drama"
    assert (broken["answer"], broken["error"]["code"]) == (None, "not_an_image")
    assert {str(kept.id) for kept in log.predictions()} == {
        first["answer"]["prediction_id"],
        last["answer"]["prediction_id"],
    }


async def test_too_many_at_once_are_refused(settings, predictor, connect, make_poster):
    async with connect(create_app(settings.model_copy(update={"max_batch_files": 2}), predictor)) as client:
        answer = await client.post("/predict/batch", files=[("files", make_poster())] * 3)
    assert (answer.status_code, answer.json()["type"]) == (400, "/problems/malformed_body")


async def test_a_batch_without_files_is_refused(client, make_poster):
    answer = await client.post("/predict/batch", files={"file": make_poster()})
    assert (answer.status_code, answer.json()["type"]) == (422, "/problems/invalid_request")
    answer = await client.post("/predict/batch", json={})
    assert answer.status_code == 415


# ------------------------------------------------------------------------------------------------------------ log


async def test_an_answer_is_in_the_log_when_it_is_given(client, make_poster, log, predictor):
    poster = make_poster("orange")
    before = datetime.now(UTC)
    answer = await client.post(
        "/predict?threshold=0.25", files={"file": ("film.jpg", poster)}, headers={"X-Request-ID": "mine"}
    )
    (kept,) = log.predictions()

    assert kept.id == UUID(answer.json()["prediction_id"])
    assert before - timedelta(seconds=1) < kept.time < datetime.now(UTC) + timedelta(seconds=1)
    assert (kept.role, kept.model_name, kept.model_version) == ("answered", "tiny", "1.2.3")
    assert kept.genres == predictor.genres
    expected = predictor.predict(poster, threshold=0.25)
    assert kept.probabilities == pytest.approx(expected.probabilities)
    assert kept.embedding == pytest.approx(expected.embedding, rel=1e-3)
    assert list(kept.predicted) == [score["label"] for score in answer.json()["predicted"]]
    assert (kept.threshold, kept.file_name, kept.request_id) == (0.25, "film.jpg", "mine")
    assert kept.content_sha256 == hashlib.sha256(poster).hexdigest()
    assert (kept.statistics["width"], kept.statistics["height"]) == (60, 90)
    assert 0 < kept.latency_ms < 10_000


async def test_what_is_refused_is_not_in_the_log(client, log):
    await client.post("/predict", files={"file": b"no picture"})
    await client.post("/predict?threshold=2", files={"file": b"no picture"})
    log.migrate()
    assert log.count() == 0


@pytest.fixture
def broken_log(settings):
    """Settings whose log cannot be opened: its folder does not exist."""
    return settings.model_copy(update={"log_url": "sqlite:////nowhere/log.db"})


async def test_while_the_log_is_down_nothing_is_answered(broken_log, predictor, connect, make_poster):
    async with connect(create_app(broken_log, predictor)) as client:
        answer = await client.post("/predict", files={"file": make_poster()})
        batch = await client.post("/predict/batch", files={"files": make_poster()})
        metrics = (await client.get("/metrics")).text
    assert (answer.status_code, answer.json()["type"]) == (503, "/problems/log_unavailable")
    assert "nowhere" not in answer.text
    assert int(answer.headers["retry-after"]) > 0
    assert batch.json()["results"][0]["error"]["code"] == "log_unavailable"
    assert "onesheet_log_failures_total 2.0" in metrics


async def test_or_answered_without_an_id_where_the_settings_say_so(broken_log, predictor, connect, make_poster):
    settings = broken_log.model_copy(update={"log_failure": "answer"})
    async with connect(create_app(settings, predictor)) as client:
        answer = await client.post("/predict", files={"file": make_poster("blue")})
        metrics = (await client.get("/metrics")).text
    assert answer.status_code == 200
    assert answer.json()["prediction_id"] is None
    assert answer.json()["topk"][0]["label"] == "Drama"
    assert "onesheet_log_failures_total 1.0" in metrics


# ------------------------------------------------------------------------------------------------------- feedback


async def test_feedback_is_kept_beside_the_answer(client, make_poster, log):
    answer = (await client.post("/predict", files={"file": make_poster()})).json()
    said = {"prediction_id": answer["prediction_id"], "genres": ["Drama", "Horror", "Drama"]}
    kept = await client.post("/feedback", json=said)

    assert (kept.status_code, kept.json()) == (
        201,
        {"prediction_id": answer["prediction_id"], "status": "kept"},
    )
    (found,) = log.feedback(UUID(answer["prediction_id"]))
    assert found.genres == ("Drama", "Horror")


async def test_no_genre_at_all_is_an_opinion_too(client, make_poster):
    answer = (await client.post("/predict", files={"file": make_poster()})).json()
    kept = await client.post("/feedback", json={"prediction_id": answer["prediction_id"], "genres": []})
    assert kept.status_code == 201


@pytest.mark.parametrize(
    ("change", "status", "problem"),
    [
        ({"prediction_id": str(uuid4())}, 404, "unknown_prediction"),
        ({"prediction_id": "mine"}, 422, "invalid_request"),
        ({"genres": ["Musical"]}, 422, "invalid_request"),
        ({"genres": "Drama"}, 422, "invalid_request"),
        ({"genres": ["Drama"] * 101}, 422, "invalid_request"),
        ({"more": 1}, 422, "invalid_request"),
    ],
)
async def test_feedback_that_makes_no_sense_is_refused(client, make_poster, log, change, status, problem):
    answer = (await client.post("/predict", files={"file": make_poster()})).json()
    said = {"prediction_id": answer["prediction_id"], "genres": ["Drama"], **change}
    refused = await client.post("/feedback", json=said)

    assert (refused.status_code, refused.json()["type"]) == (status, f"/problems/{problem}")
    assert list(log.feedback()) == []


@pytest.mark.parametrize(
    ("body", "status", "detail"),
    [(b"", 422, "body: "), (b"{", 422, "body: "), (b"[]", 422, "body: "), (b"\xff", 400, "")],
)
async def test_feedback_that_is_no_json_is_the_clients_fault(client, body, status, detail):
    answer = await client.post("/feedback", content=body, headers={"Content-Type": "application/json"})
    assert answer.status_code == status
    assert answer.json()["detail"].startswith(detail)


async def test_a_long_name_is_not_repeated_at_length(client):
    answer = await client.post("/feedback", json={"prediction_id": str(uuid4()), "genres": [], "x" * 50_000: 1})
    assert answer.status_code == 422
    assert len(answer.content) < 500


async def test_feedback_that_cannot_be_kept_is_not_thanked_for(broken_log, predictor, connect):
    async with connect(create_app(broken_log, predictor)) as client:
        answer = await client.post("/feedback", json={"prediction_id": str(uuid4()), "genres": []})
    assert (answer.status_code, answer.json()["type"]) == (503, "/problems/log_unavailable")


# -------------------------------------------------------------------------------------------------------- metrics


async def test_metrics_count_what_happened(client, make_poster):
    for colour in ("blue", "blue", "red"):
        await client.post("/predict", files={"file": make_poster(colour)})
    await client.post("/predict", files={"file": b"no picture"})
    await client.get("/nowhere/1")
    await client.get("/nowhere/2")
    lines = (await client.get("/metrics")).text.splitlines()

    for expected in (
        "prediction_error_total 1.0",
        "health_error_total 0.0",
        "prediction_latency_seconds_count 3.0",
        'onesheet_requests_total{method="POST",route="/predict",status="200"} 3.0',
        'onesheet_requests_total{method="POST",route="/predict",status="400"} 1.0',
        'onesheet_requests_total{method="GET",route="other",status="404"} 2.0',
        'onesheet_refused_total{reason="not_an_image"} 1.0',
        'onesheet_predicted_total{genre="Drama"} 2.0',
        "onesheet_confidence_count 3.0",
        'onesheet_stage_seconds_count{stage="decode"} 3.0',
        'onesheet_stage_seconds_count{stage="model"} 3.0',
        'onesheet_stage_seconds_count{stage="log"} 3.0',
        'onesheet_stage_seconds_count{stage="queue"} 3.0',
        "onesheet_batch_size_sum 3.0",
        "onesheet_queue_depth 0.0",
        "onesheet_requests_in_flight 1.0",
        'onesheet_model_info{name="tiny",version="1.2.3"} 1.0',
    ):
        assert expected in lines
    assert any(line.startswith("process_resident_memory_bytes") for line in lines)
