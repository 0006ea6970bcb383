"""Everything that a report says, as numbers."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from onesheet.bundle import Bundle, Precision
from onesheet.errors import DataError
from onesheet.evaluation.bootstrap import LEVEL, RESAMPLES, SEED, Resampled, bootstrap, interval
from onesheet.evaluation.colour import DESCRIPTION, ColourBaseline, colour_baseline
from onesheet.evaluation.evaluate import Evaluation, Scored
from onesheet.evaluation.metrics import multilabel_metrics, reliability_bins
from onesheet.evaluation.posters import best_and_worst
from onesheet.evaluation.robustness import robustness
from onesheet.evaluation.slices import cut_slices, poster_facts, slice_metrics
from onesheet.predictor import Predictor

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

Progress: TypeAlias = Callable[[str], AbstractContextManager[Callable[[int, int | None], None]]]
"""`with progress("What is done") as advance: … advance(done, total)`."""


@dataclass(frozen=True, slots=True)
class ReportOptions:
    """What a report is about.

    Attributes:
        split: Split of the manifest that was evaluated; None: all posters of the label file.
        processed: Folder of the manifest with the training posters of the colour-histogram baseline.
        raw: Folder that its pictures are relative to.
        posters: Show pictures of posters; without them the report may be passed on.
        robustness: Measure corrupted posters too.
        threads: Worker threads; default: the cores that this process may use.
        precision: Which graph of the bundle answers.
    """

    split: str | None
    processed: Path
    raw: Path
    posters: bool = True
    robustness: bool = True
    threads: int | None = None
    precision: Precision = "fp32"


def findings(evaluation: Evaluation, bundle: Bundle, options: ReportOptions, progress: Progress) -> dict[str, Any]:
    """The JSON contract of `onesheet evaluate`, and all that the report adds to it; fit for JSON.

    Args:
        evaluation: Of the bundle.
        bundle: The model.
        options: What to measure.
        progress: Shows each of the long steps.

    Raises:
        ImageError: A poster that was scored cannot be read any more.
    """
    scored = evaluation.scored
    predictor = Predictor(bundle, threads=options.threads, precision=options.precision)
    resampled = bootstrap(scored.probabilities, scored.targets, scored.decisions)
    colour = _colour_histogram(evaluation, bundle, resampled, options, predictor.threads, progress)
    with progress("Measuring posters") as advance:
        facts = poster_facts(scored.paths, predictor.metadata.preprocess, predictor.threads, advance)
    corrupted = None
    if options.robustness:
        with progress("Corrupting posters") as advance:
            corrupted = robustness(predictor, scored, advance)
    return {
        **evaluation.to_dict(),
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "split": options.split,
        "note": evaluation.note,
        "fingerprint": bundle.metadata.data.fingerprint,
        "thresholds": dict(bundle.metadata.thresholds),
        "bootstrap": {"resamples": RESAMPLES, "level": LEVEL, "seed": SEED},
        "intervals": _intervals(resampled, scored),
        "colour_histogram": colour,
        "reliability": reliability_bins(scored.probabilities, scored.targets),
        "co_occurrence": {
            "true": shares_by_genre(scored.targets, scored.targets),
            "answered": shares_by_genre(scored.targets, scored.decisions),
        },
        "slices": slice_metrics(scored, cut_slices(facts)),
        "robustness": corrupted,
        **best_and_worst(scored),
    }


def shares_by_genre(targets: NDArray[np.bool_], flags: NDArray[np.bool_]) -> list[list[float | None]]:
    """Of the posters with the row's genre, the share that the column's flag is set for; None without such posters."""
    posters = targets.sum(axis=0)
    together = targets.T.astype(float) @ flags
    return [
        (row / count).tolist() if count else [None] * len(row) for row, count in zip(together, posters, strict=True)
    ]


def _intervals(resampled: Resampled, scored: Scored) -> dict[str, Any]:
    return {
        "metrics": {name: interval(values) for name, values in resampled.metrics.items()},
        "per_genre": {
            genre: {
                "f1": interval(resampled.f1[:, i]),
                "average_precision": interval(resampled.average_precision[:, i]),
            }
            for i, genre in enumerate(scored.genres)
        },
    }


def _colour_histogram(
    evaluation: Evaluation,
    bundle: Bundle,
    resampled: Resampled,
    options: ReportOptions,
    threads: int,
    progress: Progress,
) -> dict[str, Any]:
    """The baseline and the model's lead over it, or in `left_out` why it is not there."""
    try:
        with progress("Fitting the baseline on colours") as advance:
            colour = colour_baseline(evaluation.scored, options.processed, options.raw, threads, advance)
    except DataError as error:
        return {"left_out": error.message}
    return {
        "left_out": None,
        "description": DESCRIPTION,
        "train": colour.train,
        "validation": colour.validation,
        "seen": colour.seen,
        "same_data": colour.fingerprint == bundle.metadata.data.fingerprint,
        **_compared(evaluation, colour, resampled),
    }


def _compared(evaluation: Evaluation, colour: ColourBaseline, resampled: Resampled) -> dict[str, Any]:
    """The baseline's metrics, and how far the model's are above them on the same resamples."""
    scored = evaluation.scored
    measured = multilabel_metrics(colour.probabilities, scored.targets, colour.decisions, scored.genres)
    theirs = bootstrap(colour.probabilities, scored.targets, colour.decisions).metrics
    metrics = {name: measured[name] for name in theirs}
    return {
        "metrics": metrics,
        "intervals": {name: interval(values) for name, values in theirs.items()},
        "difference": {
            name: None if value is None else evaluation.metrics[name] - value for name, value in metrics.items()
        },
        "difference_intervals": {name: interval(resampled.metrics[name] - values) for name, values in theirs.items()},
    }
