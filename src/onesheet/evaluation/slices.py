"""Whether a model serves some kinds of poster worse than others."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from onesheet.evaluation.bootstrap import bootstrap, interval
from onesheet.evaluation.metrics import expected_calibration_error, f1, mean_average_precision
from onesheet.image import PreprocessSpec, load_picture
from onesheet.image_statistics import image_statistics
from onesheet.predictor import map_batches

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from onesheet.evaluation.evaluate import Scored

SMALLEST: Final = 30
SUMMARY: Final = ("map_macro", "f1_macro", "f1_micro", "ece")

_FACTS: Final = ("colourfulness", "brightness", "aspect", "width", "height")

# Hasler and Suesstrunk (2003) call 15 "slightly colourful" and 0 "not colourful".
_GREYSCALE: Final = 15.0

# Width / height. A one-sheet is 27 x 40 inches (0.675), a print mostly 24 x 36 (0.667).
_USUAL_ASPECT: Final = (0.65, 0.72)


@dataclass(frozen=True, slots=True)
class Slice:
    """Posters of one kind.

    Attributes:
        by: What the posters are told apart by.
        name: Of this kind.
        rule: Exactly which posters are meant.
        posters: bool `[N]`.
    """

    by: str
    name: str
    rule: str
    posters: NDArray[np.bool_]


def poster_facts(
    paths: Sequence[Path], spec: PreprocessSpec, threads: int, on_poster: Callable[[int, int], None]
) -> dict[str, NDArray[np.float64]]:
    """What slices are cut by, as production measures it (`image_statistics`); float64 `[N]` each.

    Raises:
        ImageError: A picture cannot be read any more.
    """

    def read(batch: Sequence[Path]) -> list[list[float]]:
        statistics = image_statistics([load_picture(path, spec) for path in batch])
        return [[row[name] for name in _FACTS] for row in statistics]

    rows = np.empty((len(paths), len(_FACTS)))
    for i, row in enumerate(map_batches(read, paths, threads)):
        rows[i] = row
        on_poster(i + 1, len(paths))
    return dict(zip(_FACTS, rows.T, strict=True))


def cut_slices(facts: Mapping[str, NDArray[np.float64]]) -> list[Slice]:
    """Slices by colour, brightness, shape and size; those of one kind hold every poster once.

    Terciles are those of the evaluated posters. Where many posters share a value they stay together, so that a tercile
    may hold more or less than a third.
    """
    grey = facts["colourfulness"] < _GREYSCALE
    low, high = _USUAL_ASPECT
    aspect = facts["aspect"]
    return [
        Slice("colour", "greyscale or nearly", f"colourfulness < {_GREYSCALE:g}", grey),
        Slice("colour", "in colour", f"colourfulness ≥ {_GREYSCALE:g}", ~grey),
        *_terciles("brightness", ("dark", "medium", "bright"), facts["brightness"], "mean luma", ".2f"),
        Slice("aspect", "narrow", f"width / height < {low}", aspect < low),
        Slice("aspect", "usual", f"{low} ≤ width / height ≤ {high}", (aspect >= low) & (aspect <= high)),
        Slice("aspect", "wide", f"width / height > {high}", aspect > high),
        *_terciles("size", ("small", "medium", "large"), facts["width"] * facts["height"], "pixels", ",.0f"),
    ]


def slice_metrics(scored: Scored, slices: Sequence[Slice]) -> list[dict[str, Any]]:
    """Metrics of each slice, with intervals.

    Returns:
        `by`, `name`, `rule`, `n`, `genres` (that have a poster in the slice), and each metric of `SUMMARY` with its
        interval under `intervals`; these are None where fewer than 30 posters would have to carry them.
    """
    return [_slice_metrics(scored, part) for part in slices]


def summary_metrics(
    probabilities: NDArray[np.floating], targets: NDArray[np.bool_], predicted: NDArray[np.bool_]
) -> dict[str, float | None]:
    """The metrics of `SUMMARY`, defined as in `multilabel_metrics`."""
    return {
        "map_macro": mean_average_precision(probabilities, targets),
        "f1_macro": float(f1(targets, predicted, axis=0).mean()),
        "f1_micro": float(f1(targets, predicted, axis=None)),
        "ece": expected_calibration_error(probabilities, targets),
    }


def _slice_metrics(scored: Scored, part: Slice) -> dict[str, Any]:
    mine = scored.probabilities[part.posters], scored.targets[part.posters], scored.decisions[part.posters]
    n = len(mine[1])
    about = {
        "by": part.by,
        "name": part.name,
        "rule": part.rule,
        "n": n,
        "genres": int(mine[1].any(axis=0).sum()),
    }
    if n < SMALLEST:
        return {**about, **dict.fromkeys(SUMMARY), "intervals": dict.fromkeys(SUMMARY)}
    resampled = bootstrap(*mine).metrics
    return {**about, **summary_metrics(*mine), "intervals": {name: interval(resampled[name]) for name in SUMMARY}}


def _terciles(
    by: str, names: tuple[str, str, str], values: NDArray[np.float64], quantity: str, style: str
) -> list[Slice]:
    low, high = np.quantile(values, [1 / 3, 2 / 3])
    third = np.digitize(values, [low, high])
    first, second = f"{low:{style}}", f"{high:{style}}"
    rules = (f"{quantity} < {first}", f"{first} ≤ {quantity} < {second}", f"{quantity} ≥ {second}")
    return [Slice(by, name, rule, third == i) for i, (name, rule) in enumerate(zip(names, rules, strict=True))]
