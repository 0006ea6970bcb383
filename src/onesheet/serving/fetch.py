"""Fetch a poster from an address that a client names, protected against server-side request forgery (SSRF).

Only https; only addresses that are public on the whole Internet, for every address that the name resolves to; the
connection goes to the very address that was checked, so that a name which resolves differently a moment later (DNS
rebinding) gains nothing. Every redirect is checked in the same way. Nothing is kept between fetches: no cookies, no
credentials, no connections.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Final, TypeAlias

import httpx

from onesheet.errors import ImageTooLargeError, UrlFetchError, UrlNotAllowedError
from onesheet.serving.public_addresses import IpAddress, is_public

Resolver: TypeAlias = Callable[[str, int], Awaitable[Sequence[IpAddress]]]

_HTTPS_PORT: Final = 443
_MAX_PORT: Final = 65535
_MAX_URL: Final = 8 * 1024
# Their own, for a slow name server must not hold up what else runs on the default threads.
_RESOLVER_THREADS: Final = 8
# A packed body could unpack to any size.
_HEADERS: Final = {"User-Agent": "onesheet", "Accept": "image/*", "Accept-Encoding": "identity"}


@dataclass(frozen=True, slots=True)
class FetchLimits:
    """Limits of one fetch.

    Attributes:
        max_bytes: Largest picture.
        seconds: For everything, redirects included.
        max_redirects: How many are followed.
    """

    max_bytes: int
    seconds: float = 5.0
    max_redirects: int = 3


class ImageFetcher:
    """Fetches pictures by https from public addresses.

    Args:
        limits: Size, time, redirects.
        resolve: Name and port to addresses; default: the system's resolver.
        is_allowed: Whether an address may be connected to; default: `is_public`.
        ssl_context: Trusted certificates; default: the usual ones.
    """

    def __init__(
        self,
        limits: FetchLimits,
        *,
        resolve: Resolver | None = None,
        is_allowed: Callable[[IpAddress], bool] | None = None,
        ssl_context: ssl.SSLContext | None = None,
    ) -> None:
        self._limits = limits
        self._resolve = resolve or self._ask_system
        self._is_allowed = is_allowed or is_public
        self._resolver = ThreadPoolExecutor(_RESOLVER_THREADS, thread_name_prefix="resolver")
        # Not a client of httpx: it keeps cookies. A kept connection would be used again for other names at an address.
        self._transport = httpx.AsyncHTTPTransport(
            verify=ssl_context or ssl.create_default_context(),
            limits=httpx.Limits(max_keepalive_connections=0),
            trust_env=False,
        )

    async def fetch(self, url: str, hold: Callable[[int], None] = lambda _: None) -> bytes:
        """The bytes behind an address.

        Args:
            url: As a client has named it; any string.
            hold: Called with the size of each piece before it is kept; what it raises ends the fetch.

        Raises:
            UrlNotAllowedError: It is none that is fetched.
            UrlFetchError: It does not answer as it should.
            ImageTooLargeError: There is more than is allowed.
        """
        try:
            async with asyncio.timeout(self._limits.seconds):
                target = _parsed(url)
                for _ in range(self._limits.max_redirects + 1):
                    response = await self._ask(target)
                    try:
                        if not response.has_redirect_location:
                            return await self._read(response, hold)
                        target = _parsed(response.headers["Location"], base=target)
                    finally:
                        await response.aclose()
        except (TimeoutError, httpx.TimeoutException) as error:
            raise UrlFetchError(f"the address did not answer within {self._limits.seconds:g} seconds") from error
        except (httpx.HTTPError, OSError) as error:
            raise UrlFetchError("the address cannot be reached") from error
        raise UrlFetchError(f"more than {self._limits.max_redirects} redirects")

    async def close(self) -> None:
        """Close all connections."""
        self._resolver.shutdown(wait=False, cancel_futures=True)
        await self._transport.aclose()

    async def _ask(self, url: httpx.URL) -> httpx.Response:
        """Ask the address that was checked; the certificate is still checked for the name."""
        # As bytes it is ASCII, whatever the letters of the name.
        host, port = url.raw_host.decode("ascii"), url.port or _HTTPS_PORT
        addresses = await self._resolve(host, port)
        if not addresses or not all(self._is_allowed(address) for address in addresses):
            raise UrlNotAllowedError("the address is not public")
        timeout = httpx.Timeout(self._limits.seconds).as_dict()
        request = httpx.Request(
            "GET",
            url.copy_with(host=str(addresses[0])),
            headers={**_HEADERS, "Host": url.netloc.decode("ascii")},
            extensions={"timeout": timeout, "sni_hostname": host},
        )
        try:
            return await self._transport.handle_async_request(request)
        except ValueError as error:  # a name that no certificate can hold, such as one that begins with a dot
            raise UrlNotAllowedError("this is no https address") from error

    async def _read(self, response: httpx.Response, hold: Callable[[int], None]) -> bytes:
        if response.status_code != httpx.codes.OK:
            raise UrlFetchError(f"the address answers with status {response.status_code}")
        body = bytearray()
        async for chunk in response.aiter_raw():
            if len(body) + len(chunk) > self._limits.max_bytes:
                raise ImageTooLargeError(f"the picture is larger than {self._limits.max_bytes} bytes")
            hold(len(chunk))
            body += chunk
        return bytes(body)

    async def _ask_system(self, host: str, port: int) -> Sequence[IpAddress]:
        def ask() -> list[IpAddress]:
            found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
            # A link-local address may carry its interface.
            return [ip_address(str(entry[4][0]).partition("%")[0]) for entry in found]

        try:
            return await asyncio.get_running_loop().run_in_executor(self._resolver, ask)
        except (OSError, ValueError) as error:
            raise UrlFetchError("the address names no known host") from error


def _parsed(url: str, base: httpx.URL | None = None) -> httpx.URL:
    """An https address with a host.

    Raises:
        UrlNotAllowedError: It is none, or one with credentials.
    """
    try:
        parsed = base.join(url) if base else httpx.URL(url[: _MAX_URL + 1])
    except (httpx.InvalidURL, ValueError) as error:  # a lone surrogate, a port that is no number ...
        raise UrlNotAllowedError("this is no https address") from error
    if parsed.scheme != "https" or not parsed.raw_host or len(url) > _MAX_URL:
        raise UrlNotAllowedError("only https addresses are fetched")
    if not 0 < (parsed.port or _HTTPS_PORT) <= _MAX_PORT:
        raise UrlNotAllowedError("the port of an address is at most 65535")
    if parsed.userinfo:
        raise UrlNotAllowedError("addresses with a user name are not fetched")
    return parsed
