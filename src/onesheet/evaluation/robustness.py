"""How much a model loses when posters look worse than those it was made with.

Graded corruptions after Hendrycks and Dietterich (2019): each at severity 1 (hardly to be seen) to 5 (hard even for a
person), measured against the untouched posters. What a camera, a scan, or a careless thumbnail does, on purpose.
"""

from __future__ import annotations

import io
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from PIL import Image, ImageEnhance, ImageFilter

from onesheet.evaluation.slices import summary_metrics
from onesheet.image import PreprocessSpec, decode, read_bytes, to_rgb
from onesheet.predictor import Predictor, map_batches

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from onesheet.evaluation.evaluate import Scored

# Corrupted versions of one poster that go through the network together.
_BATCH: Final = 8


@dataclass(frozen=True, slots=True)
class Corruption:
    """A way to spoil a picture.

    Attributes:
        apply: `(image, amount, random)` to a new RGB image of the same size.
        amounts: How much, at severity 1, 2, …
        quantity: What an amount is.
    """

    apply: Callable[[Image.Image, float, np.random.Generator], Image.Image]
    amounts: tuple[float, ...]
    quantity: str


def _blur(image: Image.Image, amount: float, _: np.random.Generator) -> Image.Image:
    return image.filter(ImageFilter.GaussianBlur(amount * min(image.size)))


def _noise(image: Image.Image, amount: float, random: np.random.Generator) -> Image.Image:
    samples = np.asarray(image, np.float32)
    noisy = samples + 255 * amount * random.standard_normal(samples.shape, np.float32)
    return Image.fromarray(noisy.round().clip(0, 255).astype(np.uint8))


def _brightness(image: Image.Image, amount: float, _: np.random.Generator) -> Image.Image:
    return ImageEnhance.Brightness(image).enhance(amount)


def _contrast(image: Image.Image, amount: float, _: np.random.Generator) -> Image.Image:
    return ImageEnhance.Contrast(image).enhance(amount)


def _jpeg(image: Image.Image, amount: float, _: np.random.Generator) -> Image.Image:
    file = io.BytesIO()
    image.save(file, "JPEG", quality=int(amount))
    return Image.open(file).convert("RGB")


def _crop(image: Image.Image, amount: float, _: np.random.Generator) -> Image.Image:
    width, height = image.size
    box = (amount * width, amount * height, (1 - amount) * width, (1 - amount) * height)
    return image.resize(image.size, Image.Resampling.BILINEAR, box)


def _rotation(image: Image.Image, amount: float, _: np.random.Generator) -> Image.Image:
    # The poster's own mean colour in the corners: black or white ones would be a second corruption.
    mean = image.resize((1, 1), Image.Resampling.BOX).getpixel((0, 0))
    return image.rotate(amount, Image.Resampling.BILINEAR, fillcolor=mean)


def _greyscale(image: Image.Image, _amount: float, _: np.random.Generator) -> Image.Image:
    return image.convert("L").convert("RGB")


CORRUPTIONS: Final = {
    "blur": Corruption(_blur, (0.003, 0.006, 0.01, 0.015, 0.025), "Gaussian radius / shorter side"),
    "noise": Corruption(_noise, (0.04, 0.08, 0.12, 0.18, 0.26), "Gaussian sigma / full range"),
    "darker": Corruption(_brightness, (0.85, 0.7, 0.5, 0.35, 0.2), "factor on every sample"),
    "lighter": Corruption(_brightness, (1.2, 1.4, 1.7, 2.1, 2.6), "factor on every sample"),
    "contrast": Corruption(_contrast, (0.8, 0.6, 0.4, 0.3, 0.2), "factor around the mean grey"),
    "jpeg": Corruption(_jpeg, (50, 30, 20, 12, 7), "quality"),
    "crop": Corruption(_crop, (0.02, 0.05, 0.1, 0.15, 0.2), "share cut off each edge"),
    "rotation": Corruption(_rotation, (2, 5, 8, 13, 20), "degrees"),
    "greyscale": Corruption(_greyscale, (1,), "all colour gone"),
}
"""Their order is that of the report."""

