"""Posters by address: from public https addresses, within limits, and from nowhere else."""

from __future__ import annotations

import ipaddress
import json
import ssl
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import trustme

from onesheet.errors import ImageTooLargeError, UrlFetchError, UrlNotAllowedError
from onesheet.serving import create_app
from onesheet.serving.fetch import FetchLimits, ImageFetcher, is_public
from tests.processes import serve_in_thread

pytestmark = pytest.mark.anyio

LOOPBACK = ipaddress.ip_address("127.0.0.1")


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1",
        "10.0.0.1",
        "172.16.0.1",
        "192.168.1.1",
        "169.254.169.254",  # where clouds tell their secrets
        "100.64.0.1",
        "0.0.0.0",  # noqa: S104
        "224.0.0.1",
        "255.255.255.255",
        "192.0.0.170",
        "198.18.0.1",
        "240.0.0.1",
        "::",
        "::1",
        "::ffff:127.0.0.1",
        "::ffff:169.254.169.254",
        "64:ff9b::7f00:1",
        "64:ff9b:1::a9fe:a9fe",
        "2002:7f00:1::",
        "2001:0:4136:e378:8000:63bf:3fff:fdd2",
        "fe80::1",
        "fd00::1",
        "fd00:ec2::254",
        "fec0::1",
        "ff02::1",
    ],
)
def test_addresses_that_are_not_public(address):
    assert not is_public(ipaddress.ip_address(address))


@pytest.mark.parametrize(
    "address", ["8.8.8.8", "151.101.1.69", "2606:4700::1111", "::ffff:8.8.8.8", "64:ff9b::8.8.8.8"]
)
def test_addresses_that_are(address):
    assert is_public(ipaddress.ip_address(address))


@pytest.mark.parametrize(
    "url",
    [
        "http://example.com/a.jpg",
        "ftp://example.com/a.jpg",
        "file:///etc/passwd",
        "data:image/png;base64,AAAA",
        "gopher://127.0.0.1/",
        "nonsense",
        "",
        "https://",
        "https://user:password@example.com/",
        "https://\x00/",
        "https://127.0.0.1/",
        "https://localhost/",
        "https://[::1]/",
        "https://[::ffff:127.0.0.1]/",
        "https://2130706433/",
        "https://0x7f.1/",
        "https://0177.0.0.1/",
        "https://127.1/",
        "https://169.254.169.254/computeMetadata/v1/",
        "https://localhost./",
    ],
)
async def test_addresses_that_are_never_asked(url):
    fetcher = ImageFetcher(FetchLimits(max_bytes=1000, seconds=5))
    # The last ones are no addresses to every system's resolver.
    with pytest.raises((UrlNotAllowedError, UrlFetchError)) as refused:
        await fetcher.fetch(url)
    await fetcher.close()
    assert isinstance(refused.value, UrlNotAllowedError) or "no known host" in refused.value.message


class Site(BaseHTTPRequestHandler):
    """A server of pictures, and of mischief."""

    poster = b""
    protocol_version = "HTTP/1.1"
    asked: list[str]

    def do_GET(self):
        self.server.asked.append(self.path)
        match self.path.split("/")[1:]:
            case ["poster.jpg"]:
                self.answer(200, self.poster)
            case ["redirect", location]:
                self.answer(302, b"", location.replace("|", "/"))
            case ["count", number]:
                self.answer(302, b"", f"/count/{int(number) + 1}")
            case ["large"]:
                self.answer(200, b"\0" * 200_000)
            case ["endless"]:
                self.send_response(200)
                self.end_headers()
                try:
                    while True:
                        self.wfile.write(b"\0")
                        time.sleep(0.05)
                except OSError:
                    self.close_connection = True
            case ["packed"]:
                self.answer(200, self.headers["Accept-Encoding"].encode())
            case ["broken"]:
                self.wfile.write(b"nonsense\r\n\r\n")
                self.close_connection = True
            case _:
                self.answer(404, b"")

    def answer(self, status, body, location=None):
        self.send_response(status)
        if location:
            self.send_header("Location", location)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args):
        pass


@pytest.fixture
def site(make_poster):
    """A real https server on this machine; its certificate says films.example."""
    authority = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("films.example").configure_cert(context)
    Site.poster = make_poster("blue")
    server = ThreadingHTTPServer(("127.0.0.1", 0), Site)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    with serve_in_thread(server):
        server.asked = []
        server.authority = authority
        server.base = f"https://films.example:{server.server_port}"
        yield server


@pytest.fixture
async def fetch(site):
    """`await fetch(url)`, with this machine allowed for once and every name leading to it."""
    trusted = ssl.create_default_context()
    site.authority.configure_trust(trusted)

    async def resolve(host, port):
        return [ipaddress.ip_address("10.0.0.1") if host == "private.example" else LOOPBACK]

    fetcher = ImageFetcher(
        FetchLimits(max_bytes=100_000, seconds=1),
        resolve=resolve,
        is_allowed=lambda address: address == LOOPBACK,
        ssl_context=trusted,
    )
    yield fetcher.fetch
    await fetcher.close()


