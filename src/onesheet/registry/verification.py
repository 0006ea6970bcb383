"""Whether a version works where it has never been: from its files to answers over HTTP, under load for a moment."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Final

import numpy as np
from PIL import Image

from onesheet.errors import VerificationError
from onesheet.load import LoadResult, run_load, upload_request
from onesheet.predictor import Predictor
from onesheet.tune import running_service

if TYPE_CHECKING:
    from onesheet.registry.records import Version
    from onesheet.registry.registry import Registry

_PICTURES: Final = 8
_SIZE: Final = (300, 444)
_WARM_UP_SECONDS: Final = 1.0
_OK: Final = 200
# Of a poster alone and the same poster among others.
_MOST_DIFFERENCE: Final = 1e-4


def verify(
    registry: Registry,
    version: Version,
    *,
    seconds: float,
    connections: int,
    max_p95_ms: float,
    on_step: Callable[[str], None],
) -> None:
    """Fetch a version, look at its files and its answers, serve it, and ask it for a while.

    Args:
        registry: Holds it.
        version: The one.
        seconds: How long it is asked.
        connections: How many ask at a time.
        max_p95_ms: Slowest 95th percentile of the latency, in milliseconds.
        on_step: Told what was found, a line each.

    Raises:
        BundleError: It is not what was registered, or no bundle that can be used.
        VerificationError: Its answers make no sense, or it cannot stand the load.
        OnesheetError: The service does not start with it.
    """
    with TemporaryDirectory(prefix="onesheet-") as scratch:
        folder = Path(scratch, "bundle")
        bundle = registry.fetch(version, folder)
        on_step(f"files: {len(bundle.files) + 1}, as they were registered")
        pictures = _pictures()
        _check_answers(Predictor(bundle), pictures)
        on_step(f"answers: {len(pictures)} pictures, alone and together, to {len(bundle.metadata.genres)} genres")
        with running_service({"ONESHEET_BUNDLE": str(folder)}) as service:
            requests = [upload_request(f"{service.url}/predict", "file", picture) for picture in pictures]
            result = run_load(service.url, requests, connections=connections, seconds=seconds, warm_up=_WARM_UP_SECONDS)
    on_step(
        f"load: {result.per_second:.0f} pictures/s from {connections} clients, "
        f"median {result.percentile_ms(50):.0f} ms, 95 % within {result.percentile_ms(95):.0f} ms"
    )
    _check_load(result, max_p95_ms)


def _pictures() -> list[bytes]:
    """Noise, which no poster is, and every model has to stand."""
    random = np.random.default_rng(0)
    encoded = []
    for _ in range(_PICTURES):
        buffer = io.BytesIO()
        coarse = Image.fromarray(random.integers(0, 256, (12, 8, 3), np.uint8))
        coarse.resize(_SIZE, Image.Resampling.BICUBIC).save(buffer, "JPEG", quality=85)
        encoded.append(buffer.getvalue())
    return encoded


def _check_answers(predictor: Predictor, pictures: list[bytes]) -> None:
    together = np.stack([answer.probabilities for answer in predictor.predict(pictures)])
    alone = np.stack([predictor.predict(picture).probabilities for picture in pictures])
    if not (np.isfinite(together).all() and together.min() >= 0 and together.max() <= 1):
        raise VerificationError("some of its probabilities are none")
    if np.abs(together - alone).max() > _MOST_DIFFERENCE:
        raise VerificationError("it says something else of a picture alone than of the same picture among others")


def _check_load(result: LoadResult, max_p95_ms: float) -> None:
    failed = {status: count for status, count in result.statuses.items() if status != _OK}
    if failed or not result.latencies:
        told = ", ".join(f"{count} times status {status}" for status, count in sorted(failed.items()))
        raise VerificationError(f"under load it does not answer every picture: {told or 'it answers none'}")
    if result.percentile_ms(95) > max_p95_ms:
        raise VerificationError(f"under load 95 % within {result.percentile_ms(95):.0f} ms, {max_p95_ms:g} are allowed")
