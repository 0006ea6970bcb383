"""Posters by address: from public https addresses, within limits, and from nowhere else."""

from __future__ import annotations

import asyncio
import ipaddress
import json
import socket
import ssl
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING

import hypothesis
import pytest
import trustme
from hypothesis import HealthCheck, example, given
from hypothesis import strategies as st

from onesheet.errors import ImageTooLargeError, ShareExceededError, UrlFetchError, UrlNotAllowedError
from onesheet.serving import create_app
from onesheet.serving.fetch import FetchLimits, ImageFetcher
from onesheet.serving.public_addresses import is_public
from tests.processes import serve_in_thread

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.anyio

CONTEXT = ssl.create_default_context()
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
        "ff0e::1",  # multicast, and yet global
        "192.88.99.1",
        # IPv4 inside IPv6; IPv4-compatible and SIIT's addresses are nobody's, whatever they carry.
        "::127.0.0.1",
        "::8.8.8.8",
        "::ffff:0:127.0.0.1",
        "::ffff:0:8.8.8.8",
        "::ffff:10.0.0.1",
        "64:ff9b:1::808:808",  # NAT64 of a network of its own
        "2002:a9fe:a9fe::1",
        "2001:0:808:808::1",  # Teredo
        "2606:4700::5efe:7f00:1",  # ISATAP
        "2606:4700::200:5efe:a9fe:a9fe",
        "2606:4700:0:0:300:5efe:10.0.0.1",
        "fe80::5efe:808:808",
        "2001:db8::5efe:808:808",
        "2001:db8::1",
        "3fff::1",
        "5f00::1",
        "100::1",
        "2001:2::1",
        "2001:20::1",
        "4000::1",
    ],
)
def test_addresses_that_are_not_public(address):
    assert not is_public(ipaddress.ip_address(address))


@pytest.mark.parametrize(
    "address",
    [
        *("8.8.8.8", "151.101.1.69", "2606:4700::1111", "2001:4860:4860::8888", "2a00:1450::1"),
        *("::ffff:8.8.8.8", "64:ff9b::8.8.8.8", "2002:808:808::1", "2606:4700::200:5efe:808:808"),
    ],
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
            case ["cookie", *_]:
                self.server.cookies.append(self.headers["Cookie"])
                self.answer(302 if self.path == "/cookie/redirect" else 200, self.poster, "/cookie")
            case ["elsewhere"]:
                self.answer(302, b"", self.server.location)
            case ["broken"]:
                self.wfile.write(b"nonsense\r\n\r\n")
                self.close_connection = True
            case _:
                self.answer(404, b"")

    def answer(self, status, body, location=None):
        self.send_response(status)
        if location:
            self.send_header("Location", location)
        self.send_header("Set-Cookie", "session=secret; Path=/; Domain=films.example")
        self.send_header("Set-Cookie", "other=secret")
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
        server.asked, server.cookies = [], []
        server.daemon_threads = True
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


async def test_nothing_is_kept_for_the_next_fetch(site, fetch, monkeypatch, tmp_path):
    (tmp_path / ".netrc").write_text("machine films.example login user password secret\n")
    monkeypatch.setenv("NETRC", str(tmp_path / ".netrc"))
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:9")
    for path in ("cookie", "cookie/redirect", "cookie"):
        assert await fetch(f"{site.base}/{path}") == Site.poster
    assert site.cookies == [None] * 4
    with pytest.raises(UrlNotAllowedError):  # a cookie store would look at this one
        await fetch("https:///poster.jpg")


async def test_a_name_in_other_letters_is_asked_for_in_ascii(site):
    names = []

    async def resolve(host, port):
        names.append(host)
        return [LOOPBACK]

    fetcher = ImageFetcher(FetchLimits(1000), resolve=resolve)
    for url in ("https://fa\u00df.example/", "https://xn--fa-hia.example/", "https://[::ffff:808:808]/"):
        with pytest.raises(UrlNotAllowedError, match="not public"):
            await fetcher.fetch(url)
    await fetcher.close()
    assert names == ["xn--fa-hia.example", "xn--fa-hia.example", "::ffff:808:808"]


async def test_what_is_fetched_counts_as_it_comes(site, fetch):
    held = []

    def hold(size):
        held.append(size)
        raise ShareExceededError

    with pytest.raises(ShareExceededError):
        await fetch(f"{site.base}/large", hold)
    assert len(held) == 1


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


PARTS = st.sampled_from(
    [
        *("https://", "https:", "http://", "//", "/", "\\\\", "@", ":", ":443", ":0", ":99999", ":-1", ":\u0663"),
        *("[", "]", "[::1]", "[::1%25eth0]", "[v1.a]", "127.0.0.1", "0x7f.1", "a.example", "user:pass", "localhost"),
        *("%00", "%", "%zz", "?", "#", "*", "$", ".", "..", "\x00", "\r\n", "\t", " ", "Host: x", "a" * 64, "a." * 200),
        *("xn--", "xn--a", "\u00df", "\u200d", "\u3002", "\uff0e", "\udcff", "\ud800", "\U0001f3ac", "\u202e"),
    ]
)
STRINGS = st.one_of(
    st.text(st.characters()),
    st.lists(PARTS, max_size=8).map("".join),
    st.lists(PARTS, max_size=6).map(lambda parts: "https://" + "".join(parts)),
    st.text(st.characters()).map(lambda text: f"https://{text}"),
)


@pytest.fixture(scope="module")
def no_network() -> Iterator[None]:
    """The system's resolver takes numbers only."""
    with pytest.MonkeyPatch.context() as patched:
        ask = socket.getaddrinfo
        patched.setattr(socket, "getaddrinfo", lambda *a, **options: ask(*a, **options, flags=socket.AI_NUMERICHOST))
        yield


@hypothesis.settings(max_examples=400, deadline=None, suppress_health_check=list(HealthCheck))
@given(url=STRINGS)
@example("https://\ud800/")
@example("https:///")
@example("https://a.example:99999/")
@example("https://" + "a." * 10_000)
def test_every_string_is_fetched_or_refused(no_network, url):
    async def fetch() -> bytes:
        fetcher = ImageFetcher(FetchLimits(1000), is_allowed=lambda _: False, ssl_context=CONTEXT)
        try:
            return await fetcher.fetch(url)
        finally:
            await fetcher.close()

    with pytest.raises((UrlNotAllowedError, UrlFetchError)):
        asyncio.run(fetch())


@pytest.mark.parametrize(
    "host",
    [".example", "a" * 64, "..", "a..b", "-a", "_", "*", "xn--a", "xn--", "films.example.", "[::1]", "%61", "\u0663"],
)
async def test_hosts_that_no_certificate_can_name_are_refused(site, fetch, host):
    with pytest.raises((UrlNotAllowedError, UrlFetchError)):
        await fetch(f"https://{host}:{site.server_port}/poster.jpg")


@pytest.mark.parametrize(
    "location", ["https://", "https://[", "//\u00ff", "https://a:99999/", "https://.example/", "https:///a"]
)
async def test_redirects_that_lead_nowhere_are_refused(site, fetch, location):
    site.location = location
    with pytest.raises((UrlNotAllowedError, UrlFetchError)):
        await fetch(f"{site.base}/elsewhere")


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
