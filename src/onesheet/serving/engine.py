"""Encoded pictures in, answers out, on a fixed number of threads beside whatever asks.

The queue is bounded by time: a picture that could not be answered before its deadline is refused when it comes, and
one whose deadline passes while it waits is not worked on. Both engines, FastAPI and BentoML, come through here.
"""

from __future__ import annotations

import hashlib
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final
from weakref import WeakSet

import numpy as np
import structlog

from onesheet.errors import ModelError, NotReadyError, OverloadedError
from onesheet.image_statistics import image_statistics

if TYPE_CHECKING:
    from structlog.typing import FilteringBoundLogger

    from onesheet.image import Picture
    from onesheet.predictor import Prediction, Predictor

# How fast the estimate of a picture's service time follows the last ones.
_SMOOTHING: Final = 0.05
_FIRST_GUESS_SECONDS: Final = 0.02
# More than a batch takes; then only a graph with a loop is still at work.
_CLOSING_SECONDS: Final = 5.0

logger: FilteringBoundLogger = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Timings:
    """Seconds that an answer took, stage by stage."""

    queue: float
    decode: float
    model: float


@dataclass(frozen=True, slots=True)
class Answer:
    """What the model says of one picture, and what the log keeps of it.

    Attributes:
        prediction: The answer itself.
        genres: The model's, in the order of the prediction's probabilities.
        statistics: Of the picture, as `onesheet.image_statistics` names them.
        content_sha256: Of the encoded picture, in hexadecimal.
        timings: Of the stages.
        batch: How many pictures went through the graph together.
    """

    prediction: Prediction
    genres: tuple[str, ...]
    statistics: Mapping[str, float]
    content_sha256: str
    timings: Timings
    batch: int


@dataclass(frozen=True, slots=True)
class _Job:
    data: bytes
    threshold: float | None
    top_k: int | None
    arrived: float
    deadline: float
    future: Future[Answer]


