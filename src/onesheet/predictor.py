"""A poster's bytes to its genres, on ONNX Runtime: the core call."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar, cast, overload

import numpy as np

from onesheet.bundle import CARD_FILE, INT8_FILE, MODEL_FILE, REFERENCE_FILE, Bundle, Precision, load_bundle
from onesheet.contract import INPUT, OUTPUTS, check_outputs, check_signature
from onesheet.errors import BundleCorruptError, ImageError, InvalidRequestError, ModelError
from onesheet.image import DEFAULT_LIMITS, ImageLimits, ImageSource, Picture, load_picture
from onesheet.refs import STARTER

if TYPE_CHECKING:
    from numpy.typing import NDArray

DEFAULT_TOP_K: Final = 5

_BATCH: Final = 8

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


@dataclass(frozen=True, slots=True)
class GenreScore:
    """A genre and its calibrated probability (0-1)."""

    label: str
    probability: float

    def to_dict(self) -> dict[str, Any]:
        """The JSON contract."""
        return {"label": self.label, "probability": round(self.probability, 6)}


@dataclass(frozen=True, slots=True)
class Prediction:
    """What the model says of one poster.

    Attributes:
        predicted: The genres that reach their threshold, most probable first; may be empty.
        topk: The k most probable genres, whatever the thresholds.
        probabilities: float32 `[G]`, in the bundle's genre order.
        embedding: float32 `[D]`, the network's pooled features.
        model_name: Name of the bundle.
        model_version: Version of the bundle.
    """

    predicted: tuple[GenreScore, ...]
    topk: tuple[GenreScore, ...]
    probabilities: NDArray[np.float32]
    embedding: NDArray[np.float32]
    model_name: str
    model_version: str

    def to_dict(self) -> dict[str, Any]:
        """The JSON contract: `predicted`, `topk` and `model`."""
        return {
            "predicted": [score.to_dict() for score in self.predicted],
            "topk": [score.to_dict() for score in self.topk],
            "model": {"name": self.model_name, "version": self.model_version},
        }


class Predictor:
    """A verified bundle, ready to answer; safe to share between threads.

    Each picture or batch runs on one thread, which is the fastest way to use a CPU with this kind of network; several
    run side by side in `predict` of a list, in `predict_each`, and in a server's worker threads. `reference` and
    `card` are the bundle's `reference.parquet`, as it is, and `MODEL_CARD.md`; `file` names the graph that answers.

    Args:
        bundle: The model and everything that travels with it.
        limits: What is accepted as a poster.
        threads: Worker threads for lists; default: the cores that this process may use.
        precision: Which graph of the bundle answers; int8 is faster and a little less exact.

    Raises:
        BundleCorruptError: The graph is not the one that a bundle promises.
        BundleError: The bundle holds no graph of this precision.
    """

    def __init__(
        self,
        bundle: Bundle,
        limits: ImageLimits = DEFAULT_LIMITS,
        threads: int | None = None,
        precision: Precision = "fp32",
    ) -> None:
        self.metadata = bundle.metadata
        self.reference = bundle.files[REFERENCE_FILE]
        self.card = bundle.files[CARD_FILE].decode(errors="replace")
        self.limits = limits
        self.threads = threads or usable_cores()
        self.file = INT8_FILE if precision == "int8" else MODEL_FILE
        self._session, self._stop = open_session(bundle.graph(precision)), run_options()
        check_signature(self._session, bundle.metadata)
        self._thresholds = np.array([bundle.metadata.thresholds[genre] for genre in self.genres], dtype=np.float32)

    @property
    def genres(self) -> tuple[str, ...]:
        """The genres, in the order of the probabilities."""
        return self.metadata.genres

    # To a type checker a string is a sequence of strings too; the first that fits is meant.
    @overload
    def predict(  # type: ignore[overload-overlap]
        self, source: ImageSource, *, threshold: float | None = None, top_k: int | None = None
    ) -> Prediction: ...

    @overload
    def predict(
        self, source: Sequence[ImageSource], *, threshold: float | None = None, top_k: int | None = None
    ) -> list[Prediction]: ...

    def predict(
        self,
        source: ImageSource | Sequence[ImageSource],
        *,
        threshold: float | None = None,
        top_k: int | None = None,
    ) -> Prediction | list[Prediction]:
        """The genres of a poster, or of a list of them.

        Args:
            source: Encoded bytes, a path, a Pillow image or a uint8 array `[H, W, 3]`; or a list of these, which
                is answered in batches.
            threshold: One probability that a genre has to reach; default: the bundle's own, per genre.
            top_k: How many of the most probable genres to list; default: 5, or all if there are fewer.

        Raises:
            ImageError: A picture cannot be read (in a list: the first such; `predict_each` goes on).
            InvalidRequestError: `threshold` or `top_k` is out of its range.
        """
        if isinstance(source, (str, bytes)) or not isinstance(source, Sequence):
            return self._predict_batch([source], threshold, top_k)[0]
        sources = cast("Sequence[ImageSource]", source)
        results = list(self.predict_each(sources, threshold=threshold, top_k=top_k))
        for result in results:
            if isinstance(result, ImageError):
                raise result
        return [result for result in results if isinstance(result, Prediction)]

    def predict_each(
        self,
        sources: Iterable[ImageSource],
        *,
        threshold: float | None = None,
        top_k: int | None = None,
    ) -> Iterator[Prediction | ImageError]:
        """One answer or error for each picture, in order, in bounded memory, however many there are."""
        self.check_options(threshold, top_k)
        yield from map_batches(lambda batch: self._predict_or_fail(batch, threshold, top_k), sources, self.threads)

    def read(self, source: ImageSource) -> Picture:
        """Decode and resize one picture as this bundle wants it.

        Raises:
            ImageError: The picture cannot be read.
        """
        return load_picture(source, self.metadata.preprocess, self.limits)

    def run(self, pixels: NDArray[np.uint8]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Run the graph alone.

        Args:
            pixels: uint8 `[N, H, W, 3]`, RGB, of the size of the bundle's `PreprocessSpec`.

        Returns:
            `(probabilities [N, G], embedding [N, D])`, both float32.

        Raises:
            ModelError: The graph fails, gives something else, or was stopped.
        """
        try:
            probabilities, embedding = self._session.run(OUTPUTS, {INPUT: pixels}, self._stop)
        except Exception as error:
            raise ModelError from error
        check_outputs(probabilities, embedding, len(pixels), len(self.genres))
        return probabilities, embedding

    def stop(self) -> None:
        """End all runs that are under way, and let none begin: each raises ModelError."""
        self._stop.terminate = True

    def check_options(self, threshold: float | None, top_k: int | None) -> None:
        """Refuse options that are out of range.

        Raises:
            InvalidRequestError: They are.
        """
        if threshold is not None and not 0 <= threshold <= 1:
            raise InvalidRequestError("threshold must be between 0 and 1")
        if top_k is not None and not 1 <= top_k <= len(self.genres):
            raise InvalidRequestError(f"top_k must be between 1 and {len(self.genres)}, the number of genres")

    def _predict_batch(
        self, sources: Sequence[ImageSource], threshold: float | None, top_k: int | None
    ) -> list[Prediction]:
        self.check_options(threshold, top_k)
        return self._answer([self.read(source) for source in sources], threshold, top_k)

    def _predict_or_fail(
        self, sources: Sequence[ImageSource], threshold: float | None, top_k: int | None
    ) -> list[Prediction | ImageError]:
        """Read what can be read, answer it as one batch, and put the errors where they belong."""
        read: list[Picture | ImageError] = []
        for source in sources:
            try:
                read.append(self.read(source))
            except ImageError as error:
                read.append(error)
        answers = iter(self._answer([item for item in read if isinstance(item, Picture)], threshold, top_k))
        return [item if isinstance(item, ImageError) else next(answers) for item in read]

    def _answer(self, pictures: Sequence[Picture], threshold: float | None, top_k: int | None) -> list[Prediction]:
        if not pictures:
            return []
        outputs = self.run(np.stack([picture.pixels for picture in pictures]))
        return [self.judge(*row, threshold=threshold, top_k=top_k) for row in zip(*outputs, strict=True)]

    def judge(
        self,
        probabilities: NDArray[np.float32],
        embedding: NDArray[np.float32],
        threshold: float | None = None,
        top_k: int | None = None,
    ) -> Prediction:
        """What one row of the graph's outputs says.

        Args:
            probabilities: `[G]`.
            embedding: `[D]`.
            threshold: As in `predict`.
            top_k: As in `predict`.
        """
        reached = probabilities >= (self._thresholds if threshold is None else np.float32(threshold))
        ranking = np.argsort(-probabilities, kind="stable").tolist()

        def scores(places: Iterable[int]) -> tuple[GenreScore, ...]:
            return tuple(GenreScore(self.genres[i], float(probabilities[i])) for i in places)

        return Prediction(
            predicted=scores(i for i in ranking if reached[i]),
            topk=scores(ranking[: top_k or DEFAULT_TOP_K]),
            probabilities=probabilities,
            embedding=embedding,
            model_name=self.metadata.name,
            model_version=self.metadata.version,
        )


