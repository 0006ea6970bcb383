"""Posters by https, with all the care that the service takes over addresses of strangers."""

from __future__ import annotations

import asyncio
import atexit
import threading
from functools import cache

from onesheet.serving.fetch import FetchLimits, ImageFetcher


class Fetcher:
    """Fetches from any thread; one thread of its own does it for all of them.

    Args:
        max_bytes: Largest picture.
        seconds: In which an address has to answer.
    """

    def __init__(self, max_bytes: int, seconds: float) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="onesheet-fetch", daemon=True)
        self._thread.start()
        self._images = ImageFetcher(FetchLimits(max_bytes, seconds))

    def fetch(self, url: str) -> bytes:
        """The bytes behind an address.

        Raises:
            ImageError: As `ImageFetcher.fetch`.
        """
        return asyncio.run_coroutine_threadsafe(self._images.fetch(url), self._loop).result()

    def close(self) -> None:
        """Close all connections."""
        asyncio.run_coroutine_threadsafe(self._images.close(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


def read_address(url: str, max_bytes: int, seconds: float) -> bytes:
    """The bytes behind an address, over connections that the whole process shares.

    Raises:
        ImageError: As `ImageFetcher.fetch`.
    """
    return _fetcher(max_bytes, seconds).fetch(url)


@cache
def _fetcher(max_bytes: int, seconds: float) -> Fetcher:
    fetcher = Fetcher(max_bytes, seconds)
    atexit.register(fetcher.close)
    return fetcher
