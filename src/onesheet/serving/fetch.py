"""Fetch a poster from an address that a stranger names, without becoming his errand boy (SSRF).

Only https; only addresses that are public on the whole Internet, for every address that the name resolves to; the
connection goes to the very address that was checked, so that a name which resolves differently a moment later (DNS
rebinding) gains nothing. Every redirect is checked in the same way.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
import ssl
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

import httpx

from onesheet.errors import ImageTooLargeError, UrlFetchError, UrlNotAllowedError

IpAddress: TypeAlias = ipaddress.IPv4Address | ipaddress.IPv6Address
Resolver: TypeAlias = Callable[[str, int], Awaitable[Sequence[IpAddress]]]

_HTTPS_PORT: Final = 443
# IPv6 addresses under these prefixes are IPv4 addresses in disguise (RFC 6052; the second is for local use).
_NAT64: Final = (ipaddress.IPv6Network("64:ff9b::/96"), ipaddress.IPv6Network("64:ff9b:1::/48"))


@dataclass(frozen=True, slots=True)
class FetchLimits:
    """How much patience a foreign server gets.

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
        self._client = httpx.AsyncClient(
            transport=_PinnedTransport(resolve or _resolve, is_allowed or is_public, ssl_context),
            # A packed body could unpack to any size.
            headers={"User-Agent": "onesheet", "Accept": "image/*", "Accept-Encoding": "identity"},
            follow_redirects=True,
            max_redirects=limits.max_redirects,
            timeout=limits.seconds,
            trust_env=False,
        )

    async def fetch(self, url: str) -> bytes:
        """The bytes behind an address.

        Raises:
            UrlNotAllowedError: It is no https address, or leads to a place that is not public.
            UrlFetchError: It does not answer as it should.
            ImageTooLargeError: There is more than is allowed.
        """
        try:
            async with asyncio.timeout(self._limits.seconds), self._client.stream("GET", url) as response:
                if response.status_code != httpx.codes.OK:
                    raise UrlFetchError(f"the address answers with status {response.status_code}")
                return await self._read(response)
        except httpx.TooManyRedirects as error:
            raise UrlFetchError(f"more than {self._limits.max_redirects} redirects") from error
        except (httpx.InvalidURL, httpx.UnsupportedProtocol) as error:
            raise UrlNotAllowedError("this is no https address") from error
        except (TimeoutError, httpx.TimeoutException) as error:
            raise UrlFetchError(f"the address did not answer within {self._limits.seconds:g} seconds") from error
        except httpx.HTTPError as error:
            raise UrlFetchError("the address cannot be reached") from error

    async def close(self) -> None:
        """Close all connections."""
        await self._client.aclose()

    async def _read(self, response: httpx.Response) -> bytes:
        body = bytearray()
        async for chunk in response.aiter_raw():
            body += chunk
            if len(body) > self._limits.max_bytes:
                raise ImageTooLargeError(f"the picture is larger than {self._limits.max_bytes} bytes")
        return bytes(body)


class _PinnedTransport(httpx.AsyncBaseTransport):
    """Resolves once, checks, and connects to the checked address; the certificate is still checked for the name."""

    def __init__(
        self, resolve: Resolver, is_allowed: Callable[[IpAddress], bool], ssl_context: ssl.SSLContext | None
    ) -> None:
        self._resolve = resolve
        self._is_allowed = is_allowed
        # A kept connection would be used again for other names at the same address.
        limits = httpx.Limits(max_keepalive_connections=0)
        self._inner = httpx.AsyncHTTPTransport(
            verify=ssl_context or ssl.create_default_context(), limits=limits, trust_env=False
        )

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Called for the first address and for every redirect."""
        if request.url.scheme != "https" or not request.url.host:
            raise UrlNotAllowedError("only https addresses are fetched")
        if request.url.userinfo:
            raise UrlNotAllowedError("addresses with a user name are not fetched")
        host, port = request.url.host, request.url.port or _HTTPS_PORT
        addresses = await self._resolve(host, port)
        if not all(self._is_allowed(address) for address in addresses):
            raise UrlNotAllowedError("the address is not public")
        pinned = httpx.Request(
            request.method,
            request.url.copy_with(host=str(addresses[0])),
            headers=request.headers,
            extensions={**request.extensions, "sni_hostname": host},
        )
        return await self._inner.handle_async_request(pinned)

    async def aclose(self) -> None:
        """Close all connections."""
        await self._inner.aclose()


def is_public(address: IpAddress) -> bool:
    """Whether an address, and every IPv4 address hidden in it, can be reached from the whole Internet."""
    if getattr(address, "is_site_local", False):  # once private (RFC 3879), today merely unassigned
        return False
    return all(part.is_global and not part.is_multicast for part in (address, *_embedded(address)))


def _embedded(address: IpAddress) -> list[ipaddress.IPv4Address]:
    if isinstance(address, ipaddress.IPv4Address):
        return []
    hidden = [address.ipv4_mapped, address.sixtofour, *(address.teredo or ())]
    if any(address in network for network in _NAT64):
        hidden.append(ipaddress.IPv4Address(int(address) & 0xFFFFFFFF))
    return [part for part in hidden if part is not None]


async def _resolve(host: str, port: int) -> Sequence[IpAddress]:
    try:
        found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise UrlFetchError("the address names no known host") from error
    # A link-local address may carry its interface.
    return [ipaddress.ip_address(str(entry[4][0]).partition("%")[0]) for entry in found]
