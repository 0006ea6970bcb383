"""The figures of a report: SVG, one accent colour, drawn once for light pages and once for dark ones."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import ceil
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from sklearn.metrics import precision_recall_curve, roc_curve

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from numpy.typing import NDArray

    from onesheet.evaluation.evaluate import Scored

# Inches; as wide as the page.
_WIDTH: Final = 10.8
_GRID: Final = np.linspace(0, 1, 201)


@dataclass(frozen=True, slots=True)
class Theme:
    """Colours of a page."""

    paper: str
    ink: str
    muted: str
    faint: str
    accent: str


THEMES: Final = {
    "light": Theme(paper="#ffffff", ink="#1c2430", muted="#5b6673", faint="#c9d1d9", accent="#2b6595"),
    "dark": Theme(paper="#14181d", ink="#e7ebef", muted="#a0abb6", faint="#47515c", accent="#7db5dd"),
}


def draw(plot: Callable[[Theme], Figure]) -> dict[str, str]:
    """A figure as `data:` URIs of SVG, by the name of the theme."""
    return {name: _svg(plot(theme)) for name, theme in THEMES.items()}


def overview(probabilities: NDArray[np.floating], targets: NDArray[np.bool_], theme: Theme) -> Figure:
    """Precision over recall, and ROC: each genre faintly, their mean, and all (poster, genre) pairs together.

    Args:
        probabilities: `[N, G]`, 0-1.
        targets: bool `[N, G]`.
        theme: Colours.
    """
    figure = Figure(figsize=(_WIDTH, 4.8), layout="constrained")
    left, right = figure.subplots(1, 2)
    known = _known(targets)
    left.axhline(targets.mean(), color=theme.muted, linestyle=":", linewidth=1)
    right.plot([0, 1], [0, 1], color=theme.muted, linestyle=":", linewidth=1)
    for axes, curve, read in ((left, _precision_recall, _step), (right, _roc, _line)):
        each = [curve(targets[:, genre], probabilities[:, genre]) for genre in known]
        for x, y in each:
            axes.plot(x, y, color=theme.faint, linewidth=0.7)
        if each:
            mean = np.mean([read(x, y) for x, y in each], axis=0)
            axes.plot(_GRID, mean, color=theme.ink, linewidth=1.4, linestyle="--", label="mean of genres (macro)")
            x, y = curve(targets.ravel(), probabilities.ravel())
            axes.plot(x, y, color=theme.accent, linewidth=2, label="all pairs (micro)")
            axes.legend(frameon=False, fontsize=7, labelcolor=theme.ink)
    _style(left, theme, "Precision and recall", "recall", "precision")
    _style(right, theme, "ROC", "false positive rate", "true positive rate")
    for axes in (left, right):
        axes.set(xlim=(0, 1), ylim=(0, 1.01))
    return figure


def precision_recall_by_genre(scored: Scored, per_genre: Mapping[str, Mapping[str, Any]], theme: Theme) -> Figure:
    """A small panel for each genre: its curve, the frequency as a floor, and where its threshold stands."""
    order = _by_frequency(scored)
    figure, panels = _panels(len(order), columns=6, height=1.85)
    for axes, genre in zip(panels, order, strict=True):
        scores = per_genre[scored.genres[genre]]
        precision = scores["average_precision"]
        ap = "–" if precision is None else f"{precision:.2f}"
        _style(axes, theme, f"{scored.genres[genre]} ({scores['positives']})\nAP {ap}", size=7)
        axes.set(xlim=(0, 1.03), ylim=(0, 1.03), xticks=[0, 0.5, 1], yticks=[0, 0.5, 1])
        if scores["positives"]:
            axes.axhline(scores["positives"] / scores["n"], color=theme.muted, linestyle=":", linewidth=0.8)
            curve = _precision_recall(scored.targets[:, genre], scored.probabilities[:, genre])
            axes.plot(*curve, color=theme.accent, linewidth=1.2, drawstyle="steps-pre")
        if scores["positives"] and scores["predicted"]:
            axes.plot(scores["recall"], scores["precision"], "o", color=theme.ink, markersize=4, clip_on=False)
    figure.supxlabel("recall", color=theme.muted, fontsize=8)
    figure.supylabel("precision", color=theme.muted, fontsize=8)
    return figure


def reliability(bins: Sequence[Mapping[str, Any]], ece: float, theme: Theme) -> Figure:
    """How often genres of a given probability are there, above how many probabilities each point stands for."""
    figure = Figure(figsize=(4.6, 5.2), layout="constrained")
    top, bottom = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    filled = [row for row in bins if row["count"]]
    top.plot([0, 1], [0, 1], color=theme.muted, linestyle=":", linewidth=1)
    top.plot(
        [row["probability"] for row in filled],
        [row["frequency"] for row in filled],
        "o-",
        color=theme.accent,
        markersize=5,
    )
    top.set(xlim=(0, 1), ylim=(0, 1.01))
    centres = (np.arange(len(bins)) + 0.5) / len(bins)
    bottom.bar(centres, [row["count"] for row in bins], 0.9 / len(bins), color=theme.accent)
    bottom.set_yscale("log")
    bottom.set_ylim(bottom=0.8)
    _style(top, theme, f"Reliability: ECE {ece:.3f}", "", "share that is true")
    _style(bottom, theme, "", "probability", "pairs")
    return figure


def co_occurrence(truth: NDArray[np.float64], said: NDArray[np.float64], scored: Scored, theme: Theme) -> Figure:
    """Side by side: of the posters with the row's genre, the share that have, and that are said to have, the column's.

    Args:
        truth: `[G, G]`, 0-1, NaN where a genre has no poster.
        said: Likewise.
        scored: The genres.
        theme: Colours.
    """
    order = _by_frequency(scored)
    names = [scored.genres[genre] for genre in order]
    figure = Figure(figsize=(_WIDTH, 5.3), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    colours = LinearSegmentedColormap.from_list("accent", [theme.paper, theme.accent])
    for axes, share, title in ((left, truth, "true: also has"), (right, said, "answered: is said to have")):
        picture = axes.imshow(100 * share[np.ix_(order, order)], cmap=colours, vmin=0, vmax=100, interpolation="none")
        _style(axes, theme, title)
        axes.set_xticks(range(len(names)), names, rotation=90, fontsize=7, parse_math=False)
        axes.set_yticks(range(len(names)), names, fontsize=7, parse_math=False)
    left.set_ylabel("of the posters with", color=theme.muted, fontsize=8)
    bar = figure.colorbar(picture, ax=[left, right], shrink=0.7)
    bar.set_label("%", color=theme.muted, fontsize=8)
    bar.ax.tick_params(colors=theme.muted, labelsize=7)
    bar.outline.set_edgecolor(theme.faint)
    return figure


def degradation(untouched: Mapping[str, Any], corrupted: Iterable[Mapping[str, Any]], theme: Theme) -> Figure:
    """Mean average precision and micro-F1 over severity, a panel for each corruption."""
    by_name: dict[str, list[Mapping[str, Any]]] = {}
    for row in corrupted:
        by_name.setdefault(row["corruption"], [{**untouched, "severity": 0}]).append(row)
    figure, panels = _panels(len(by_name), columns=5, height=1.9)
    highest = max(row[metric] or 0 for rows in by_name.values() for row in rows for metric in ("map_macro", "f1_micro"))
    for axes, (name, rows) in zip(panels, by_name.items(), strict=True):
        _style(axes, theme, name, size=8)
        severities = [row["severity"] for row in rows]
        for metric, label, colour, line in (
            ("f1_micro", "F1 (micro)", theme.muted, "s--"),
            ("map_macro", "mAP", theme.accent, "o-"),
        ):
            values = [np.nan if row[metric] is None else row[metric] for row in rows]
            axes.axhline(values[0], color=theme.faint, linestyle=":", linewidth=1)
            axes.plot(severities, values, line, color=colour, markersize=3.5, linewidth=1.4, label=label)
        axes.set(xlim=(-0.3, 5.3), ylim=(0, 1.12 * highest or 1), xticks=range(6))
    figure.legend(
        *panels[0].get_legend_handles_labels(),
        loc="outside upper right",
        ncols=2,
        frameon=False,
        fontsize=8,
        labelcolor=theme.ink,
    )
    figure.supxlabel("severity (0: untouched)", color=theme.muted, fontsize=8)
    return figure


def _known(targets: NDArray[np.bool_]) -> list[int]:
    """Genres that have both kinds of poster."""
    positives = targets.sum(axis=0)
    return [int(genre) for genre in np.flatnonzero((positives > 0) & (positives < len(targets)))]


def _by_frequency(scored: Scored) -> list[int]:
    return [int(genre) for genre in np.argsort(-scored.targets.sum(axis=0), kind="stable")]


def _precision_recall(
    targets: NDArray[np.bool_], scores: NDArray[np.floating]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Recall, rising, and the precision with which it is reached."""
    precision, recall, _ = precision_recall_curve(targets, scores, drop_intermediate=True)
    # scikit-learn ends with a made-up point of precision 1; the first real one holds from recall 0 on.
    precision[-1] = precision[-2]
    return recall[::-1], precision[::-1]


