"""How often drift is found where there is none, and where there is: windows of the starter's own test posters.

uv run --all-extras python benchmarks/drift.py data/raw --draws 200
"""

from __future__ import annotations

import argparse
import io
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import uuid4

import numpy as np
from matplotlib.cbook import get_sample_data
from PIL import Image, ImageDraw, ImageEnhance, ImageFilter
from sklearn.datasets import load_sample_images

from onesheet import Predictor, load_predictor
from onesheet.bundle import load_bundle
from onesheet.data.prepare import prepare
from onesheet.image_statistics import image_statistics
from onesheet.monitoring.drift import find_drift
from onesheet.predictionlog import DriftRuns, LoggedPrediction, PredictionLog

NOW = datetime.now(UTC)
CHANGES: dict[str, Callable[[Image.Image], Image.Image]] = {
    "encoded again": lambda poster: poster,
    "darkened to 70 %": lambda poster: ImageEnhance.Brightness(poster).enhance(0.7),
    "darkened to 85 %": lambda poster: ImageEnhance.Brightness(poster).enhance(0.85),
    "blurred by 1 pixel": lambda poster: poster.filter(ImageFilter.GaussianBlur(1)),
    "blurred by half a pixel": lambda poster: poster.filter(ImageFilter.GaussianBlur(0.5)),
    "greyscale": lambda poster: poster.convert("L"),
    # Without its lettering.
    "the middle alone": lambda poster: poster.crop(
        tuple(round(side * part) for side, part in zip(poster.size * 2, (0.25, 0.25, 0.75, 0.6), strict=True))
    ),
}
# Shares of a window that are of one genre.
MIXES = {
    "Comedy alone": ("Comedy", 1.0),
    "Action alone": ("Action", 1.0),
    "Romance alone": ("Romance", 1.0),
    "half of it Horror": ("Horror", 0.5),
    "half of it Documentary": ("Documentary", 0.5),
    "no Drama": ("Drama", 0.0),
}


WORDS = "the of a film and its poster in light over night river house without more than letters to see"


def photographs(sizes: list[tuple[int, int]], rng: np.random.Generator) -> list[bytes]:
    """Parts of those that come with scikit-learn and matplotlib, in these sizes."""
    whole = [Image.fromarray(picture) for picture in load_sample_images().images]
    with get_sample_data("grace_hopper.jpg") as file:
        whole.append(Image.open(file).convert("RGB"))

    def part(width: int, height: int) -> Image.Image:
        picture = whole[rng.integers(len(whole))]
        scale = rng.uniform(0.4, 1) * min(picture.width / width, picture.height / height)
        wide, high = width * scale, height * scale
        left, top = rng.uniform(0, picture.width - wide), rng.uniform(0, picture.height - high)
        return picture.resize((width, height), box=(left, top, left + wide, top + high))

    return [encoded(part(*size)) for size in sizes]


def pages(sizes: list[tuple[int, int]], rng: np.random.Generator) -> list[bytes]:
    """Black letters on white, in these sizes."""

    def page(size: tuple[int, int]) -> Image.Image:
        paper = Image.new("RGB", size, "white")
        lines = [" ".join(rng.choice(WORDS.split(), 7)) for _ in range(int(rng.integers(10, 30)))]
        ImageDraw.Draw(paper).multiline_text((20, 20), "\n".join(lines), fill="black")
        return paper

    return [encoded(page(size)) for size in sizes]


def answers(predictor: Predictor, pictures: list[bytes]) -> list[LoggedPrediction]:
    """What the log would hold of them."""
    found = predictor.predict(pictures)
    return [
        LoggedPrediction(
            id=uuid4(),
            time=NOW,
            role="answered",
            model_name=prediction.model_name,
            model_version=prediction.model_version,
            genres=predictor.genres,
            probabilities=prediction.probabilities,
            embedding=prediction.embedding,
            threshold=None,
            predicted=tuple(score.label for score in prediction.predicted),
            statistics=image_statistics([predictor.read(picture)])[0],
            latency_ms=0.0,
            file_name=None,
            content_sha256=uuid4().hex * 2,
            request_id=None,
        )
        for picture, prediction in zip(pictures, found, strict=True)
    ]


