"""Probes, the model card, and a service whose model is late, broken or busy."""

from __future__ import annotations

import shutil
import threading

import anyio
import pytest

from onesheet.predictor import Predictor
from onesheet.serving import create_app
from onesheet.serving import loading as loading_module
from tests.processes import MAX_WAIT

pytestmark = pytest.mark.anyio


async def until(client, path: str, status: int):
    """The first answer of `path` that has this status."""
    with anyio.fail_after(MAX_WAIT):
        while (answer := await client.get(path)).status_code != status:
            await anyio.sleep(0.01)
    return answer


async def test_a_ready_service(client):
    assert (await client.get("/livez")).json() == {"status": "alive"}
    assert (await client.get("/readyz")).json() == {"status": "ready"}
    health = (await client.get("/health")).json()
    assert health.pop("uptime_seconds") >= 0
    assert health == {"status": "ok", "model": {"name": "tiny", "version": "1.2.3"}}


async def test_the_model_card_is_the_bundles_summary(client, predictor):
    card = (await client.get("/model")).json()

    assert card == predictor.metadata.summary()
    assert card["genres"] == ["Comedy", "Drama", "Horror", "Romance"]
    assert "files" not in card


async def test_a_given_predictor_is_kept_when_the_application_starts(settings, predictor, connect):
    app = create_app(settings.model_copy(update={"bundle": "nowhere"}), predictor)
    async with app.router.lifespan_context(app), connect(app) as client:
        assert (await client.get("/readyz")).status_code == 200
        assert (await client.get("/health")).json()["model"]["name"] == "tiny"


async def test_the_bundle_of_the_settings_is_loaded_in_the_background(settings, connect, make_poster, monkeypatch):
    may_load = threading.Event()
    load = loading_module.load_predictor

    def slow_load(*args, **kwargs):
        may_load.wait(MAX_WAIT)
        return load(*args, **kwargs)

    monkeypatch.setattr(loading_module, "load_predictor", slow_load)
    app = create_app(settings)
    async with app.router.lifespan_context(app), connect(app) as client:
        assert (await client.get("/livez")).status_code == 200
        assert (await client.get("/health")).json()["status"] == "loading"
        assert (await client.get("/health")).json()["model"] is None
        for answer in (
            await client.get("/readyz"),
            await client.get("/model"),
            await client.post("/predict", files={"file": make_poster()}),
        ):
            assert (answer.status_code, answer.json()["type"]) == (503, "/problems/not_ready")
            assert int(answer.headers["retry-after"]) > 0
        may_load.set()
        await until(client, "/readyz", 200)
        assert (await client.post("/predict", files={"file": make_poster()})).status_code == 200
        assert (await client.get("/health")).json()["status"] == "ok"


async def test_stopping_does_not_wait_for_a_bundle_that_never_comes(settings, monkeypatch):
    may_load, loading, loaded = threading.Event(), threading.Event(), threading.Event()

    def endless_load(*args, **kwargs):
        loading.set()
        may_load.wait(MAX_WAIT)
        loaded.set()
        raise OSError

    monkeypatch.setattr(loading_module, "load_predictor", endless_load)
    app = create_app(settings)
    async with app.router.lifespan_context(app):
        await anyio.to_thread.run_sync(loading.wait)
    waited = loaded.is_set()
    may_load.set()
    assert not waited


async def test_the_limits_and_threads_are_those_of_the_settings(settings, connect, make_poster):
    app = create_app(settings.model_copy(update={"max_pixels": 5_000, "threads": 3}))
    async with app.router.lifespan_context(app), connect(app) as client:
        await until(client, "/readyz", 200)
        answer = await client.post("/predict", files={"file": make_poster(size=(60, 90))})

    assert answer.json()["type"] == "/problems/image_too_large"
    assert app.state.service.predictor.threads == 3


@pytest.fixture
def damaged_bundle(tiny_bundle, tmp_path):
    folder = shutil.copytree(tiny_bundle, tmp_path / "damaged")
    model = bytearray((folder / "model.onnx").read_bytes())
    model[100] ^= 1
    (folder / "model.onnx").write_bytes(model)
    return folder


async def test_a_bundle_that_fails_is_told_and_the_process_lives(
    settings, connect, make_poster, damaged_bundle, read_log
):
    app = create_app(settings.model_copy(update={"bundle": str(damaged_bundle)}))
    async with app.router.lifespan_context(app), connect(app) as client:
        with anyio.fail_after(MAX_WAIT):
            while (await client.get("/health")).json()["status"] != "failed":
                await anyio.sleep(0.01)
        for _ in range(3):
            for answer in (
                await client.get("/readyz"),
                await client.post("/predict", files={"file": make_poster()}),
            ):
                assert (answer.status_code, answer.json()["type"]) == (503, "/problems/bundle_corrupt")
                assert "model.onnx differs" in answer.json()["detail"]
                assert int(answer.headers["retry-after"]) > 0
        assert (await client.get("/livez")).status_code == 200
    (failure,) = [line for line in read_log() if line["event"] == "model not loaded"]
    assert (failure["level"], failure["code"]) == ("error", "bundle_corrupt")


async def test_a_missing_bundle_is_told(settings, connect):
    app = create_app(settings.model_copy(update={"bundle": "nowhere"}))
    async with app.router.lifespan_context(app), connect(app) as client:
        with anyio.fail_after(MAX_WAIT):
            while (answer := await client.get("/readyz")).json()["type"] == "/problems/not_ready":
                await anyio.sleep(0.01)
    assert (answer.status_code, answer.json()["type"]) == (503, "/problems/bundle_not_found")


