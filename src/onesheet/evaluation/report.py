"""A page that says how good a model is, how sure that is, and where it fails."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np

from onesheet.bundle import Bundle
from onesheet.evaluation import figures
from onesheet.evaluation.evaluate import Evaluation, Scored
from onesheet.evaluation.findings import Progress, ReportOptions, findings
from onesheet.evaluation.posters import thumbnail
from onesheet.evaluation.robustness import CORRUPTIONS
from onesheet.evaluation.slices import SMALLEST
from onesheet.files import write_whole
from onesheet.pages import render_page

PAGE: Final = "report.html"
NUMBERS: Final = "report.json"
# Parts of the numbers, flat, for programs that compare and plot them, such as DVC.
SUMMARY: Final = "metrics.json"
GENRES: Final = "genres.csv"
RELIABILITY: Final = "reliability.csv"

# Fewer positives than this, and a genre's figures are little more than anecdotes.
_FEW: Final = 10

_TITLES: Final = {
    "map_macro": "mAP (macro)",
    "auroc_macro": "AUROC (macro)",
    "f1_macro": "F1 (macro)",
    "f1_micro": "F1 (micro)",
    "f1_samples": "F1 (samples)",
    "exact_match": "exact match",
    "hamming_loss": "Hamming loss",
    "ece": "ECE",
}


def write_report(
    evaluation: Evaluation, bundle: Bundle, out: Path, options: ReportOptions, progress: Progress
) -> tuple[Path, Path]:
    """Measure what `evaluate` has not, and write it all as `report.html` and `report.json` into the folder `out`.

    The page needs nothing but itself: pictures are in it, scripts are not. Beside them lie `metrics.json`, `genres.csv`
    and `reliability.csv`, which repeat parts of the numbers. No file is ever there half-written.

    Args:
        evaluation: Of the bundle.
        bundle: The model.
        out: Folder; created if need be.
        options: What to measure and to show.
        progress: Shows each of the long steps.

    Returns:
        Paths of the page and of the numbers.

    Raises:
        ImageError: A poster that was scored cannot be read any more.
        OSError: The folder cannot be written to.
    """
    out.mkdir(parents=True, exist_ok=True)
    numbers = findings(evaluation, bundle, options, progress)
    page = _render(evaluation, numbers, options)
    write_whole(out / NUMBERS, _json(numbers))
    write_whole(out / SUMMARY, _json({name: numbers[name] for name in ("n", *_TITLES)}))
    write_whole(out / GENRES, _csv([{"genre": genre, **measured} for genre, measured in _by_frequency(numbers)]))
    write_whole(out / RELIABILITY, _csv([row for row in numbers["reliability"] if row["count"]]))
    write_whole(out / PAGE, page)
    return out / PAGE, out / NUMBERS


def _render(evaluation: Evaluation, numbers: dict[str, Any], options: ReportOptions) -> str:
    values = {
        **numbers,
        "metrics": evaluation.metrics,
        "titles": _TITLES,
        "genres": _by_frequency(numbers),
        "few": _FEW,
        "smallest": SMALLEST,
        "corruptions": CORRUPTIONS,
        "figures": _figures(evaluation.scored, numbers),
        "thumbnails": _thumbnails(evaluation.scored, numbers) if options.posters else {},
    }
    return render_page(__package__, {"number": _number, "range": _range, "signed": _signed}, values)


def _figures(scored: Scored, numbers: dict[str, Any]) -> dict[str, dict[str, str]]:
    """Every figure, by name and theme, as `data:` URIs."""
    shares = {name: np.array(rows, np.float64) for name, rows in numbers["co_occurrence"].items()}
    plots = {
        "overview": partial(figures.overview, scored.probabilities, scored.targets),
        "genres": partial(figures.precision_recall_by_genre, scored, numbers["per_genre"]),
        "reliability": partial(figures.reliability, numbers["reliability"], numbers["ece"]),
        "co_occurrence": partial(figures.co_occurrence, shares["true"], shares["answered"], scored),
    }
    robustness = numbers["robustness"]
    if robustness:
        plots["robustness"] = partial(figures.degradation, robustness["untouched"], robustness["corrupted"])
    return {name: figures.draw(plot) for name, plot in plots.items()}


def _thumbnails(scored: Scored, numbers: dict[str, Any]) -> dict[str, str]:
    """Small pictures of the best and worst posters, by id."""
    paths = dict(zip(scored.ids, scored.paths, strict=True))
    return {card["id"]: thumbnail(paths[card["id"]]) for card in (*numbers["best"], *numbers["worst"])}


def _by_frequency(numbers: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    """The genres with their figures, the most frequent first."""
    return sorted(numbers["per_genre"].items(), key=lambda item: -item[1]["positives"])


def _json(content: dict[str, Any]) -> str:
    return json.dumps(content, indent=2, allow_nan=False) + "\n"


def _csv(rows: Sequence[Mapping[str, Any]]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def _number(value: float | None, digits: int = 3) -> str:
    return "–" if value is None else f"{value:.{digits}f}"


def _range(limits: tuple[float, float] | None) -> str:
    # A figure that no resample changes, such as an F1 without a single hit, is not known exactly: nothing is known.
    return "" if limits is None or limits[0] == limits[1] else f"{limits[0]:.3f} to {limits[1]:.3f}"


def _signed(value: float | None) -> str:
    return "–" if value is None else f"{value:+.3f}".replace("-", "\N{MINUS SIGN}")
