"""A service that follows the champion: it answers with whoever that is, whatever happens to the registry."""

from __future__ import annotations

from contextlib import asynccontextmanager

import anyio
import pytest
from pydantic import SecretStr

from onesheet.console import read_settings
from onesheet.errors import InvalidRequestError
from onesheet.serving import create_app
from tests.processes import MAX_WAIT

pytestmark = pytest.mark.anyio

SOON = 0.2


@pytest.fixture
def following(settings, embedded):
    """Settings of a service that follows the registry in the working folder."""
    return settings.model_copy(
        update={"bundle": "champion", "follow_seconds": SOON, "registry_url": read_settings().registry_url}
    )


@pytest.fixture
def started(connect):
    """`async with started(settings) as client`: the service runs, lifespan and all."""

    @asynccontextmanager
    async def opened(settings):
        app = create_app(settings)
        async with app.router.lifespan_context(app), connect(app) as client:
            yield client

    return opened


async def becomes(client, version: str) -> None:
    with anyio.fail_after(MAX_WAIT):
        while (await client.get("/health")).json()["model"] != {"name": "tiny", "version": version}:
            await anyio.sleep(0.05)


async def test_it_answers_with_the_champion_whoever_that_is(
    following, embedded, register, started, tiny_bundle, next_bundle, make_poster
):
    register(embedded, tiny_bundle, alias="champion")
    async with started(following) as client:
        await becomes(client, "1.2.3")
        register(embedded, next_bundle, alias="champion")
        await becomes(client, "2.0.0")
        answer = await client.post("/predict", files={"file": make_poster()})
        assert answer.json()["model"]["version"] == "2.0.0"
        embedded.move(embedded.standing("champion"), embedded.former_champion(), "rollback", "so")
        await becomes(client, "1.2.3")
        metrics = (await client.get("/metrics")).text
        assert 'onesheet_model_swaps_total{outcome="done"} 2.0' in metrics
        assert 'outcome="refused"' not in metrics
        assert 'onesheet_model_info{name="tiny",version="1.2.3"} 1.0' in metrics


async def test_a_champion_that_cannot_be_used_leaves_the_old_one_answering(
    following, embedded, register, started, tiny_bundle, next_bundle, tmp_path, make_poster
):
    register(embedded, tiny_bundle, alias="champion")
    async with started(following) as client:
        await becomes(client, "1.2.3")
        before = set((tmp_path / "outputs").glob("registry/**/model.onnx"))
        damaged = register(embedded, next_bundle)
        (stored,) = set((tmp_path / "outputs").glob("registry/**/model.onnx")) - before
        whole = stored.read_bytes()
        stored.write_bytes(whole[:-10])
        embedded.move(embedded.standing("champion"), damaged, "promote", "because")
        with anyio.fail_after(MAX_WAIT):
            while 'onesheet_model_swaps_total{outcome="refused"}' not in (await client.get("/metrics")).text:
                await anyio.sleep(0.05)
        answer = await client.post("/predict", files={"file": make_poster()})
        assert (answer.status_code, answer.json()["model"]["version"]) == (200, "1.2.3")
        stored.write_bytes(whole)  # whatever was wrong is mended
        await becomes(client, "2.0.0")


async def test_a_registry_that_comes_late_is_waited_for(
    following, embedded, register, started, tiny_bundle, make_poster, read_log
):
    async with started(following) as client:
        with anyio.fail_after(MAX_WAIT):
            while (await client.get("/readyz")).json().get("type") != "/problems/unknown_version":
                await anyio.sleep(0.05)
        register(embedded, tiny_bundle, alias="champion")
        await becomes(client, "1.2.3")
        assert (await client.get("/readyz")).status_code == 200
        assert (await client.post("/predict", files={"file": make_poster()})).status_code == 200


async def test_a_registry_that_stumbles_is_asked_again(
    following, embedded, register, started, tiny_bundle, next_bundle, monkeypatch
):
    register(embedded, tiny_bundle, alias="champion")
    async with started(following) as client:
        await becomes(client, "1.2.3")
        stumbles = iter([ZeroDivisionError, RuntimeError])
        find = type(embedded).find

        def found(self, ref):
            if (error := next(stumbles, None)) is not None:
                raise error("something that no library should let out")
            return find(self, ref)

        monkeypatch.setattr(type(embedded), "find", found)
        register(embedded, next_bundle, alias="champion")
        await becomes(client, "2.0.0")
        assert next(stumbles, None) is None


async def test_what_follows_the_registry_is_not_swapped_behind_its_back(
    following, embedded, register, started, tiny_bundle, next_bundle
):
    register(embedded, tiny_bundle, alias="champion")
    async with started(following.model_copy(update={"admin_token": SecretStr("secret")})) as client:
        await becomes(client, "1.2.3")
        refused = await client.post(
            "/admin/model", json={"bundle": str(next_bundle)}, headers={"Authorization": "Bearer secret"}
        )
        assert refused.status_code == 422
        assert "follows the champion of the registry: promote or roll back there" in refused.json()["detail"]


@pytest.mark.parametrize("bundle", ["starter", "registry:3", "models/mine"])
def test_only_an_alias_is_followed(bundle):
    with pytest.raises(InvalidRequestError, match="only an alias of the registry can be followed, such as champion"):
        read_settings(bundle=bundle, follow_seconds=3)


def test_other_aliases_are_followed_too():
    assert read_settings(bundle="registry:holidays", follow_seconds=3).follow_seconds == 3
