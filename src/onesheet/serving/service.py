"""What lies between a picture and its answer: the model, its engine, the log, the metrics."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final, Literal, TypeAlias
from uuid import UUID, uuid4

import structlog

from onesheet.errors import BundleError, InvalidRequestError, LogUnavailableError, NotReadyError, reason
from onesheet.predictionlog import Feedback, LoggedPrediction
from onesheet.predictor import Predictor, usable_cores
from onesheet.serving.background import going_on
from onesheet.serving.engine import Answer, Engine
from onesheet.serving.follower import AliasFollower
from onesheet.serving.loading import keep_for_all, load_for_service
from onesheet.serving.recorder import Recorder
from onesheet.serving.shadow import Shadow

if TYPE_CHECKING:
    from structlog.typing import FilteringBoundLogger

    from onesheet.monitoring.metrics import Metrics
    from onesheet.predictor import Prediction
    from onesheet.serving.body import Upload
    from onesheet.serving.choice import SharedChoice
    from onesheet.settings import Settings

# How soon a process follows the choice of another.
_WATCH_SECONDS: Final = 0.5

Status: TypeAlias = Literal["ok", "loading", "failed"]

logger: FilteringBoundLogger = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Answered:
    """An answer that may be given.

    Attributes:
        prediction_id: Its id in the log; None where the log is down and the settings say to answer all the same.
        prediction: What the model says.
    """

    prediction_id: UUID | None
    prediction: Prediction


class PredictionService:
    """Answers pictures; nothing of it runs on the event loop but waiting.

    Its `recorder` is what it keeps of the answers.

    Args:
        settings: The bundle, the limits, the log.
        metrics: Told of everything.
        predictor: Use this one; `run` then loads none.
        choice: The bundle that the processes of this service agree on; None: there are no others.
        on_stages: Told how many seconds an answer took in each stage, in their order.
    """

    def __init__(
        self,
        settings: Settings,
        metrics: Metrics,
        predictor: Predictor | None = None,
        choice: SharedChoice | None = None,
        on_stages: Callable[[Mapping[str, float]], None] | None = None,
    ) -> None:
        self._settings = settings
        self._metrics = metrics
        self._created = time.monotonic()
        self._engine: Engine | None = None
        self._failure: BundleError | None = None
        self._shadow: Shadow | None = None
        self._stopping = False
        self._tried_to_load = asyncio.Event()
        self._choice = choice
        self._replacing = asyncio.Lock()
        self._on_stages = on_stages
        self._follower = AliasFollower(settings) if settings.follow_seconds else None
        self._choice_number: int | None = None
        self.recorder = Recorder(settings, metrics)
        if predictor is not None:
            self._use(predictor)

    @property
    def status(self) -> Status:
        """Whether the model answers, will answer, or cannot."""
        if self._engine is not None:
            return "ok"
        return "loading" if self._failure is None else "failed"

    @property
    def uptime(self) -> float:
        """Seconds since the application was created."""
        return time.monotonic() - self._created

    @property
    def predictor(self) -> Predictor:
        """The one that answers now.

        Raises:
            NotReadyError, BundleError: As `engine` does.
        """
        return self.engine.predictor

    @property
    def engine(self) -> Engine:
        """Where pictures go.

        Raises:
            NotReadyError: The model is still being loaded.
            BundleError: It could not be loaded; its subclass says why.
        """
        if self._engine is not None:
            return self._engine
        if self._failure is not None:
            # The same error is raised for every request: without this its traceback would grow each time.
            raise self._failure.with_traceback(None)
        raise NotReadyError("the model is still being loaded; try again in a moment")

    async def run(self) -> None:
        """Load the bundle, then another one whenever a process of this service chooses it; until cancelled."""
        with going_on("log"):
            try:
                await asyncio.to_thread(self.recorder.prepare)
            except LogUnavailableError as error:  # the next answer tries again
                logger.warning("prediction log not there yet", reason=reason(error.__cause__ or error))
        if self._engine is None:
            await self._start()
        self._tried_to_load.set()
        if self._settings.shadow_bundle:
            with going_on("shadow"):
                await self._start_shadow(self._settings.shadow_bundle)
        await asyncio.gather(self._heed_choice(), self._follow_alias())

    async def wait_until_loaded(self, seconds: float) -> None:
        """Wait, not for ever, until the first bundle is there or has failed."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._tried_to_load.wait()

    def _chosen(self) -> str | None:
        """The REF of a choice that this process has not followed yet."""
        chosen = self._choice.read() if self._choice else None
        if chosen is None or chosen[1] == self._choice_number:
            return None
        ref, self._choice_number = chosen
        return ref

    async def _start(self) -> None:
        """Load the first bundle; a failure is kept for those who ask, never raised."""
        try:
            if self._follower is None:
                self._use(await load_for_service(self._chosen() or self._settings.bundle, self._settings))
            else:
                await self._take_version(self._follower)
        except BundleError as error:
            self._failure = error
        except Exception:
            logger.exception("model not loaded")
            self._failure = BundleError("the model could not be loaded; the server's log says why")

    async def _heed_choice(self) -> None:
        """Use what another process of this service has chosen."""
        while self._choice is not None:
            await asyncio.sleep(_WATCH_SECONDS)
            with going_on("choice"):
                async with self._replacing:  # else what is loaded here could replace what is chosen meanwhile
                    if ref := self._chosen():
                        with suppress(BundleError), self._counted():
                            self._use(await load_for_service(ref, self._settings))

    async def _follow_alias(self) -> None:
        """Use the version that the alias stands for; while it cannot be had, the one before answers on."""
        while self._follower is not None:
            await asyncio.sleep(self._settings.follow_seconds or 0)
            with going_on("follow"), suppress(BundleError):
                await self._take_version(self._follower)

    async def _take_version(self, follower: AliasFollower) -> None:
        if ref := await follower.moved():
            is_a_change = self._engine is not None
            async with self._replacing:
                with self._counted() if is_a_change else nullcontext():
                    self._use(await load_for_service(ref, self._settings))
            follower.take(ref)

    async def _start_shadow(self, ref: str) -> None:
        with suppress(BundleError):
            predictor = await load_for_service(ref, self._settings)
            self._shadow = Shadow(predictor, self.recorder.keep_later, self._metrics)

    async def replace(self, ref: str) -> Predictor:
        """Let another bundle answer from now on; what is under way is answered by the old one.

        Raises:
            BundleError: It cannot be used, and the old one goes on.
            InvalidRequestError: This service follows an alias of the registry, which is moved there.
        """
        if self._follower is not None:
            raise InvalidRequestError(
                f"this service follows the {self._follower.alias} of the registry: promote or roll back there"
            )
        async with self._replacing:
            with self._counted():
                place = ref if self._choice is None else await keep_for_all(ref, self._settings, self._choice)
                self._use(await load_for_service(place, self._settings))
            if self._choice is not None:
                self._choice_number = self._choice.write(place)
            return self.predictor

    @contextmanager
    def _counted(self) -> Iterator[None]:
        """A change of the model is done, or refused."""
        try:
            yield
        except BundleError:
            self._metrics.swaps.labels("refused").inc()
            raise
        self._metrics.swaps.labels("done").inc()

    async def answer(
        self, upload: Upload, threshold: float | None, top_k: int | None, *, arrived: float, request_id: str | None
    ) -> Answered:
        """Answer one picture, and have it in the log before the client hears of it.

        Args:
            upload: The encoded picture.
            threshold: As in `Predictor.predict`.
            top_k: As in `Predictor.predict`.
            arrived: When the request came, by `time.perf_counter`.
            request_id: For the log.

        Raises:
            NotReadyError, BundleError, OverloadedError, ImageError, InvalidRequestError: As `Engine.submit` does.
            LogUnavailableError: The log is down, and the settings say to refuse.
        """
        answer = await asyncio.wrap_future(self.engine.submit(upload.data, threshold, top_k))
        record = _record(answer, upload, threshold, time.perf_counter() - arrived, request_id)
        writing = time.perf_counter()
        kept = await self.recorder.keep(record, upload.data)
        self._measure(answer, log_seconds=time.perf_counter() - writing)
        if self._shadow is not None and kept:
            self._shadow.offer(upload.data, record)
        return Answered(record.id if kept else None, answer.prediction)

    async def keep_feedback(self, prediction_id: UUID, genres: Sequence[str]) -> None:
        """Keep what somebody says of an answer.

        Raises:
            InvalidRequestError: A genre that the model does not know.
            UnknownPredictionError: There is no such answer.
            LogUnavailableError: The log is down.
        """
        unknown = [genre for genre in genres if genre not in self.predictor.genres]
        if unknown:
            raise InvalidRequestError("genres: the model knows some of them by other names, or not at all; see /model")
        feedback = Feedback(prediction_id, datetime.now(UTC), tuple(dict.fromkeys(genres)))
        await self.recorder.keep_feedback(feedback)

    def check_ready(self) -> None:
        """Whether requests are welcome.

        Raises:
            NotReadyError: The model is still being loaded, or the service is about to stop.
            BundleError: The model could not be loaded.
        """
        if self._stopping:
            raise NotReadyError("the service is stopping")
        _ = self.engine

    def announce_stop(self) -> None:
        """Ask load balancers to look elsewhere; requests are still answered."""
        self._stopping = True

    async def stop(self) -> None:
        """Finish what was accepted."""
        if self._engine is not None:
            await asyncio.to_thread(self._engine.close)
        if self._shadow is not None:
            await asyncio.to_thread(self._shadow.close)
        await asyncio.to_thread(self.recorder.close)

    def _measure(self, answer: Answer, log_seconds: float) -> None:
        timings = answer.timings
        stages = {"queue": timings.queue, "decode": timings.decode, "model": timings.model, "log": log_seconds}
        for stage, seconds in stages.items():
            self._metrics.stages[stage].observe(seconds)
        if self._on_stages:
            self._on_stages(stages)
        self._metrics.batch_size.observe(answer.batch)
        self._metrics.observe(answer.prediction)

    def _use(self, predictor: Predictor) -> None:
        if self._engine is not None:
            before = self._engine.predictor.metadata
            self._metrics.model.labels(before.name, before.version).set(0)
            self._engine.replace(predictor)
        else:
            settings = self._settings
            self._engine = Engine(
                predictor,
                threads=settings.threads or _default_threads(settings.workers),
                max_waiting=settings.max_waiting,
                max_batch=settings.max_batch,
                patience=settings.patience_seconds,
            )
            self._metrics.queue_depth.set_function(lambda: self._engine.waiting if self._engine else 0)
        metadata = predictor.metadata
        self._metrics.model.labels(metadata.name, metadata.version).set(1)
        self._metrics.model_created.labels(metadata.name, metadata.version).set(metadata.created.timestamp())


def _default_threads(workers: int) -> int:
    """One for each core; of several processes one may get more connections than its share, so each has one to spare."""
    return usable_cores() if workers == 1 else usable_cores() // workers + 1


def _record(
    answer: Answer, upload: Upload, threshold: float | None, seconds: float, request_id: str | None
) -> LoggedPrediction:
    prediction = answer.prediction
    return LoggedPrediction(
        id=uuid4(),
        time=datetime.now(UTC),
        role="answered",
        model_name=prediction.model_name,
        model_version=prediction.model_version,
        genres=answer.genres,
        probabilities=prediction.probabilities,
        embedding=prediction.embedding,
        threshold=threshold,
        predicted=tuple(score.label for score in prediction.predicted),
        statistics=answer.statistics,
        latency_ms=seconds * 1e3,
        file_name=upload.file_name,
        content_sha256=answer.content_sha256,
        request_id=request_id,
    )
