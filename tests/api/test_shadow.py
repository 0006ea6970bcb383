"""A second bundle that scores the same pictures and answers nobody."""

from __future__ import annotations

from uuid import UUID

import anyio
import pytest

from onesheet.errors import OverloadedError
from onesheet.predictionlog import PredictionLog
from onesheet.serving import create_app
from onesheet.serving.engine import Engine
from tests.processes import MAX_WAIT

pytestmark = pytest.mark.anyio


@pytest.fixture
def settings(settings, next_bundle):
    return settings.model_copy(update={"shadow_bundle": str(next_bundle)})


@pytest.fixture
async def shadowed(settings, connect):
    """A client of an API with a shadow; at the end everything is written."""
    app = create_app(settings)
    async with app.router.lifespan_context(app), connect(app) as client:
        with anyio.fail_after(MAX_WAIT):
            while app.state.service._shadow is None:
                await anyio.sleep(0.02)
        yield client


async def rows(url: str, expected: int):
    log = PredictionLog(url)
    with anyio.fail_after(MAX_WAIT):
        while len(found := list(log.predictions())) < expected:
            await anyio.sleep(0.02)
    log.close()
    return found


async def test_what_the_shadow_says_is_in_the_log_and_in_no_answer(shadowed, settings, make_poster):
    answer = (await shadowed.post("/predict", files={"file": make_poster("blue")})).json()
    found = {kept.role: kept for kept in await rows(settings.log_url, 2)}

    assert answer["model"]["version"] == "1.2.3"
    assert found["answered"].id == found["shadow"].id == UUID(answer["prediction_id"])
    assert (found["answered"].model_version, found["shadow"].model_version) == ("1.2.3", "2.0.0")
    assert (found["answered"].predicted, found["shadow"].predicted) == (("Drama",), ())
    assert found["answered"].content_sha256 == found["shadow"].content_sha256
    assert 'onesheet_shadow_total{outcome="scored"} 1.0' in (await shadowed.get("/metrics")).text


async def test_broken_pictures_are_not_for_the_shadow(shadowed, make_poster):
    await shadowed.post("/predict", files={"file": b"no picture"})
    assert "onesheet_shadow_total{" not in (await shadowed.get("/metrics")).text


async def test_a_shadow_that_cannot_be_loaded_harms_nobody(settings, predictor, connect, make_poster, read_log):
    app = create_app(settings.model_copy(update={"shadow_bundle": "nowhere"}), predictor)
    async with app.router.lifespan_context(app), connect(app) as client:
        await anyio.sleep(0.2)
        assert (await client.post("/predict", files={"file": make_poster()})).status_code == 200
    assert any(line["event"] == "model not loaded" and line["bundle"] == "nowhere" for line in read_log())


async def test_a_shadow_that_is_too_slow_skips_and_holds_nobody_up(shadowed, make_poster, monkeypatch):
    def full(self, *args, **options):
        raise OverloadedError

    submit = Engine.submit

    def full_shadow(self, *args, **options):
        return (submit if self.predictor.metadata.version == "1.2.3" else full)(self, *args, **options)

    monkeypatch.setattr(Engine, "submit", full_shadow)
    assert (await shadowed.post("/predict", files={"file": make_poster()})).status_code == 200
    assert 'onesheet_shadow_total{outcome="skipped"} 1.0' in (await shadowed.get("/metrics")).text


async def test_a_shadow_that_fails_is_counted(shadowed, make_poster, monkeypatch):
    judge = type(shadowed._transport.app.state.service.predictor).judge

    def failing(self, *args, **options):
        if self.metadata.version == "2.0.0":
            raise ZeroDivisionError
        return judge(self, *args, **options)

    monkeypatch.setattr("onesheet.predictor.Predictor.judge", failing)
    assert (await shadowed.post("/predict", files={"file": make_poster()})).status_code == 200
    with anyio.fail_after(MAX_WAIT):
        while 'onesheet_shadow_total{outcome="failed"} 1.0' not in (await shadowed.get("/metrics")).text:
            await anyio.sleep(0.02)