def load_predictor(
    ref: str | Path = STARTER,
    *,
    limits: ImageLimits = DEFAULT_LIMITS,
    threads: int | None = None,
    precision: Precision = "fp32",
) -> Predictor:
    """Load a bundle and make it ready to answer.

    Args:
        ref: A folder, a `.tar.gz`, `starter`, or a `gs://` address.
        limits: What is accepted as a poster.
        threads: Worker threads for lists; default: the cores that this process may use.
        precision: `fp32`, or `int8` where the bundle holds such a graph.

    Raises:
        BundleError: The bundle cannot be used; its subclass says why.
    """
    return Predictor(load_bundle(ref), limits, threads, precision)


def map_batches(
    function: Callable[[Sequence[_Item]], Sequence[_Result]],
    items: Iterable[_Item],
    threads: int,
    batch_size: int = _BATCH,
) -> Iterator[_Result]:
    """Apply `function` to batches of `items` on `threads` threads; results in order, a bounded number in flight."""
    remaining = iter(items)
    in_flight: deque[Future[Sequence[_Result]]] = deque()
    pool = ThreadPoolExecutor(threads, thread_name_prefix="onesheet")
    try:
        while batch := list(islice(remaining, batch_size)):
            in_flight.append(pool.submit(function, batch))
            if len(in_flight) > 2 * threads:
                yield from in_flight.popleft().result()
        while in_flight:
            yield from in_flight.popleft().result()
    finally:
        # After an error or an interrupt nobody wants the rest.
        pool.shutdown(cancel_futures=True)


def usable_cores() -> int:
    """Cores that this process may use: its CPU affinity, cut to the container's quota (cgroup v2)."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        return cores if quota == "max" else max(1, min(cores, int(quota) // int(period)))
    except (OSError, ValueError):
        return cores


def run_options() -> Any:
    """ONNX Runtime's switch for the runs that are given it: `terminate = True` ends them."""
    import onnxruntime as ort

    return ort.RunOptions()


def open_session(model: bytes) -> Any:
    """Start ONNX Runtime on a graph: one thread a call, no telemetry, nothing printed.

    Raises:
        BundleCorruptError: ONNX Runtime cannot run it.
    """
    # ONNX Runtime reports usage and writes under the home folder unless told not to before it is imported.
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 4
    # A graph may name files to take its weights from. That of a bundle holds its own; it shall read no others.
    options.add_session_config_entry("session.model_external_initializers_file_folder_path", os.devnull)
    try:
        return ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    except Exception as error:
        raise BundleCorruptError("the model of the bundle is not a graph that ONNX Runtime can run") from error
