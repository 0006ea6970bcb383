"""Why, what is similar, and what has been asked, over HTTP."""

from __future__ import annotations

import asyncio
import dataclasses
import io
import sys
import threading

import anyio
import httpx
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from onesheet import explanation, load_predictor
from onesheet.bundle import load_bundle, write_bundle
from onesheet.predictor import Predictor
from onesheet.serving import create_app, insights
from tests.processes import MAX_WAIT

pytestmark = pytest.mark.anyio


async def test_every_genre_is_explained_most_probable_first(client, predictor, make_poster):
    poster = make_poster("orange", size=(60, 90))
    answer = await client.post("/explain", files={"file": poster})

    assert answer.status_code == 200
    found = answer.json()
    assert found["model"] == {"name": "tiny", "version": "1.2.3"}
    labels = [one["label"] for one in found["explanations"]]
    assert labels == [score.label for score in predictor.predict(poster, top_k=4).topk]
    for one in found["explanations"]:
        assert (len(one["effects"]), {len(row) for row in one["effects"]}) == (12, {9})
        # One colour all over: to cover a part of it with that colour changes nothing.
        assert max(abs(effect) for row in one["effects"] for effect in row) < 0.1


async def test_only_the_genres_that_were_asked_for(client, make_poster):
    answer = await client.post("/explain?genre=Drama&genre=Comedy", files={"file": make_poster("blue")})
    assert [one["label"] for one in answer.json()["explanations"]] == ["Drama", "Comedy"]
    unknown = await client.post("/explain?genre=Drama&genre=Opera", files={"file": make_poster("blue")})
    assert (unknown.status_code, unknown.json()["type"]) == (422, "/problems/invalid_request")


async def test_the_most_similar_come_first(client, make_poster):
    answer = await client.post("/similar?k=5", files={"file": make_poster("white")})

    assert answer.status_code == 200
    found = answer.json()["similar"]
    assert {one["id"] for one in found} == {"tt0000001", "tt0000002"}
    assert found[0]["distance"] <= found[1]["distance"]
    by_id = {one["id"]: (one["title"], one["genres"]) for one in found}
    assert by_id == {"tt0000001": ("The Bright One", ["Comedy", "Romance"]), "tt0000002": (None, ["Drama"])}
    one = (await client.post("/similar?k=1", files={"file": make_poster("white")})).json()["similar"]
    assert one == found[:1]


async def test_a_known_poster_is_most_like_itself(settings, connect, posters):
    starter = load_predictor()
    table = pq.read_table(io.BytesIO(starter.reference)).to_pydict()
    async with connect(create_app(settings, starter)) as client:
        for film, genres in list(zip(table["id"], table["genres"], strict=True))[:5]:
            picture = (posters / "Images" / f"{film}.jpg").read_bytes()
            found = (await client.post("/similar?k=3", files={"file": picture})).json()["similar"]
            assert found[0]["id"] == film
            assert found[0]["distance"] < 0.001 < found[1]["distance"]
            assert found[0]["genres"] == genres


async def test_another_bundle_knows_other_posters(settings, predictor, tiny_bundle, tmp_path, connect, make_poster):
    table = pq.read_table(tiny_bundle / "reference.parquet").to_pydict() | {"id": ["a", "b"]}
    sink = io.BytesIO()
    pq.write_table(pa.table(table), sink)
    bundle = load_bundle(tiny_bundle)
    files = {**bundle.files, "reference.parquet": sink.getvalue()}
    write_bundle(bundle.metadata.model_dump(exclude={"files", "schema_version"}), files, tmp_path / "other")

    app = create_app(settings, predictor)
    async with connect(app) as client:
        before = (await client.post("/similar", files={"file": make_poster()})).json()["similar"]
        await app.state.service.replace(str(tmp_path / "other"))
        after = (await client.post("/similar", files={"file": make_poster()})).json()["similar"]
    assert {one["id"] for one in before} == {"tt0000001", "tt0000002"}
    assert {one["id"] for one in after} == {"a", "b"}


async def test_a_reference_without_embeddings_is_the_bundles_fault(settings, tiny_bundle, connect, make_poster):
    bundle = load_bundle(tiny_bundle)
    files = {**bundle.files, "reference.parquet": b"PAR1"}
    async with connect(create_app(settings, Predictor(dataclasses.replace(bundle, files=files)))) as client:
        answer = await client.post("/similar", files={"file": make_poster()})
    assert (answer.status_code, answer.json()["type"]) == (503, "/problems/bundle_corrupt")


