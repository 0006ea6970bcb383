"""Which IP addresses are public, including the IPv4 addresses that IPv6 addresses carry."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import Final, TypeAlias

IpAddress: TypeAlias = IPv4Address | IPv6Address

# Addresses of the whole Internet are below the first (RFC 3513); below the others they carry an IPv4 address that is.
_PUBLIC: Final = tuple(
    IPv6Network(network)
    for network in (
        "2000::/3",
        "::ffff:0:0/96",  # IPv4-mapped (RFC 4291)
        "64:ff9b::/96",  # NAT64 (RFC 6052)
    )
)
# Below 2000::/3, and yet no place for a poster; Python's own tables lack some of them.
_RESERVED: Final = tuple(
    IPv6Network(network)
    for network in (
        "3fff::/20",  # documentation (RFC 9637)
        "2001::/32",  # Teredo (RFC 4380): carries two IPv4 addresses, and nobody serves posters from there
    )
)
_RESERVED_IPV4: Final = (IPv4Network("192.88.99.0/24"),)  # anycast of 6to4, deprecated (RFC 7526)
# Networks whose addresses carry an IPv4 address, and how many bits follow it.
_CARRIERS: Final = (
    (IPv6Network("::ffff:0:0/96"), 0),
    (IPv6Network("64:ff9b::/96"), 0),
    (IPv6Network("2002::/16"), 80),  # 6to4 (RFC 3056)
)
# The middle of an ISATAP address (RFC 5214): any network, then ::0:5efe:IPV4; the bits left out tell local from global.
_ISATAP: Final = 0x5EFE
_ISATAP_MASK: Final = 0xFCFF_FFFF
_IPV4_MASK: Final = 0xFFFF_FFFF


def is_public(address: IpAddress) -> bool:
    """Whether an address, and every IPv4 address that it carries, can be reached from the whole Internet."""
    if isinstance(address, IPv4Address):
        return _is_global(address) and not any(address in network for network in _RESERVED_IPV4)
    if not any(address in network for network in _PUBLIC) or any(address in network for network in _RESERVED):
        return False
    carried = [IPv4Address((int(address) >> shift) & _IPV4_MASK) for network, shift in _CARRIERS if address in network]
    if (int(address) >> 32) & _ISATAP_MASK == _ISATAP:
        return _is_global(address) and is_public(IPv4Address(int(address) & _IPV4_MASK))
    # Of carriers Python's versions think differently.
    return all(map(is_public, carried)) if carried else _is_global(address)


def _is_global(address: IpAddress) -> bool:
    return address.is_global and not address.is_multicast