_GRADED: Final = {name for name, kind in CORRUPTIONS.items() if len(kind.amounts) > 1}
ALL_VARIANTS: Final = [
    (name, severity) for name, kind in CORRUPTIONS.items() for severity, _ in enumerate(kind.amounts, 1)
]


def corrupt(image: Image.Image, name: str, severity: int, seed: int) -> Image.Image:
    """A corrupted RGB picture of the same size; the same arguments always give the same pixels.

    Args:
        image: RGB.
        name: One of `CORRUPTIONS`.
        severity: From 1 on.
        seed: Of the noise; it is the same at every severity, only stronger.
    """
    kind = CORRUPTIONS[name]
    return kind.apply(image, kind.amounts[severity - 1], np.random.default_rng(seed))


def robustness(
    predictor: Predictor,
    scored: Scored,
    on_poster: Callable[[int, int], None],
    variants: Sequence[tuple[str, int]] = ALL_VARIANTS,
) -> dict[str, Any]:
    """Metrics on the untouched posters and on corrupted versions of them.

    Each poster is decoded once, and its versions are made and answered a few at a time; what is kept are the
    probabilities, about 4 bytes x versions x G a poster.

    Args:
        predictor: The model; its threads are used.
        scored: The posters, and the thresholds that decide.
        on_poster: Called with (done, total).
        variants: Corruptions with their severities; default: all 41.

    Returns:
        `untouched`: metrics; `corrupted`: a list of `corruption`, `severity`, `amount`, `quantity` and metrics;
        `worst` and `worst_mild`: those with the lowest mAP, of all and of the graded ones at severity 1 (None without
        mAP).

    Raises:
        ImageError: A picture cannot be read any more.
    """
    posters = list(zip(scored.ids, scored.paths, strict=True))

    def answer(poster: tuple[str, Path]) -> NDArray[np.float32]:
        return _answer_versions(predictor, variants, *poster)

    probabilities = np.empty((len(posters), len(variants), len(scored.genres)), np.float32)
    versions = map_batches(lambda batch: [answer(poster) for poster in batch], posters, predictor.threads, 1)
    for i, row in enumerate(versions):
        probabilities[i] = row
        on_poster(i + 1, len(posters))
    corrupted: list[dict[str, Any]] = [
        {
            "corruption": name,
            "severity": severity,
            "amount": CORRUPTIONS[name].amounts[severity - 1],
            "quantity": CORRUPTIONS[name].quantity,
            **summary_metrics(version, scored.targets, version >= scored.thresholds),
        }
        for (name, severity), version in zip(variants, probabilities.swapaxes(0, 1), strict=True)
    ]
    ranked = sorted((row for row in corrupted if row["map_macro"] is not None), key=lambda row: row["map_macro"])
    return {
        "untouched": summary_metrics(scored.probabilities, scored.targets, scored.decisions),
        "corrupted": corrupted,
        "worst": next(iter(ranked), None),
        "worst_mild": next((row for row in ranked if row["severity"] == 1 and row["corruption"] in _GRADED), None),
    }


def _answer_versions(
    predictor: Predictor, variants: Sequence[tuple[str, int]], film: str, path: Path
) -> NDArray[np.float32]:
    """Probabilities `[V, G]` of corrupted versions of one poster."""
    image = _read(path, predictor)
    seed = zlib.crc32(film.encode())
    answers = []
    for start in range(0, len(variants), _BATCH):
        batch = variants[start : start + _BATCH]
        pixels = [predictor.read(corrupt(image, name, severity, seed)).pixels for name, severity in batch]
        answers.append(predictor.run(np.stack(pixels))[0])
    return np.concatenate(answers)


def _read(path: Path, predictor: Predictor) -> Image.Image:
    """Decode a poster, shrunk by the whole factors by which preprocessing would shrink it first.

    So a poster of 20 megapixels costs no more than others, and amounts mean the same whatever its size.
    """
    spec: PreprocessSpec = predictor.metadata.preprocess
    width, height = round(spec.width * spec.reducing_gap), round(spec.height * spec.reducing_gap)
    image = to_rgb(decode(read_bytes(path, predictor.limits), predictor.limits, at_least=(width, height)))
    return image.reduce((max(1, image.width // width), max(1, image.height // height)))