def _roc(targets: NDArray[np.bool_], scores: NDArray[np.floating]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    false, true, _ = roc_curve(targets, scores)
    return false, true


def _step(recall: NDArray[np.float64], precision: NDArray[np.float64]) -> NDArray[np.float64]:
    """Precision over the grid, in the steps that average precision sums up."""
    return precision[np.searchsorted(recall, _GRID)]


def _line(x: NDArray[np.float64], y: NDArray[np.float64]) -> NDArray[np.float64]:
    """A curve of straight lines, over the grid."""
    return np.interp(_GRID, x, y)


def _panels(count: int, columns: int, height: float) -> tuple[Figure, list[Axes]]:
    """A grid of `count` panels of `height` inches that share their axes; what is left over stays empty."""
    rows = ceil(count / columns)
    figure = Figure(figsize=(_WIDTH, height * rows), layout="constrained")
    panels = list(figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False).ravel())
    for axes in panels[count:]:
        axes.axis("off")
    return figure, panels[:count]


def _style(axes: Axes, theme: Theme, title: str, x: str = "", y: str = "", size: float = 9) -> None:
    # Names of genres are not ours: a `$` in one is no formula.
    axes.set_title(title, color=theme.ink, fontsize=size, loc="left", parse_math=False)
    axes.set_xlabel(x, color=theme.muted, fontsize=8)
    axes.set_ylabel(y, color=theme.muted, fontsize=8)
    axes.tick_params(colors=theme.muted, labelsize=7)
    axes.set_facecolor("none")
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(theme.faint)


def _svg(figure: Figure) -> str:
    figure.set_facecolor("none")
    file = io.BytesIO()
    figure.savefig(file, format="svg", metadata={"Date": None, "Creator": None})
    return "data:image/svg+xml;base64," + base64.b64encode(file.getvalue()).decode()
