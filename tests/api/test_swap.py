"""Another bundle takes over, or is refused, and no request is dropped."""

from __future__ import annotations

import shutil
from functools import partial

import anyio
import pytest
from pydantic import SecretStr

from onesheet.serving import create_app, service
from onesheet.serving.choice import SharedChoice
from tests.processes import MAX_WAIT

pytestmark = pytest.mark.anyio

TOKEN = {"Authorization": "Bearer secret"}


@pytest.fixture
def settings(settings):
    return settings.model_copy(update={"admin_token": SecretStr("secret")})


@pytest.fixture
def damaged_bundle(next_bundle, tmp_path):
    folder = shutil.copytree(next_bundle, tmp_path / "damaged")
    (folder / "model.onnx").write_bytes((folder / "model.onnx").read_bytes()[:-10])
    return folder


async def test_the_new_bundle_answers_from_now_on(client, next_bundle, make_poster):
    before = (await client.post("/predict", files={"file": make_poster()})).json()
    swapped = await client.post("/admin/model", json={"bundle": str(next_bundle)}, headers=TOKEN)
    after = (await client.post("/predict", files={"file": make_poster()})).json()

    assert (swapped.status_code, swapped.json()) == (200, {"name": "tiny", "version": "2.0.0"})
    assert (before["model"]["version"], after["model"]["version"]) == ("1.2.3", "2.0.0")
    assert (len(before["predicted"]), len(after["predicted"])) == (1, 0)
    assert (await client.get("/health")).json()["model"]["version"] == "2.0.0"
    metrics = (await client.get("/metrics")).text
    assert 'onesheet_model_info{name="tiny",version="2.0.0"} 1.0' in metrics
    assert 'onesheet_model_info{name="tiny",version="1.2.3"} 0.0' in metrics
    assert 'onesheet_model_swaps_total{outcome="done"} 1.0' in metrics


async def test_a_bad_bundle_leaves_the_old_one_answering(client, damaged_bundle, make_poster):
    for bundle in (str(damaged_bundle), "nowhere"):
        refused = await client.post("/admin/model", json={"bundle": bundle}, headers=TOKEN)
        assert (refused.status_code, refused.json()["type"]) == (422, "/problems/bundle_refused")
    answer = await client.post("/predict", files={"file": make_poster()})
    assert answer.json()["model"]["version"] == "1.2.3"
    assert (await client.get("/readyz")).status_code == 200
    assert 'onesheet_model_swaps_total{outcome="refused"} 2.0' in (await client.get("/metrics")).text


async def test_no_request_is_dropped_while_bundles_change(client, tiny_bundle, next_bundle, make_poster):
    versions = []

    async def ask() -> None:
        for _ in range(40):
            answer = await client.post("/predict", files={"file": make_poster()})
            assert answer.status_code == 200
            versions.append(answer.json()["model"]["version"])

    async with anyio.create_task_group() as tasks:
        for _ in range(4):
            tasks.start_soon(ask)
        for bundle in (next_bundle, tiny_bundle, next_bundle):
            await client.post("/admin/model", json={"bundle": str(bundle)}, headers=TOKEN)
    assert len(versions) == 160
    assert set(versions) == {"1.2.3", "2.0.0"}


async def test_operators_who_swap_at_once_get_in_each_others_way_no_more_than_in_a_queue(
    settings, predictor, connect, tiny_bundle, next_bundle, tmp_path
):
    app = create_app(settings, predictor, SharedChoice(tmp_path / "choice"))
    statuses = []
    async with connect(app) as client, anyio.create_task_group() as tasks:

        async def swap(bundle) -> None:
            answer = await client.post("/admin/model", json={"bundle": str(bundle)}, headers=TOKEN)
            statuses.append(answer.status_code)

        for bundle in (next_bundle, tiny_bundle) * 4:
            tasks.start_soon(swap, bundle)
    assert statuses == [200] * 8


async def version(client) -> str:
    return (await client.get("/health")).json()["model"]["version"]


async def test_processes_of_one_service_follow_each_other(settings, predictor, connect, next_bundle, tmp_path):
    choice = SharedChoice(tmp_path / "choice")
    apps = [create_app(settings, predictor, SharedChoice(tmp_path / "choice")) for _ in range(2)]
    async with (
        apps[0].router.lifespan_context(apps[0]),
        apps[1].router.lifespan_context(apps[1]),
        connect(apps[0]) as one,
        connect(apps[1]) as other,
    ):
        await one.post("/admin/model", json={"bundle": str(next_bundle)}, headers=TOKEN)
        assert await version(one) == "2.0.0"
        with anyio.fail_after(MAX_WAIT):
            while await version(other) != "2.0.0":
                await anyio.sleep(0.05)
        choice.write("nowhere")
        await anyio.sleep(1.2)
        assert await version(one) == await version(other) == "2.0.0"
        choice.write(settings.bundle)
        with anyio.fail_after(MAX_WAIT):
            while {await version(one), await version(other)} != {"1.2.3"}:
                await anyio.sleep(0.05)


async def test_what_is_chosen_while_a_process_follows_an_older_choice_is_what_stays(
    settings, predictor, connect, next_bundle, tmp_path, monkeypatch
):
    choice, may_load, following = SharedChoice(tmp_path / "choice"), anyio.Event(), anyio.Event()
    load = service.load_for_service

    async def load_slowly(ref, settings):
        loaded = await load(ref, settings)
        if ref == settings.bundle:
            following.set()
            await may_load.wait()
        return loaded

    monkeypatch.setattr(service, "load_for_service", load_slowly)
    app = create_app(settings, predictor, choice)
    async with app.router.lifespan_context(app), connect(app) as client, anyio.create_task_group() as tasks:
        choice.write(settings.bundle)  # as another process does
        await following.wait()
        swap = partial(client.post, "/admin/model", json={"bundle": str(next_bundle)}, headers=TOKEN)
        tasks.start_soon(swap)
        await anyio.sleep(0.5)
        may_load.set()
        with anyio.fail_after(MAX_WAIT):
            while await version(client) != "2.0.0":
                await anyio.sleep(0.02)
        await anyio.sleep(0.2)
        assert await version(client) == "2.0.0"


async def test_what_was_chosen_stays_as_it_was_whatever_becomes_of_the_original(
    settings, predictor, connect, next_bundle, tmp_path
):
    choice = SharedChoice(tmp_path / "choice")
    app = create_app(settings, predictor, choice)
    async with connect(app) as client:
        for _ in range(3):
            answer = await client.post("/admin/model", json={"bundle": str(next_bundle)}, headers=TOKEN)
            assert answer.json()["version"] == "2.0.0"
    shutil.rmtree(next_bundle)
    later = create_app(settings, choice=SharedChoice(tmp_path / "choice"))
    async with later.router.lifespan_context(later), connect(later) as client:
        with anyio.fail_after(MAX_WAIT):
            while (await client.get("/readyz")).status_code != 200:
                await anyio.sleep(0.02)
        assert await version(client) == "2.0.0"
    assert len(list(tmp_path.glob("choice-*"))) == 2  # the one in use, and the one before it


async def test_a_process_that_starts_later_takes_what_the_others_chose(settings, connect, next_bundle, tmp_path):
    choice = SharedChoice(tmp_path / "choice")
    assert choice.read() is None
    choice.write(str(next_bundle))
    app = create_app(settings, choice=choice)
    async with app.router.lifespan_context(app), connect(app) as client:
        with anyio.fail_after(MAX_WAIT):
            while (await client.get("/readyz")).status_code != 200:
                await anyio.sleep(0.02)
        assert await version(client) == "2.0.0"
