"""A limited resource that clients share, so that no single one can use it up."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from ipaddress import IPv6Network
from typing import TYPE_CHECKING

from onesheet.errors import OverloadedError, ShareExceededError

if TYPE_CHECKING:
    from starlette.types import Scope


class SharedBudget:
    """Amounts that requests hold until they are answered: of all clients together, and of each one, limited.

    Args:
        total: What all requests together may hold.
        per_client: What the requests of one client may hold.
        unit: What is counted, for messages.
        retry_after: Seconds after which a refused client should try again.
    """

    def __init__(self, total: int, per_client: int, unit: str, retry_after: int = 1) -> None:
        self._total, self._per_client, self._unit, self._retry_after = total, per_client, unit, retry_after
        self._held: Counter[str] = Counter()

    @contextmanager
    def holding(self, client: str) -> Iterator[Callable[[int], None]]:
        """Count what one request holds, until it is answered.

        Yields:
            A function that adds an amount, and raises `ShareExceededError` or `OverloadedError` where there is no room.
        """
        amount = 0

        def hold(more: int) -> None:
            nonlocal amount
            if self._held[client] + more > self._per_client:
                message = f"your requests under way hold too many {self._unit}; wait for their answers"
                raise ShareExceededError(message, retry_after=self._retry_after)
            if self._held.total() + more > self._total:
                message = f"the requests under way hold too many {self._unit}; try again later"
                raise OverloadedError(message, retry_after=self._retry_after)
            self._held[client] += more
            amount += more

        try:
            yield hold
        finally:
            self._held[client] -= amount
            if not self._held[client]:
                del self._held[client]


def client_of(scope: Scope) -> str:
    """The client's address; an IPv6 client is its network (/64), in which it may choose addresses as it likes."""
    host: str = scope["client"][0] if scope.get("client") else "unknown"
    if ":" not in host:
        return host
    try:
        return str(IPv6Network((host.partition("%")[0], 64), strict=False))
    except ValueError:
        return host
