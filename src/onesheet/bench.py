"""What this machine can do: decoding alone, the model alone, both, and the whole way through the predictor."""

from __future__ import annotations

import io
import itertools
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from PIL import Image

from onesheet.errors import DataError, ImageError
from onesheet.image import PICTURE_SUFFIXES
from onesheet.predictor import Predictor, map_batches
from onesheet.system_files import is_system_name

_SAMPLE: Final = 64
_LATENCY_RUNS: Final = 50


@dataclass(frozen=True, slots=True)
class BenchResult:
    """Rates in posters a second over all threads, latencies in milliseconds on one.

    Attributes:
        threads: Worker threads.
        posters: Different posters in the sample.
        decode_per_s: Bytes to pixels, nothing else.
        model_per_s: The graph alone, on pixels in memory.
        decode_model_per_s: Both in a bare loop: what the machine allows.
        end_to_end_per_s: Files to predictions, as `predict` and `evaluate` do it.
        decode_ms: Median of one poster.
        model_ms: Median of one poster.
        predict_ms: Median of one poster from bytes to prediction.
    """

    threads: int
    posters: int
    decode_per_s: float
    model_per_s: float
    decode_model_per_s: float
    end_to_end_per_s: float
    decode_ms: float
    model_ms: float
    predict_ms: float

    def to_dict(self) -> dict[str, Any]:
        """As JSON."""
        return asdict(self)

    def to_text(self) -> str:
        """As a table."""
        share = self.end_to_end_per_s / self.decode_model_per_s
        return "\n".join(
            [
                f"{self.posters} posters, {self.threads} threads",
                f"  decode alone     {self.decode_per_s:8.0f} posters/s   {self.decode_ms:6.2f} ms",
                f"  model alone      {self.model_per_s:8.0f} posters/s   {self.model_ms:6.2f} ms",
                f"  decode + model   {self.decode_model_per_s:8.0f} posters/s",
                f"  end to end       {self.end_to_end_per_s:8.0f} posters/s   {self.predict_ms:6.2f} ms",
                f"end to end is {share:.0%} of decode + model",
            ]
        )


def run_bench(predictor: Predictor, images: Path | None, seconds: float) -> BenchResult:
    """Measure a predictor on this machine.

    Args:
        predictor: With the bundle to measure.
        images: Folder of posters; default: made-up ones.
        seconds: How long each rate is measured.

    Raises:
        DataError: The folder holds no posters, or one that cannot be read.
    """
    encoded = sample_posters(images, predictor)
    pixels = [predictor.read(data).pixels for data in encoded]

    def decode(batch: Sequence[bytes]) -> list[object]:
        return [predictor.read(data) for data in batch]

    def model(batch: Sequence[Any]) -> list[object]:
        predictor.run(np.stack(batch))
        return list(batch)

    def decode_model(batch: Sequence[bytes]) -> list[object]:
        return model([predictor.read(data).pixels for data in batch])

    def rate(function: Callable[[Sequence[Any]], Sequence[object]], items: list[Any]) -> float:
        return _rate(lambda stream: map_batches(function, stream, predictor.threads), items, seconds)

    return BenchResult(
        threads=predictor.threads,
        posters=len(encoded),
        decode_per_s=rate(decode, encoded),
        model_per_s=rate(model, pixels),
        decode_model_per_s=rate(decode_model, encoded),
        end_to_end_per_s=_rate(predictor.predict_each, encoded, seconds),
        decode_ms=_median_ms(predictor.read, encoded),
        model_ms=_median_ms(predictor.run, [image[None] for image in pixels]),
        predict_ms=_median_ms(predictor.predict, encoded),
    )


def sample_posters(images: Path | None, predictor: Predictor) -> list[bytes]:
    """Encoded posters of a folder, or made-up ones.

    Raises:
        DataError: The folder holds no posters, or one that cannot be read.
    """
    if images is None:
        return _made_up_posters()
    named = (path for path in images.glob("*") if path.suffix.lower() in PICTURE_SUFFIXES)
    paths = sorted(path for path in named if not is_system_name(path.name))[:_SAMPLE]
    if not paths:
        raise DataError(f"no posters in {images}")
    sample = []
    for path in paths:
        try:
            predictor.read(path)
        except ImageError as error:
            raise DataError(f"{path}: {error.message}") from error
        sample.append(path.read_bytes())
    return sample


def _made_up_posters() -> list[bytes]:
    """JPEGs with the size and detail of ordinary posters: blurred noise in colour."""
    rng = np.random.default_rng(0)
    posters = []
    for _ in range(_SAMPLE):
        coarse = Image.fromarray(rng.integers(0, 256, (56, 38, 3), np.uint8))
        buffer = io.BytesIO()
        coarse.resize((300, 444), Image.Resampling.BICUBIC).save(buffer, "JPEG", quality=90)
        posters.append(buffer.getvalue())
    return posters


def _rate(run: Callable[[Any], Any], items: list[Any], seconds: float) -> float:
    """Items a second of a streaming function over an endless cycle of items, after a warm-up."""
    for _ in run(items[:8]):
        continue
    start = time.perf_counter()
    done = 0
    endless = itertools.takewhile(lambda _: time.perf_counter() - start < seconds, itertools.cycle(items))
    for _ in run(endless):
        done += 1
    return done / (time.perf_counter() - start)


def _median_ms(function: Callable[[Any], object], items: Sequence[Any]) -> float:
    times = []
    for item in itertools.islice(itertools.cycle(items), _LATENCY_RUNS):
        start = time.perf_counter()
        function(item)
        times.append(time.perf_counter() - start)
    return float(np.median(times)) * 1e3