async def test_without_parquet_the_rest_answers(client, make_poster, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    answer = await client.post("/similar", files={"file": make_poster()})
    assert (answer.status_code, answer.json()["type"]) == (501, "/problems/missing_extra")
    assert "onesheet[similar]" in answer.json()["detail"]
    assert (await client.post("/explain", files={"file": make_poster()})).status_code == 200


@pytest.mark.parametrize("path", ["/explain", "/similar"])
async def test_bad_pictures_are_refused_as_elsewhere(client, path):
    answer = await client.post(path, files={"file": b"no picture"})
    assert (answer.status_code, answer.json()["type"]) == (400, "/problems/not_an_image")
    link = await client.post(path, json={"image_url": "https://films.example/a.jpg"})
    assert link.status_code == 415


async def test_before_the_model_is_there_nothing_is_explained(settings, connect, make_poster):
    async with connect(create_app(settings)) as client:
        for path in ("/explain", "/similar"):
            assert (await client.post(path, files={"file": make_poster()})).status_code == 503


async def test_one_client_takes_half_of_the_places_and_others_the_rest(
    settings, predictor, make_poster, connect, monkeypatch
):
    may_go = threading.Event()

    def explain_later(*arguments):
        may_go.wait(MAX_WAIT)
        return explanation.explain(*arguments)

    monkeypatch.setattr(insights, "explain", explain_later)
    app = create_app(settings, predictor)
    accepted, refused = [], []

    async def ask_too_often(address: str, times: int) -> None:
        transport = httpx.ASGITransport(app=app, client=(address, 1234))
        async with httpx.AsyncClient(transport=transport, base_url="http://onesheet.test") as client:
            asked = [asyncio.create_task(client.post("/explain", files={"file": make_poster()})) for _ in range(times)]
            done, waiting = await asyncio.wait(asked, return_when=asyncio.FIRST_COMPLETED, timeout=MAX_WAIT)
            refused.extend(task.result() for task in done)
            accepted.extend(waiting)

    with anyio.fail_after(MAX_WAIT):
        await ask_too_often("203.0.113.1", 9)
        await ask_too_often("203.0.113.2", 9)
        await ask_too_often("203.0.113.3", 1)
        async with connect(app) as client:
            answered = await client.post("/predict", files={"file": make_poster()})
        may_go.set()
        explained = [(await one).status_code for one in accepted]

    assert [(one.status_code, one.json()["type"]) for one in refused] == [
        (429, "/problems/share_exceeded"),
        (429, "/problems/share_exceeded"),
        (503, "/problems/overloaded"),
    ]
    assert {one.headers["retry-after"] for one in refused} == {"5"}
    assert answered.status_code == 200
    assert explained == [200] * 16


async def test_activity_is_what_was_answered(client, make_poster):
    first = (await client.post("/predict", files={"file": make_poster("white")})).json()
    await client.post("/predict", files={"file": make_poster("blue")})
    await client.post("/feedback", json={"prediction_id": first["prediction_id"], "genres": ["Comedy"]})
    # Neither of these is an answer.
    await client.post("/explain", files={"file": make_poster("white")})
    await client.post("/similar", files={"file": make_poster("white")})

    found = (await client.get("/activity?hours=1&buckets=4")).json()
    assert found["answers"] == 2
    assert [bucket["answers"] for bucket in found["buckets"]] == [0, 0, 0, 2]
    assert found["models"] == {"tiny 1.2.3": 2}
    assert found["feedback"]["count"] == 1
    assert found["feedback"]["agreement"] == 0.5  # white is Romance too


@pytest.mark.parametrize("query", ["hours=0", "hours=nan", "hours=1e9", "buckets=0", "buckets=501", "hours=x"])
async def test_a_window_out_of_range(client, query):
    assert (await client.get(f"/activity?{query}")).status_code == 422


async def test_the_card_is_markdown(client):
    answer = await client.get("/model/card")
    assert answer.headers["content-type"].startswith("text/markdown")
    assert answer.text.startswith("# tiny")