async def test_an_unexpected_failure_to_load_is_logged_but_not_shown(settings, connect, monkeypatch, read_log):
    def broken_load(*args, **kwargs):
        raise RuntimeError("secret of the server")

    monkeypatch.setattr(loading_module, "load_predictor", broken_load)
    app = create_app(settings)
    async with app.router.lifespan_context(app), connect(app) as client:
        with anyio.fail_after(MAX_WAIT):
            while (answer := await client.get("/readyz")).json()["type"] == "/problems/not_ready":
                await anyio.sleep(0.01)
    assert (answer.status_code, answer.json()["type"]) == (503, "/problems/bad_bundle")
    assert "secret" not in answer.text
    assert any("secret of the server" in line.get("exception", "") for line in read_log())


class SlowPredictor(Predictor):
    """Holds every picture until it is let go, and counts how many are held at once."""

    def __init__(self, bundle, threads: int) -> None:
        super().__init__(bundle, threads=threads)
        self.go = threading.Event()
        self.busy = self.most_busy = 0
        self._lock = threading.Lock()

    def run(self, batch):
        with self._lock:
            self.busy += 1
            self.most_busy = max(self.most_busy, self.busy)
        self.go.wait(MAX_WAIT)
        with self._lock:
            self.busy -= 1
        return super().run(batch)


async def test_health_answers_while_the_predictor_is_busy_on_a_bounded_number_of_threads(
    settings, tiny_bundle, connect, make_poster
):
    from onesheet.bundle import load_bundle

    slow = SlowPredictor(load_bundle(tiny_bundle), threads=2)
    statuses = []
    settings = settings.model_copy(update={"threads": 2})
    async with connect(create_app(settings, slow)) as client, anyio.create_task_group() as requests:

        async def ask() -> None:
            statuses.append((await client.post("/predict", files={"file": make_poster()})).status_code)

        for _ in range(6):
            requests.start_soon(ask)
        with anyio.fail_after(MAX_WAIT):
            while slow.busy < 2:
                await anyio.sleep(0.01)
        for path in ("/livez", "/readyz", "/health", "/model"):
            with anyio.fail_after(MAX_WAIT):
                assert (await client.get(path)).status_code == 200
        assert statuses == []
        slow.go.set()
    assert statuses == [200] * 6
    assert slow.most_busy == 2


async def test_head_has_the_status_and_headers_of_get(client):
    app_paths = [path for path, told in (await client.get("/openapi.json")).json()["paths"].items() if "get" in told]
    paths = [path.replace("{run_id}", "0f8b2c9e-6a53-4f0e-9f0b-0a4f6f1c7d21") for path in app_paths]
    assert {"/livez", "/readyz", "/health", "/metrics", "/model", "/model/card"} <= set(paths)
    for path in (*paths, "/docs", "/redoc", "/openapi.json", "/activity?hours=-1", "/nowhere", "/livez/"):
        get, head = await client.get(path), await client.head(path)
        assert (head.status_code, head.content) == (get.status_code, b""), path
        changing = {"x-request-id", *({"content-length"} if path in {"/metrics", "/health"} else ())}
        kept = [
            {name: value for name, value in answer.headers.items() if name not in changing} for answer in (get, head)
        ]
        assert kept[0] == kept[1], path


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("POST", "/livez", "GET, HEAD"),
        ("DELETE", "/predict", "POST"),
        ("GET", "/predict", "POST"),
        ("HEAD", "/predict", "POST"),
        ("PUT", "/docs", "GET, HEAD"),
    ],
)
async def test_another_method_is_told_which_are_allowed(client, method, path, allowed):
    answer = await client.request(method, path)
    assert (answer.status_code, answer.headers["allow"]) == (405, allowed)


@pytest.mark.parametrize("path", ["/openapi.json", "/docs", "/redoc", "/model", "/model/card"])
async def test_what_does_not_change_is_sent_once_to_a_client_that_asks_again(client, path):
    first = await client.get(path)
    again = await client.get(path, headers={"If-None-Match": f'"other", W/{first.headers["etag"]}'})
    assert (first.status_code, again.status_code, again.content) == (200, 304, b"")
    assert again.headers["etag"] == first.headers["etag"]
    assert (await client.get(path, headers={"If-None-Match": '"other"'})).content == first.content


async def test_the_model_card_is_the_new_models_after_a_change(settings, predictor, next_bundle, connect):
    app = create_app(settings, predictor)
    async with connect(app) as client:
        before = await client.get("/model")
        await app.state.service.replace(str(next_bundle))
        after = await client.get("/model", headers={"If-None-Match": before.headers["etag"]})
    assert (before.json()["version"], after.status_code, after.json()["version"]) == ("1.2.3", 200, "2.0.0")


async def test_metrics_are_rendered_once_for_all_who_wait(settings, predictor, connect, monkeypatch):
    app = create_app(settings, predictor)
    may_render, renderings = threading.Event(), []
    render = app.state.metrics.render

    def slow_render() -> bytes:
        renderings.append(1)
        may_render.wait(60)
        return render()

    monkeypatch.setattr(app.state.rendered_metrics, "_render", slow_render)
    answers = []
    async with connect(app) as client, anyio.create_task_group() as requests:

        async def ask() -> None:
            answers.append((await client.get("/metrics")).status_code)

        for _ in range(50):
            requests.start_soon(ask)
        with anyio.fail_after(60):
            while not renderings:
                await anyio.sleep(0.01)
        assert (await client.get("/livez")).status_code == 200
        may_render.set()
    assert answers == [200] * 50
    assert len(renderings) <= 2
