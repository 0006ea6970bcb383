"""Bundles for a running service: loaded beside whatever answers, verified, and tried before they are used."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, TypeVar

import structlog

from onesheet.acceptance import accept
from onesheet.errors import BundleError, OnesheetError
from onesheet.image import ImageLimits
from onesheet.predictor import Predictor, load_predictor
from onesheet.serving.background import in_daemon

if TYPE_CHECKING:
    from structlog.typing import FilteringBoundLogger

    from onesheet.serving.choice import SharedChoice
    from onesheet.settings import Settings

_Result = TypeVar("_Result")

logger: FilteringBoundLogger = structlog.get_logger(__name__)


async def load_for_service(ref: str, settings: Settings) -> Predictor:
    """Load, verify and try a bundle on a thread of its own, in the time that the settings allow.

    Args:
        ref: The bundle.
        settings: The limits and the threads.

    Raises:
        BundleError: It cannot be used; its subclass says why, and the log of the service says more.
    """
    started = time.perf_counter()
    predictor = await _in_time(ref, settings, partial(_load, ref, settings))
    metadata = predictor.metadata
    seconds = round(time.perf_counter() - started, 3)
    logger.info("model ready", name=metadata.name, version=metadata.version, seconds=seconds)
    return predictor


async def keep_for_all(ref: str, settings: Settings, choice: SharedChoice) -> str:
    """Copy a bundle to where all processes find the same, now and when one of them is started again.

    Returns:
        The REF of the copy.

    Raises:
        BundleError: As `load_for_service` does.
    """
    return await _in_time(ref, settings, partial(choice.keep, ref))


async def _in_time(ref: str, settings: Settings, work: Callable[[], _Result]) -> _Result:
    """What takes longer is left to itself: nothing stops a thread that waits for a file system or a graph."""
    with _told(ref):
        try:
            async with asyncio.timeout(settings.load_seconds) as limit:
                return await in_daemon(work)
        except TimeoutError as error:
            if not limit.expired():
                raise
            raise BundleError(f"not loaded within {settings.load_seconds:g} s (ONESHEET_LOAD_SECONDS)") from error


@contextmanager
def _told(ref: str) -> Iterator[None]:
    """Log why a bundle cannot be used, and raise nothing but BundleError."""
    try:
        yield
    except OnesheetError as error:
        logger.error("model not loaded", bundle=ref, code=error.code, reason=error.message)
        raise error if isinstance(error, BundleError) else BundleError(error.message) from error
    except Exception as error:
        logger.exception("model not loaded", bundle=ref)
        raise BundleError("the model could not be loaded; the server's log says why") from error


def _load(ref: str, settings: Settings) -> Predictor:
    limits = ImageLimits(max_bytes=settings.max_upload_bytes, max_pixels=settings.max_pixels)
    predictor = load_predictor(ref, limits=limits, threads=settings.threads, precision=settings.precision)
    accept(predictor)
    return predictor
