"""Bad input: each kind has its own status and type, in one shape, and never a 5xx."""

from __future__ import annotations

import io
import struct
import zlib

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from PIL import Image

from onesheet.serving import create_app

pytestmark = pytest.mark.anyio


def png_that_claims(width: int, height: int) -> bytes:
    """A PNG of a few bytes whose header promises far more."""

    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    pixels = zlib.compress(b"\0" * 1000)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


def noisy_jpeg() -> bytes:
    encoded = io.BytesIO()
    Image.effect_noise((200, 300), 80).convert("RGB").save(encoded, "JPEG")
    return encoded.getvalue()


def assert_problem(answer, status: int, code: str, detail: str = "") -> None:
    assert answer.headers["content-type"] == "application/problem+json"
    body = answer.json()
    assert (answer.status_code, body["type"]) == (status, f"/problems/{code}")
    assert list(body) == ["type", "title", "status", "detail", "instance"]
    assert body["status"] == status
    assert body["title"]
    assert detail in body["detail"]
    assert body["instance"] == answer.request.url.raw_path.decode().partition("?")[0]


BAD_FILES = {
    "empty": (b"", 400, "empty_image"),
    "text named .jpg": (b"Id,Genre\ntt0086250,Crime\n" * 20, 400, "not_an_image"),
    "truncated JPEG": (noisy_jpeg()[:3000], 400, "corrupt_image"),
    "truncated PNG": (png_that_claims(600, 900), 400, "corrupt_image"),
    "HEIC": (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + b"\0" * 100, 415, "unsupported_format"),
    "TIFF": (b"II*\0" + b"\0" * 100, 415, "unsupported_format"),
    "decompression bomb": (png_that_claims(60_000, 60_000), 413, "image_too_large"),
    "too many pixels": (png_that_claims(6_000, 6_000), 413, "image_too_large"),
}


@pytest.mark.parametrize(("data", "status", "code"), BAD_FILES.values(), ids=BAD_FILES)
async def test_bad_file(client, data, status, code):
    assert_problem(await client.post("/predict", files={"file": ("poster.jpg", data)}), status, code)


@pytest.mark.parametrize("size", [(1, 1), (1000, 50)])
async def test_not_the_shape_of_a_poster(client, make_poster, size):
    answer = await client.post("/predict", files={"file": make_poster(size=size, kind="PNG")})

    assert_problem(answer, 422, "not_poster_shaped", detail=f"{size[0]}x{size[1]}")


BAD_OPTIONS = [
    ("threshold=1.01", "threshold"),
    ("threshold=-0.01", "threshold"),
    ("threshold=nan", "threshold"),
    ("threshold=inf", "threshold"),
    ("threshold=high", "threshold"),
    ("threshold=", "threshold"),
    ("topk=0", "topk"),
    ("topk=-1", "topk"),
    ("topk=5", "between 1 and 4"),
    ("topk=2.5", "topk"),
    (f"topk={'9' * 4000}", "between 1 and 4"),
    (f"topk={'9' * 9000}", "topk"),
]


@pytest.mark.parametrize(("query", "detail"), BAD_OPTIONS, ids=[query[:20] for query, _ in BAD_OPTIONS])
async def test_bad_option(client, make_poster, query, detail):
    answer = await client.post(f"/predict?{query}", files={"file": make_poster()})

    assert_problem(answer, 422, "invalid_request", detail)
    assert len(answer.content) < 500


async def test_all_bad_options_are_named_at_once(client, make_poster):
    answer = await client.post("/predict?threshold=2&topk=0", files={"file": make_poster()})

    assert_problem(answer, 422, "invalid_request", "; topk: ")


@pytest.mark.parametrize(
    ("arguments"),
    [
        {"files": {"picture": b"data"}},
        {"files": {"x": (None, "1")}},
        {"files": {"file": (None, "no file name")}},
    ],
    ids=["another field", "a text field", "file as text"],
)
async def test_multipart_without_a_file(client, arguments):
    answer = await client.post("/predict", **arguments)

    assert_problem(answer, 422, "invalid_request", "file: ")
    assert "class" not in answer.json()["detail"]


@pytest.mark.parametrize(
    "arguments",
    [
        {"json": {"image_url": "https://example.org/poster.jpg"}},
        {"content": b"\xff\xd8\xff", "headers": {"content-type": "image/jpeg"}},
        {"data": {"file": "poster"}},
        {},
        {"headers": {"content-type": "multipart/mixed; boundary=x"}},
    ],
    ids=["JSON", "raw picture", "urlencoded", "nothing", "another multipart"],
)
async def test_bodies_that_are_no_form_data(client, arguments):
    assert_problem(await client.post("/predict", **arguments), 415, "unsupported_media_type", "multipart")


@pytest.mark.parametrize(
    ("content_type", "body"),
    [
        ("multipart/form-data", b"--x\r\n"),
        ("multipart/form-data; boundary=x", b"this is no part"),
        ("multipart/form-data; boundary=x", b"--x\r\nContent-Disposition: form-data\r\n\r\n1\r\n--x--\r\n"),
        (
            "multipart/form-data; boundary=x; charset=undefined",
            b'--x\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n1\r\n--x--\r\n',
        ),
        (
            "multipart/form-data; boundary=x",
            b'--x\r\nContent-Disposition: form-data; name="a"\r\n\r\n1\r\n' * 1002 + b"--x--\r\n",
        ),
    ],
    ids=["no boundary", "no part", "no name", "impossible charset", "a thousand fields"],
)
async def test_malformed_multipart(client, content_type, body):
    answer = await client.post("/predict", content=body, headers={"content-type": content_type})

    assert_problem(answer, 400, "malformed_body")


# Starlette leaves the temporary file of the unfinished part to the garbage collector.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
async def test_multipart_that_stops_before_its_end(client):
    body = b'--x\r\nContent-Disposition: form-data; name="file"; filename="a.jpg"\r\n\r\n\xff\xd8\xff'
    headers = {"content-type": "multipart/form-data; boundary=x"}

    assert 400 <= (await client.post("/predict", content=body, headers=headers)).status_code < 500


async def test_unknown_route_and_method(client):
    assert_problem(await client.get("/a%20b/%1B%5B31m"), 404, "route_not_found")
    wrong_method = await client.get("/predict")
    assert_problem(wrong_method, 405, "method_not_allowed")
    assert wrong_method.headers["allow"] == "POST"


async def test_any_other_http_error_is_a_problem_too(settings, predictor, connect):
    from fastapi import HTTPException

    app = create_app(settings, predictor)

    @app.get("/teapot")
    async def teapot() -> None:
        raise HTTPException(418)

    async with connect(app) as client:
        assert_problem(await client.get("/teapot"), 418, "http_418", "Teapot")


@given(
    junk=st.binary(max_size=300),
    head=st.sampled_from([b"\xff\xd8\xff\xe0", b"\x89PNG\r\n\x1a\n", b"GIF89a", b""]),
)
@hypothesis_settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
async def test_no_bytes_cause_a_server_error(client, junk, head):
    answer = await client.post("/predict", files={"file": head + junk})

    assert 400 <= answer.status_code < 500
    assert answer.headers["content-type"] == "application/problem+json"
