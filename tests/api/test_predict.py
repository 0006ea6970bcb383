"""What `POST /predict` answers to good pictures and good options."""

from __future__ import annotations

import io
from uuid import UUID

import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

pytestmark = pytest.mark.anyio


async def test_a_poster_gets_its_genres(client, make_poster):
    answer = await client.post("/predict", files={"file": ("poster.jpg", make_poster("red"))})

    assert answer.status_code == 200
    assert answer.headers["content-type"] == "application/json"
    body = answer.json()
    assert list(body) == ["prediction_id", "predicted", "topk", "threshold", "model"]
    assert UUID(body["prediction_id"]).version == 4
    assert [score["label"] for score in body["predicted"]] == ["Romance"]
    assert body["threshold"] is None
    assert body["model"] == {"name": "tiny", "version": "1.2.3"}


async def test_the_answer_is_the_predictors(client, predictor, make_poster):
    poster = make_poster("orange", kind="PNG")
    answer = (await client.post("/predict?topk=3", files={"file": poster})).json()

    expected = predictor.predict(poster, top_k=3).to_dict()
    assert {name: answer[name] for name in expected} == expected


@pytest.mark.parametrize(("colour", "genre"), [("white", "Comedy"), ("blue", "Drama"), ("black", "Horror")])
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF"])
async def test_every_accepted_format_is_read_whatever_its_name(client, make_poster, colour, genre, kind):
    answer = await client.post("/predict", files={"file": ("evil\n../name.txt", make_poster(colour, kind=kind))})

    assert answer.json()["topk"][0]["label"] == genre


async def test_a_picture_with_much_metadata_is_answered_like_one_without(client):
    text = PngInfo()
    text.add_itxt("XML:com.adobe.xmp", "layer " * 400_000, zip=True)
    plain, layered = io.BytesIO(), io.BytesIO()
    Image.new("RGB", (60, 90), "blue").save(plain, "PNG")
    Image.new("RGB", (60, 90), "blue").save(layered, "PNG", pnginfo=text)
    answers = [
        (await client.post("/predict?topk=3", files={"file": file.getvalue()})).json() for file in (plain, layered)
    ]

    assert answers[0]["topk"] == answers[1]["topk"]


async def test_the_threshold_decides_and_comes_back(client, make_poster):
    files = {"file": make_poster("purple")}
    everything = (await client.post("/predict?threshold=0", files=files)).json()
    nothing = (await client.post("/predict?threshold=1", files=files)).json()

    assert (len(everything["predicted"]), everything["threshold"]) == (4, 0.0)
    assert (nothing["predicted"], nothing["threshold"]) == ([], 1.0)


async def test_topk_lists_the_most_probable_first(client, make_poster):
    files = {"file": make_poster("navy")}
    default = (await client.post("/predict", files=files)).json()["topk"]
    two = (await client.post("/predict?topk=2", files=files)).json()["topk"]

    assert len(default) == 4  # all that the tiny model has: fewer than the usual five
    assert two == default[:2]
    assert default == sorted(default, key=lambda score: -score["probability"])


async def test_each_answer_has_its_own_id(client, make_poster):
    files = {"file": make_poster()}
    ids = {(await client.post("/predict", files=files)).json()["prediction_id"] for _ in range(3)}

    assert len(ids) == 3


async def test_the_last_of_several_files_is_answered_and_other_fields_are_ignored(client, make_poster):
    parts = [("file", make_poster("red")), ("file", make_poster("blue"))]
    answer = await client.post("/predict", files=parts, data={"title": "Alien"})

    assert answer.json()["topk"][0]["label"] == "Drama"
