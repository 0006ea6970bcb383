"""Sockets to listen on, for one process or for several, over IPv4 and IPv6."""

from __future__ import annotations

import errno
import socket
import sys
from typing import Any, Final

from onesheet.errors import OnesheetError

# Connections that wait for a worker to accept them; the system may allow fewer.
BACKLOG: Final = 2048


def listen(host: str, port: int, workers: int = 1) -> socket.socket:
    """Open a socket for one process to listen on, or for several.

    Args:
        host: Address or host name; `::` stands for all addresses of this machine, those of IPv4 included.
        port: 0 takes any free one.
        workers: Processes that will listen.

    Raises:
        OnesheetError: Nothing can listen there; the message says why.
    """
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        dual_stack = family == socket.AF_INET6 and socket.has_dualstack_ipv6()
        listener = socket.create_server((host, port), family=family, backlog=BACKLOG, dualstack_ipv6=dual_stack)
        if workers == 1 or sys.platform != "linux":
            return listener
        with listener:
            address = listener.getsockname()
        return _SharedPort.bound(family, address)
    except (OSError, UnicodeError) as error:
        raise OnesheetError(f"cannot listen on {host}, port {port}: {_reason(error, host)}") from error


def address_of(listener: socket.socket) -> str:
    """URL of a listener."""
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


class _SharedPort(socket.socket):
    """A port that each process opens anew, so that the kernel deals connections out to all of them (SO_REUSEPORT).

    Where processes accept from one socket, the first to wake takes all that have come, and keeps them; see also
    `onesheet.serving.accepting`, for sockets that somebody else has opened.
    """

    @classmethod
    def bound(cls, family: socket.AddressFamily, address: Any) -> _SharedPort:
        """Reserves the port without listening: the process that starts the others takes no connections."""
        opened = cls(family, socket.SOCK_STREAM)
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if sys.platform != "win32":  # which does not have it, and does without such a port
            opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if family == socket.AF_INET6:
            opened.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        opened.bind(address)
        return opened

    def __reduce__(self) -> tuple[Any, ...]:
        """How it reaches another process."""
        return type(self).bound, (self.family, self.getsockname())


def _reason(error: OSError | UnicodeError, host: str) -> str:
    if isinstance(error, socket.gaierror | UnicodeError):
        return "no such address"
    if error.errno == errno.EADDRINUSE:
        return "the port is taken; name another one, or 0 for any free one"
    no_ipv6 = error.errno == errno.EAFNOSUPPORT or (error.errno == errno.EADDRNOTAVAIL and host in ("::", "::1"))
    if ":" in host and no_ipv6:
        return "this machine has no IPv6; use 0.0.0.0 for all addresses of IPv4, or 127.0.0.1 for this machine alone"
    return (error.strerror or "the system refuses").lower()