def encoded(poster: Image.Image) -> bytes:
    buffer = io.BytesIO()
    poster.convert("RGB").save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


def verdicts(log: PredictionLog, windows: list[list[LoggedPrediction]]) -> tuple[Counter[str], Counter[str]]:
    """Of each window alone; and how often each column drifted."""
    bundle, found, columns = load_bundle("starter"), Counter[str](), Counter[str]()
    for number, window in enumerate(windows):
        moment = NOW + timedelta(hours=number)
        log.append([LoggedPrediction(**{**_fields(one), "id": uuid4(), "time": moment}) for one in window])
        drift = find_drift(log, bundle, moment, moment + timedelta(minutes=1))
        found[drift.verdict] += 1
        columns.update(column.name for column in drift.columns if column.verdict == "drift")
    log.delete_before(NOW + timedelta(days=10_000))
    assert DriftRuns(log).latest()
    return found, columns


def _drawn(
    parts: list[tuple[list[LoggedPrediction], float]], size: int, rng: np.random.Generator
) -> list[LoggedPrediction]:
    """Of each part a share, no poster twice; fewer where there are no more."""
    return [
        part[place]
        for part, share in parts
        for place in rng.choice(len(part), min(round(size * share), len(part)), replace=False)
    ]


def _fields(one: LoggedPrediction) -> dict[str, object]:
    return {name: getattr(one, name) for name in LoggedPrediction.__slots__}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("raw", type=Path, help="Folder of posters, with train.csv and Images/.")
    parser.add_argument("--draws", type=int, default=200)
    parser.add_argument("--size", type=int, default=200)
    parser.add_argument("--windows", nargs="*", help="Only these, by name.")
    options = parser.parse_args()
    predictor, rng = load_predictor(), np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as folder, closing(PredictionLog(f"sqlite:///{folder}/log.db")) as log:
        log.migrate()
        entries = [entry for entry in prepare(options.raw, Path(folder)).entries if entry.split == "test"]
        files = [(options.raw / entry.path).read_bytes() for entry in entries]
        posters = [Image.open(io.BytesIO(file)).convert("RGB") for file in files]
        plain = answers(predictor, files)
        pools = {"untouched": [(plain, 1.0)]}
        for name, change in CHANGES.items():
            pools[name] = [(answers(predictor, [encoded(change(one)) for one in posters]), 1.0)]
        for name, foreign in (("photographs", photographs), ("pages of text", pages)):
            others = answers(predictor, foreign([poster.size for poster in posters], rng))
            pools |= {name: [(others, 1.0)], f"a fifth {name}": [(others, 0.2), (plain, 0.8)]}
        for name, (genre, share) in MIXES.items():
            of_it = [one for one, entry in zip(plain, entries, strict=True) if genre in entry.genres]
            others = [one for one, entry in zip(plain, entries, strict=True) if genre not in entry.genres]
            pools[name] = [(of_it, share), (others, 1 - share)]
        print(f"{options.draws} windows of {options.size} of {len(entries)} test posters")
        print(f"{'window':26} {'drift':>6} {'warning':>8} {'ok':>6}  s a run; columns that drifted most often")
        for name, parts in pools.items():
            if options.windows and name not in options.windows:
                continue
            windows = [_drawn(parts, options.size, rng) for _ in range(options.draws)]
            started = time.perf_counter()
            found, columns = verdicts(log, windows)
            seconds = (time.perf_counter() - started) / options.draws
            shares = [found[verdict] / options.draws for verdict in ("drift", "warning", "ok")]
            most = ", ".join(f"{column} {count / options.draws:.0%}" for column, count in columns.most_common(4))
            print(f"{name:26} {shares[0]:6.1%} {shares[1]:8.1%} {shares[2]:6.1%}  {seconds:.2f}; {most}", flush=True)


if __name__ == "__main__":
    main()
