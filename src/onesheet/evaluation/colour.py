"""What colours alone tell: logistic regression on colour histograms, the baseline that does look at the poster."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np
from sklearn.linear_model import LogisticRegression

from onesheet.data.manifest import MANIFEST_FILE, Entry, Manifest, read_manifest
from onesheet.errors import DataError
from onesheet.evaluation.thresholds import thresholds_for_f1
from onesheet.image import PreprocessSpec, load_picture
from onesheet.predictor import map_batches

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from onesheet.evaluation.evaluate import Scored

_LEVELS: Final = 4  # of each channel: 64 colours
_SPEC: Final = PreprocessSpec(height=96, width=64)

DESCRIPTION: Final = (
    "each poster, resized to 64 × 96 pixels, becomes the shares of its pixels in 64 colours (4 equal steps of red × 4 "
    "of green × 4 of blue), square-rooted (Hellinger); on these, one L2-regularised logistic regression for each "
    "genre (one-vs-rest, C = 1)"
)


@dataclass(frozen=True, slots=True)
class ColourBaseline:
    """What the colour histograms say of the evaluated posters.

    Attributes:
        probabilities: float64 `[N, G]`, 0-1.
        decisions: bool `[N, G]`.
        train: Posters it was fitted on.
        validation: Posters that its thresholds were chosen on.
        seen: How many of the evaluated posters are among either.
        fingerprint: Of the manifest that they came from.
    """

    probabilities: NDArray[np.float64]
    decisions: NDArray[np.bool_]
    train: int
    validation: int
    seen: int
    fingerprint: str


def colour_baseline(
    scored: Scored,
    processed: Path,
    raw: Path,
    threads: int,
    on_poster: Callable[[int, int], None],
) -> ColourBaseline:
    """Fit on the manifest's training posters, choose thresholds on its validation posters, answer the evaluated ones.

    Thresholds are chosen by the rule of every bundle, `thresholds_for_f1`; no evaluated poster takes part.

    Args:
        scored: The posters to answer.
        processed: Folder of the manifest.
        raw: Folder that the manifest's pictures are relative to.
        threads: Worker threads.
        on_poster: Called with (done, total) as posters are read.

    Raises:
        DataError: The manifest or its posters are not there.
    """
    manifest = read_manifest(processed / MANIFEST_FILE, raw)
    train, validation = manifest.split("train"), manifest.split("validation")
    if not train.entries or not validation.entries:
        raise DataError("the manifest has no training or no validation posters")
    posters: list[Entry | Path] = [*train.entries, *validation.entries, *scored.paths]
    histograms = _read(manifest, posters, threads, on_poster)
    fit_on, choose_on, answer_on = np.split(histograms, np.cumsum([len(train.entries), len(validation.entries)]))

    truth = _targets(train, scored.genres)
    probabilities = _fit_and_answer(fit_on, truth, np.concatenate([choose_on, answer_on]))
    chosen, answers = np.split(probabilities, [len(choose_on)])
    thresholds = thresholds_for_f1(chosen)
    used = {entry.id for entry in (*train.entries, *validation.entries)}
    return ColourBaseline(
        probabilities=answers,
        # A genre that no training poster has is never said, though its probability reaches its threshold: both are 0.
        decisions=(answers >= thresholds) & truth.any(axis=0),
        train=len(train.entries),
        validation=len(validation.entries),
        seen=len(used.intersection(scored.ids)),
        fingerprint=manifest.fingerprint,
    )


def colour_histogram(pixels: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Square roots of the shares of pixels in each of 64 colours.

    Args:
        pixels: uint8 `[H, W, 3]`, RGB.

    Returns:
        float64 `[64]`, red slowest; its squares sum to 1.
    """
    red, green, blue = np.moveaxis(pixels.astype(int) * _LEVELS // 256, -1, 0)
    colour = (red * _LEVELS + green) * _LEVELS + blue
    counts = np.bincount(colour.ravel(), minlength=_LEVELS**3)
    roots: NDArray[np.float64] = np.sqrt(counts / colour.size)
    return roots


def _read(
    manifest: Manifest, posters: Sequence[Entry | Path], threads: int, on_poster: Callable[[int, int], None]
) -> NDArray[np.float64]:
    """Histograms `[N, 64]` of posters of the manifest, or of any others."""

    def histogram(poster: Entry | Path) -> NDArray[np.float64]:
        picture = manifest.load(poster, _SPEC) if isinstance(poster, Entry) else load_picture(poster, _SPEC)
        return colour_histogram(picture.pixels)

    histograms = np.empty((len(posters), _LEVELS**3))
    for i, row in enumerate(map_batches(lambda batch: [histogram(poster) for poster in batch], posters, threads)):
        histograms[i] = row
        on_poster(i + 1, len(posters))
    return histograms


def _fit_and_answer(
    histograms: NDArray[np.float64], targets: NDArray[np.bool_], others: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Probabilities `[M, G]` of other histograms `[M, 64]`; a genre that all or none have keeps its frequency."""
    probabilities = np.empty((len(others), targets.shape[1]))
    for genre, truth in enumerate(targets.T):
        if truth.all() or not truth.any():
            probabilities[:, genre] = truth[0]
        else:
            model = LogisticRegression(C=1.0, max_iter=1000).fit(histograms, truth)
            probabilities[:, genre] = model.predict_proba(others)[:, 1]
    return probabilities


def _targets(manifest: Manifest, genres: Sequence[str]) -> NDArray[np.bool_]:
    """In the bundle's order of genres, which may differ from the manifest's."""
    return np.array([[genre in entry.genres for genre in genres] for entry in manifest.entries], dtype=bool)