class Engine:
    """Decodes and answers pictures on worker threads.

    Args:
        predictor: Answers; `replace` puts another in its place.
        threads: How many pictures or batches are worked on side by side.
        max_waiting: Most pictures in the queue, however fast they would be answered.
        max_batch: Most pictures that go through the graph together; those that wait, never waiting for more.
        patience: Seconds from a picture's arrival until its answer is of no use any more.
        clock: Seconds, never going back.
    """

    def __init__(
        self,
        predictor: Predictor,
        *,
        threads: int,
        max_waiting: int,
        max_batch: int,
        patience: float,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._used: WeakSet[Predictor] = WeakSet()
        self.replace(predictor)
        self._threads = threads
        self._max_waiting = max_waiting
        self._max_batch = max_batch
        self._patience = patience
        self._clock = clock
        self._seconds_each = _FIRST_GUESS_SECONDS
        self._waiting: deque[_Job] = deque()
        self._busy = 0
        self._closed = False
        self._changed = threading.Condition()
        self._workers = [
            threading.Thread(target=self._work, name=f"engine-{number}", daemon=True) for number in range(threads)
        ]
        for worker in self._workers:
            worker.start()

    @property
    def waiting(self) -> int:
        """Pictures in the queue."""
        return len(self._waiting)

    def expected_wait(self) -> float:
        """Seconds until a picture that comes now would be answered."""
        ahead = len(self._waiting) + self._busy
        return (ahead / self._threads + 1) * self._seconds_each

    def check_admission(self) -> None:
        """Refuse early, before a body is read, what would be refused by `submit`.

        Raises:
            OverloadedError: It could not be answered in time.
        """
        if len(self._waiting) >= self._max_waiting or self.expected_wait() > self._patience:
            raise self._overloaded()

    def submit(self, data: bytes, threshold: float | None = None, top_k: int | None = None) -> Future[Answer]:
        """Queue one encoded picture.

        Returns:
            A future; it raises ImageError for a picture that cannot be read, and OverloadedError when its time was
            up before its turn came. A future that is cancelled is not worked on.

        Raises:
            OverloadedError: It could not be answered in time.
            InvalidRequestError: `threshold` or `top_k` is out of its range.
            NotReadyError: The engine is closed.
        """
        self.predictor.check_options(threshold, top_k)
        self.check_admission()
        now = self._clock()
        job = _Job(data, threshold, top_k, now, now + self._patience, Future())
        with self._changed:
            if self._closed:
                raise NotReadyError("the service is stopping")
            self._waiting.append(job)
            self._changed.notify()
        return job.future

    def replace(self, predictor: Predictor) -> None:
        """Let another predictor answer all pictures whose turn comes from now on."""
        self.predictor = predictor
        self._used.add(predictor)

    def close(self) -> None:
        """Answer what is queued, then stop the threads; a model that does not end by itself is stopped."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        deadline = time.monotonic() + self._patience + _CLOSING_SECONDS
        for worker in self._workers:
            worker.join(max(0.0, deadline - time.monotonic()))
        if any(worker.is_alive() for worker in self._workers):
            logger.error("the model did not end and was stopped", seconds=self._patience + _CLOSING_SECONDS)
            for predictor in self._used:
                predictor.stop()
            for worker in self._workers:
                worker.join(_CLOSING_SECONDS)

    def _work(self) -> None:
        is_open = True
        while is_open:
            jobs: list[_Job] = []
            try:
                is_open = self._take(jobs)
                self._answer_those_wanted(jobs)
            except BaseException as error:
                # Whatever it was, its clients must not wait for ever, and the next are answered.
                logger.exception("unexpected error of the engine", pictures=len(jobs))
                _fail(jobs, error)
            finally:
                with self._changed:
                    self._busy -= len(jobs)

    def _take(self, jobs: list[_Job]) -> bool:
        """Wait for pictures and take a fair share of those that wait.

        Returns:
            False when the engine is closed and idle.
        """
        with self._changed:
            while not self._waiting and not self._closed:
                self._changed.wait()
            for _ in range(min(self._max_batch, -(-len(self._waiting) // self._threads))):
                jobs.append(self._waiting.popleft())
                self._busy += 1
        return bool(jobs)

    def _answer_those_wanted(self, jobs: Sequence[_Job]) -> None:
        wanted = [job for job in jobs if self._still_wanted(job)]
        if not wanted:
            return
        began = self._clock()
        self._answer(wanted, began)
        took = self._clock() - began
        with self._changed:
            self._seconds_each += _SMOOTHING * (took / len(wanted) - self._seconds_each)

    def _still_wanted(self, job: _Job) -> bool:
        if not job.future.set_running_or_notify_cancel():
            return False
        if self._clock() > job.deadline:
            job.future.set_exception(self._overloaded())
            return False
        return True

    def _overloaded(self) -> OverloadedError:
        return OverloadedError(retry_after=max(1, round(self.expected_wait())))

    def _answer(self, jobs: list[_Job], began: float) -> None:
        """Whatever goes wrong goes wrong for the client who asked, and the thread lives on."""
        predictor = self.predictor
        read: list[tuple[_Job, Picture, float]] = []
        for job in jobs:
            started = self._clock()
            try:
                read.append((job, predictor.read(job.data), self._clock() - started))
            except Exception as error:  # noqa: BLE001  it is the client's to hear
                job.future.set_exception(error)
        if not read:
            return
        try:
            started = self._clock()
            outputs = predictor.run(np.stack([picture.pixels for _, picture, _ in read]))
            model_seconds = self._clock() - started
            statistics = image_statistics([picture for _, picture, _ in read])
            for (job, _, decode_seconds), row, embedding, seen in zip(read, *outputs, statistics, strict=True):
                answer = Answer(
                    prediction=predictor.judge(row, embedding, job.threshold, job.top_k),
                    genres=predictor.genres,
                    statistics=seen,
                    content_sha256=hashlib.sha256(job.data).hexdigest(),
                    timings=Timings(began - job.arrived, decode_seconds, model_seconds),
                    batch=len(read),
                )
                job.future.set_result(answer)
        except ModelError as error:
            if len(read) > 1:  # one of them may be at fault
                for job, _, _ in read:
                    self._answer([job], began)
                return
            metadata = predictor.metadata
            logger.exception("the model failed", name=metadata.name, version=metadata.version)
            _fail([job for job, _, _ in read], error)
        except Exception as error:  # noqa: BLE001  it is the client's to hear
            _fail([job for job, _, _ in read], error)


def _fail(jobs: Sequence[_Job], error: BaseException) -> None:
    for job in jobs:
        if not job.future.done():
            job.future.set_exception(error)
