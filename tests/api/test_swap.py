"""Another bundle takes over, or is refused, and no request is dropped."""

from __future__ import annotations

import shutil
import threading
from functools import partial

import anyio
import pytest
from pydantic import SecretStr

from onesheet import acceptance
from onesheet.bundle import load_bundle, write_bundle
from onesheet.serving import create_app, loading, service
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


@pytest.fixture
def spoil(tiny_bundle, tmp_path):
    """`spoil("reference.parquet", b"")`: a bundle that holds this, with the right hash."""

    def spoiled(name, content):
        bundle = load_bundle(tiny_bundle)
        metadata = bundle.metadata.model_dump(exclude={"files", "schema_version"}) | {"version": "9"}
        write_bundle(metadata, {**bundle.files, name: content}, tmp_path / "spoiled")
        return tmp_path / "spoiled"

    return spoiled


async def test_a_bundle_that_does_not_work_is_refused_with_the_file_and_the_fault(client, spoil, make_poster):
    refused = await client.post("/admin/model", json={"bundle": str(spoil("reference.parquet", b""))}, headers=TOKEN)
    assert (refused.status_code, refused.json()["type"]) == (422, "/problems/bundle_refused")
    assert refused.json()["detail"] == "reference.parquet is no Parquet file; it has 0 bytes"
    assert (await client.post("/predict", files={"file": make_poster()})).json()["model"]["version"] == "1.2.3"


async def test_a_service_that_starts_with_such_a_bundle_is_not_ready_and_says_why(settings, connect, spoil):
    app = create_app(settings.model_copy(update={"bundle": str(spoil("reference.parquet", b"garbage"))}))
    async with app.router.lifespan_context(app), connect(app) as client:
        with anyio.fail_after(60):
            while (answer := (await client.get("/readyz")).json())["type"] == "/problems/not_ready":
                await anyio.sleep(0.02)
    assert (answer["status"], answer["type"]) == (503, "/problems/bundle_corrupt")
    assert "reference.parquet" in answer["detail"]


async def test_a_graph_that_does_not_end_is_refused_and_the_next_bundle_is_taken(
    client, endless_bundle, next_bundle, monkeypatch
):
    monkeypatch.setattr(acceptance, "_SECONDS", 0.3)
    refused = await client.post("/admin/model", json={"bundle": str(endless_bundle)}, headers=TOKEN)
    assert refused.status_code == 422
    assert "no answer within 0.3 s" in refused.json()["detail"]
    assert (await client.post("/admin/model", json={"bundle": str(next_bundle)}, headers=TOKEN)).status_code == 200


@pytest.fixture
def hanging(monkeypatch):
    """Bundles named `hangs` lie where reading never ends, until the end of the test."""
    let_go, load = threading.Event(), loading.load_predictor

    def load_or_hang(ref, **options):
        if ref == "hangs":
            let_go.wait()
        return load(ref, **options)

    monkeypatch.setattr(loading, "load_predictor", load_or_hang)
    yield
    let_go.set()


@pytest.mark.usefixtures("hanging")
async def test_a_place_that_hangs_is_given_up_and_the_next_bundle_is_taken(settings, predictor, connect, next_bundle):
    app = create_app(settings.model_copy(update={"load_seconds": 0.2}), predictor)
    async with connect(app) as client:
        refused = await client.post("/admin/model", json={"bundle": "hangs"}, headers=TOKEN)
        assert (refused.status_code, refused.json()["type"]) == (422, "/problems/bundle_refused")
        assert refused.json()["detail"] == "not loaded within 0.2 s (ONESHEET_LOAD_SECONDS)"
        app.state.service._settings = settings
        taken = await client.post("/admin/model", json={"bundle": str(next_bundle)}, headers=TOKEN)
        assert taken.json()["version"] == "2.0.0"


@pytest.mark.usefixtures("hanging")
async def test_a_service_whose_bundle_hangs_ends_when_it_is_told_to(settings):
    app = create_app(settings.model_copy(update={"bundle": "hangs"}))
    with anyio.fail_after(30):
        async with app.router.lifespan_context(app):
            while not any(thread.name == "in-daemon" for thread in threading.enumerate()):
                await anyio.sleep(0.02)


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
