"""Who may ask, how often, from which pages; and what operators alone may do."""

from __future__ import annotations

import pytest
from pydantic import SecretStr

from onesheet.serving import create_app
from onesheet.serving.guard import RateLimiter, digest

pytestmark = pytest.mark.anyio

KEYS = ("first-key", "second-key")


@pytest.fixture
def with_settings(settings, predictor, connect):
    """`async with with_settings(rate_limit=1) as client`."""
    return lambda **changes: connect(create_app(settings.model_copy(update=changes), predictor))


async def test_without_keys_everybody_may_ask(client):
    assert (await client.get("/model")).status_code == 200


@pytest.mark.parametrize(
    "headers", [{}, {"X-API-Key": "wrong"}, {"X-API-Key": digest(KEYS[0])}, {"Authorization": "Basic first-key"}]
)
async def test_without_a_known_key_nobody_may(with_settings, make_poster, headers):
    async with with_settings(api_keys=",".join(map(digest, KEYS))) as client:
        for answer in (
            await client.get("/model", headers=headers),
            await client.post("/predict", files={"file": make_poster()}, headers=headers),
        ):
            assert (answer.status_code, answer.json()["type"]) == (401, "/problems/unauthorized")
            assert answer.headers["www-authenticate"] == "Bearer"
            assert answer.headers["x-request-id"]


@pytest.mark.parametrize(
    "headers",
    [
        {"X-API-Key": KEYS[0]},
        {"Authorization": f"bearer {KEYS[1]}"},
        {"X-API-Key": KEYS[0], "Authorization": "Bearer for-somebody-else"},
    ],
)
async def test_a_known_key_opens(with_settings, headers):
    async with with_settings(api_keys=",".join(map(digest, KEYS))) as client:
        assert (await client.get("/model", headers=headers)).status_code == 200


async def test_probes_need_no_key_and_have_no_limit(with_settings):
    async with with_settings(api_keys=digest(KEYS[0]), rate_limit=1) as client:
        for path in ("/livez", "/readyz", "/health", "/metrics") * 3:
            assert (await client.get(path)).status_code == 200


async def test_a_client_that_asks_too_often_is_told_when_to_come_again(with_settings, make_poster):
    async with with_settings(rate_limit=3) as client:
        answers = [await client.post("/predict", files={"file": make_poster()}) for _ in range(4)]
    assert [answer.status_code for answer in answers] == [200, 200, 200, 429]
    assert answers[3].json()["type"] == "/problems/rate_limited"
    assert 1 <= int(answers[3].headers["retry-after"]) <= 21


async def test_a_load_balancer_that_is_trusted_names_the_client(with_settings):
    def asked_by(client, address):
        return client.get("/model", headers={"X-Forwarded-For": address})

    async with with_settings(rate_limit=1) as client:  # ASGITransport says that it is 127.0.0.1
        assert [(await asked_by(client, address)).status_code for address in ("8.8.8.8", "8.8.4.4")] == [200, 429]
    async with with_settings(rate_limit=1, trusted_proxies="10.0.0.0/8, 127.0.0.1") as client:
        found = [(await asked_by(client, address)).status_code for address in ("8.8.8.8", "8.8.4.4", "8.8.8.8")]
        assert found == [200, 200, 429]
        # What a client says of itself stands before what the balancers say.
        assert (await asked_by(client, "1.1.1.1, 8.8.8.8, 10.0.0.7")).status_code == 429


async def test_each_key_has_a_limit_of_its_own(with_settings):
    async with with_settings(api_keys=",".join(map(digest, KEYS)), rate_limit=1) as client:
        statuses = [
            (await client.get("/model", headers={"X-API-Key": key})).status_code for key in (*KEYS, KEYS[0], KEYS[1])
        ]
    assert statuses == [200, 200, 429, 429]


def test_the_bucket_fills_up_again():
    now = [0.0]
    limiter = RateLimiter(60, clock=lambda: now[0])
    assert all(limiter.wait("a") == 0 for _ in range(60))
    assert limiter.wait("a") == pytest.approx(1)
    assert limiter.wait("b") == 0
    now[0] = 2.5
    assert [limiter.wait("a") == 0 for _ in range(3)] == [True, True, False]


def test_only_so_many_clients_are_remembered(monkeypatch):
    monkeypatch.setattr("onesheet.serving.guard._REMEMBERED", 2)
    limiter = RateLimiter(1)
    for client in "abc":
        limiter.wait(client)
    assert limiter.wait("c") > 0
    assert limiter.wait("a") == 0  # forgotten


async def test_no_page_of_another_origin_may_read_answers_unless_it_is_named(with_settings):
    there = {"Origin": "https://films.example", "Access-Control-Request-Method": "POST"}
    async with with_settings() as client:
        assert "access-control-allow-origin" not in (await client.get("/model", headers=there)).headers
    async with with_settings(cors_origins="https://films.example, https://b.example", api_keys=digest("x")) as client:
        preflight = await client.options("/predict", headers=there)
        assert preflight.headers["access-control-allow-origin"] == "https://films.example"
        other = await client.options("/predict", headers={**there, "Origin": "https://evil.example"})
        assert "access-control-allow-origin" not in other.headers
        refused = await client.get("/model", headers=there)
        assert refused.status_code == 401
        assert refused.headers["access-control-allow-origin"] == "https://films.example"


@pytest.mark.parametrize(
    ("path", "kept"), [("/livez", "no-store"), ("/nowhere", "no-store"), ("/model", "private, no-cache")]
)
async def test_answers_carry_the_headers_that_browsers_heed(client, path, kept):
    headers = (await client.get(path)).headers
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["x-frame-options"] == "DENY"
    assert headers["cache-control"] == kept


# ------------------------------------------------------------------------------------------------------ operators


async def test_without_an_admin_token_nobody_changes_the_model(with_settings):
    async with with_settings() as client:
        answer = await client.post("/admin/model", json={"bundle": "x"}, headers={"Authorization": "Bearer "})
    assert (answer.status_code, answer.json()["type"]) == (403, "/problems/admin_closed")


@pytest.mark.parametrize("headers", [{}, {"Authorization": "Bearer wrong"}, {"Authorization": "Basic secret"}])
async def test_another_token_does_not_open(with_settings, headers):
    async with with_settings(admin_token=SecretStr("secret")) as client:
        answer = await client.post("/admin/model", json={"bundle": "x"}, headers=headers)
    assert (answer.status_code, answer.json()["type"]) == (401, "/problems/unauthorized")


async def test_an_operator_needs_no_key_beside_the_token(with_settings, next_bundle):
    async with with_settings(admin_token=SecretStr("secret"), api_keys=digest(KEYS[0])) as client:
        body = {"bundle": str(next_bundle)}
        with_key = await client.post("/admin/model", json=body, headers={"Authorization": f"Bearer {KEYS[0]}"})
        with_token = await client.post("/admin/model", json=body, headers={"Authorization": "Bearer secret"})
    assert (with_key.status_code, with_token.status_code) == (401, 200)


async def test_operators_may_have_a_port_of_their_own(settings, predictor):
    import httpx

    app = create_app(settings.model_copy(update={"admin_port": 9000}), predictor)
    transport = httpx.ASGITransport(app=app)
    async with httpx.AsyncClient(transport=transport, base_url="http://onesheet.test:8000") as client:
        assert (await client.get("/metrics")).status_code == 404
        assert (await client.post("/admin/model", json={"bundle": "x"})).status_code == 404
        assert (await client.get("http://onesheet.test:9000/metrics")).status_code == 200
