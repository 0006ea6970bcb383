"""The API below a sub-path, behind proxies that strip it and proxies that pass it on."""

from __future__ import annotations

import httpx
import pytest

from onesheet.errors import InvalidRequestError
from onesheet.serving import create_app
from onesheet.serving.guard import digest
from onesheet.settings import Settings

pytestmark = pytest.mark.anyio

PREFIX = "/films"
HEADERS = {"X-Forwarded-Prefix": PREFIX, "X-Forwarded-Proto": "https", "X-Forwarded-For": "203.0.113.9"}


class Proxy(httpx.AsyncBaseTransport):
    """What the public asks for below /films, as a proxy asks the API for it."""

    def __init__(self, app, strips: bool) -> None:
        self._api = httpx.ASGITransport(app=app, client=("10.0.0.1", 1234))
        self._strips = strips

    async def handle_async_request(self, request):
        path = request.url.raw_path.removeprefix(PREFIX.encode()) if self._strips else request.url.raw_path
        headers = [*request.headers.raw, *((name.encode(), value.encode()) for name, value in HEADERS.items())]
        url = request.url.copy_with(raw_path=path)
        asked = httpx.Request(request.method, url, headers=headers, content=await request.aread())
        return await self._api.handle_async_request(asked)


@pytest.fixture(params=["strips", "passes on"])
def strips(request) -> bool:
    return request.param == "strips"


@pytest.fixture(params=[{"root_path": "films/"}, {"trusted_proxies": "10.0.0.0/8"}], ids=["setting", "header"])
async def public(request, settings, predictor, strips):
    """`await public.get("/films/...")`, as a browser that knows nothing of the proxy."""
    told = {**settings.model_dump(exclude_unset=True), **request.param, "api_keys": digest("key")}
    app = create_app(Settings(_env_file=None, **told), predictor)
    headers = {"X-API-Key": "key"}
    async with httpx.AsyncClient(
        transport=Proxy(app, strips), base_url="https://films.example", headers=headers
    ) as client:
        yield client


async def test_the_documentation_leads_to_what_is_there(public):
    page = (await public.get("/films/docs")).text
    assert "'/films/openapi.json'" in page
    document = (await public.get("/films/openapi.json")).json()
    assert document["servers"] == [{"url": PREFIX}]
    assert "/predict" in document["paths"]
    assert "/films/openapi.json" in (await public.get("/films/redoc")).text


@pytest.mark.parametrize("path", ["/films/predict/?topk=2", "/films/livez/"])
async def test_a_redirect_stays_below_it(public, path):
    answer = await public.request("POST" if "predict" in path else "GET", path)
    assert (answer.status_code, answer.headers["location"]) == (307, path.replace("/?", "?").rstrip("/"))


async def test_problems_name_the_path_that_was_asked_for(public):
    answer = await public.get("/films/nowhere")
    assert (answer.status_code, answer.json()["instance"]) == (404, "/films/nowhere")


async def test_a_poster_is_answered(public, make_poster):
    answer = await public.post("/films/predict", files={"file": make_poster("blue")})
    assert answer.json()["topk"][0]["label"] == "Drama"


@pytest.mark.parametrize("path", ["/livez", "/readyz", "/health", "/metrics"])
async def test_probes_need_no_key(public, path):
    assert (await public.get(PREFIX + path, headers={"X-API-Key": "wrong"})).status_code == 200
    assert (await public.get(f"{PREFIX}/model", headers={"X-API-Key": "wrong"})).status_code == 401


async def test_metrics_count_the_route(public):
    await public.get("/films/model")
    assert 'route="/model"' in (await public.get("/films/metrics")).text


async def test_who_asks_directly_needs_no_sub_path(public, settings, predictor, connect):
    async with connect(create_app(settings.model_copy(update={"root_path": PREFIX}), predictor)) as client:
        assert (await client.get("/livez")).status_code == 200
        assert (await client.get("/filmsandmore")).status_code == 404


@pytest.mark.parametrize("prefix", ["//evil.example", "/a b", '/"><script>', "films", "/" + "x" * 1000])
async def test_a_prefix_that_is_none_is_ignored(settings, predictor, connect, prefix):
    app = create_app(settings.model_copy(update={"trusted_proxies": "*"}), predictor)
    async with connect(app) as client:
        page = (await client.get("/docs", headers={"X-Forwarded-Prefix": prefix})).text
    assert "'/openapi.json'" in page


async def test_a_stranger_cannot_choose_it(client):
    assert "'/openapi.json'" in (await client.get("/docs", headers=HEADERS)).text


@pytest.mark.parametrize("value", ["/films", "films", "films/", "/films/"])
def test_the_setting_is_read_with_and_without_slashes(value):
    assert Settings(_env_file=None, root_path=value, ui_base_path=value).root_path == "/films"


@pytest.mark.parametrize("value", ["https://films.example", "/a b", "/a?b", "/a//b", "/<a>"])
def test_a_setting_that_is_no_path_is_refused(value):
    with pytest.raises(InvalidRequestError, match="ONESHEET_ROOT_PATH must be a path such as /films, got "):
        _ = Settings(_env_file=None, root_path=value).root_path