async def test_a_poster_is_fetched(site, fetch):
    assert await fetch(f"{site.base}/poster.jpg") == Site.poster


async def test_a_redirect_is_followed(site, fetch):
    assert await fetch(f"{site.base}/redirect/poster.jpg".replace("/poster", "/|poster")) == Site.poster


async def test_no_packed_answer_is_asked_for(site, fetch):
    assert await fetch(f"{site.base}/packed") == b"identity"


@pytest.mark.parametrize(
    ("path", "error", "reason"),
    [
        ("redirect/http:||films.example|", UrlNotAllowedError, "only https"),
        ("redirect/https:||private.example|", UrlNotAllowedError, "not public"),
        ("redirect/file:||||etc|passwd", UrlNotAllowedError, "https"),
        ("count/0", UrlFetchError, "redirects"),
        ("large", ImageTooLargeError, "larger than 100000"),
        ("endless", UrlFetchError, "within 1 seconds"),
        ("missing", UrlFetchError, "404"),
        ("broken", UrlFetchError, "cannot be reached"),
    ],
)
async def test_mischief_ends_in_an_error_in_time(site, fetch, path, error, reason):
    with pytest.raises(error, match=reason):
        await fetch(f"{site.base}/{path}")
    assert len(site.asked) <= 4


async def test_a_certificate_for_another_name_is_not_accepted(site, fetch):
    with pytest.raises(UrlFetchError):
        await fetch(f"https://other.example:{site.server_port}/poster.jpg")
    assert site.asked == []


async def test_a_name_that_resolves_differently_a_moment_later_gains_nothing(site):
    """DNS rebinding: the first answer is public, each later one is this machine."""
    answers = iter([ipaddress.ip_address("203.0.113.7")])  # reserved for documentation, taken for public here
    trusted = ssl.create_default_context()
    site.authority.configure_trust(trusted)

    async def resolve(host, port):
        return [next(answers, LOOPBACK)]

    fetcher = ImageFetcher(
        FetchLimits(1000, seconds=0.5),
        resolve=resolve,
        is_allowed=lambda address: not address.is_loopback,
        ssl_context=trusted,
    )
    for reason in (UrlFetchError, UrlNotAllowedError):
        with pytest.raises(reason):
            await fetcher.fetch(f"{site.base}/poster.jpg")
    await fetcher.close()
    assert site.asked == []


async def test_a_name_with_one_private_address_among_public_ones_is_not_asked():
    async def resolve(host, port):
        return [ipaddress.ip_address("8.8.8.8"), LOOPBACK]

    fetcher = ImageFetcher(FetchLimits(1000), resolve=resolve)
    with pytest.raises(UrlNotAllowedError, match="not public"):
        await fetcher.fetch("https://films.example/")
    await fetcher.close()


# -------------------------------------------------------------------------------------------------- over the API


async def test_addresses_are_not_fetched_unless_allowed(client):
    answer = await client.post("/predict", json={"image_url": "https://films.example/poster.jpg"})
    assert (answer.status_code, answer.json()["type"]) == (415, "/problems/unsupported_media_type")
    assert "fetches no addresses" in answer.json()["detail"]


@pytest.fixture
async def fetching(settings, predictor, connect):
    """An API that fetches."""
    app = create_app(settings.model_copy(update={"allow_image_url": True}), predictor)
    async with app.router.lifespan_context(app), connect(app) as client:
        yield app, client


async def test_a_poster_by_address_is_answered(fetching, site, fetch):
    app, client = fetching
    app.state.fetcher.fetch = fetch
    answer = await client.post("/predict?topk=1", json={"image_url": f"{site.base}/poster.jpg"})
    assert answer.status_code == 200
    assert answer.json()["topk"][0]["label"] == "Drama"


@pytest.mark.parametrize("url", ["https://127.0.0.1/", "http://example.com/", "https://169.254.169.254/"])
async def test_where_allowed_private_places_stay_closed(fetching, url):
    answer = await fetching[1].post("/predict", json={"image_url": url})
    assert (answer.status_code, answer.json()["type"]) == (422, "/problems/url_not_allowed")


@pytest.mark.parametrize(
    ("body", "status"),
    [(b"{", 400), (b"\xff", 400), (b"[" * 5000, 400), (b"[]", 422), (b"{}", 422), (b'{"image_url": 1}', 422)],
)
async def test_json_that_names_no_address(fetching, body, status):
    answer = await fetching[1].post("/predict", content=body, headers={"content-type": "application/json"})
    assert answer.status_code == status
    assert json.loads(answer.content)["type"].startswith("/problems/")
