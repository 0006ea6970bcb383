"""The model behind the API: loading, ready or failed; and never run on the event loop."""

from __future__ import annotations

import time
from functools import partial
from typing import TYPE_CHECKING, Literal, TypeAlias

import anyio.to_thread
import structlog
from anyio import CapacityLimiter

from onesheet.errors import BundleError, NotReadyError, OnesheetError
from onesheet.image import ImageLimits
from onesheet.predictor import Prediction, Predictor, load_predictor

if TYPE_CHECKING:
    from structlog.typing import FilteringBoundLogger

    from onesheet.settings import Settings

Status: TypeAlias = Literal["ok", "loading", "failed"]

logger: FilteringBoundLogger = structlog.get_logger(__name__)


class ModelService:
    """Answers pictures on as many worker threads as the predictor asks for; the others wait their turn.

    Args:
        settings: Names the bundle, the limits and the number of threads.
        predictor: Use this one; `load` then has nothing to do.
    """

    def __init__(self, settings: Settings, predictor: Predictor | None = None) -> None:
        self._settings = settings
        self._created = time.monotonic()
        self._predictor: Predictor | None = None
        self._failure: BundleError | None = None
        if predictor is not None:
            self._use(predictor)

    @property
    def status(self) -> Status:
        """Whether the model answers, will answer, or cannot."""
        if self._predictor is not None:
            return "ok"
        return "loading" if self._failure is None else "failed"

    @property
    def uptime(self) -> float:
        """Seconds since the application was created."""
        return time.monotonic() - self._created

    def get(self) -> Predictor:
        """The predictor, once it is there.

        Raises:
            NotReadyError: It is still being loaded.
            BundleError: It could not be loaded; its subclass says why.
        """
        if self._predictor is not None:
            return self._predictor
        if self._failure is not None:
            # The same error is raised for every request: without this its traceback would grow each time.
            raise self._failure.with_traceback(None)
        raise NotReadyError("the model is still being loaded; try again in a moment")

    async def load(self) -> None:
        """Load the bundle that the settings name; a failure is kept and logged, never raised."""
        if self._predictor is not None:
            return
        started = time.perf_counter()
        try:
            # Abandoned when the server stops: a slow download must not hold it up.
            predictor = await anyio.to_thread.run_sync(self._load, abandon_on_cancel=True)
        except OnesheetError as error:
            logger.error("model not loaded", code=error.code, reason=error.message)
            self._failure = error if isinstance(error, BundleError) else BundleError(error.message)
        except Exception:
            logger.exception("model not loaded")
            self._failure = BundleError("the model could not be loaded; the server's log says why")
        else:
            self._use(predictor)
            logger.info(
                "model ready",
                name=predictor.metadata.name,
                version=predictor.metadata.version,
                seconds=round(time.perf_counter() - started, 3),
            )

    async def predict(self, data: bytes, threshold: float | None, top_k: int | None) -> Prediction:
        """Decode and answer one picture on a worker thread.

        Args:
            data: The encoded picture.
            threshold: As in `Predictor.predict`.
            top_k: As in `Predictor.predict`.

        Raises:
            NotReadyError, BundleError: As `get` does.
            ImageError: The picture cannot be read.
            InvalidRequestError: `threshold` or `top_k` is out of its range.
        """
        predictor = self.get()
        answer = partial(predictor.predict, data, threshold=threshold, top_k=top_k)
        return await anyio.to_thread.run_sync(answer, limiter=self._workers)

    def _load(self) -> Predictor:
        limits = ImageLimits(max_bytes=self._settings.max_upload_bytes, max_pixels=self._settings.max_pixels)
        return load_predictor(
            self._settings.bundle, limits=limits, threads=self._settings.threads, precision=self._settings.precision
        )

    def _use(self, predictor: Predictor) -> None:
        self._workers = CapacityLimiter(predictor.threads)
        self._predictor = predictor
