"""What the posters are like: a table, and figures."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np
from matplotlib.figure import Figure
from rich.table import Table

from onesheet.data.split import SPLITS
from onesheet.image import PreprocessSpec

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from onesheet.data.manifest import Entry, Manifest

_ACCENTS: Final = ("#33658a", "#f6ae2d", "#d1495b")
_GRID: Final = (3, 8)
_THUMBNAIL: Final = PreprocessSpec(height=240, width=160)


def genre_table(manifest: Manifest) -> Table:
    """Posters of each genre in each split, most frequent first, and what was set aside."""
    counts = manifest.counts()
    title = ", ".join(f"{count} {name}" for name, count in counts.items())
    table = Table(title=f"{len(manifest.entries)} films: {title}", show_footer=True)
    table.add_column("genre", footer="all")
    for split in SPLITS:
        table.add_column(split, justify="right", footer=str(counts[split]))
    table.add_column("share", justify="right")
    by_split = {split: manifest.split(split).targets().sum(axis=0) for split in SPLITS}
    labelled = sum(counts[split] for split in SPLITS)
    for index in _by_frequency(manifest):
        row = [int(by_split[split][index]) for split in SPLITS]
        table.add_row(manifest.genres[index], *map(str, row), f"{sum(row) / labelled:.1%}")
    return table


def write_figures(manifest: Manifest, out: Path, *, posters: bool = True) -> list[Path]:
    """Draw every figure as PNG into the folder `out`.

    Args:
        manifest: Of the posters.
        out: Folder; created if need be.
        posters: Whether posters themselves may be shown.

    Returns:
        Their paths: genre distribution by split, co-occurrence, labels per poster, sample grid.
    """
    out.mkdir(parents=True, exist_ok=True)
    draw: dict[str, Callable[[Manifest], Figure]] = {
        "genres-by-split": _genres_by_split,
        "co-occurrence": _co_occurrence,
        "labels-per-poster": _labels_per_poster,
    }
    if posters:
        draw["samples"] = _samples
    paths = []
    for name, function in draw.items():
        path = out / f"{name}.png"
        function(manifest).savefig(path)
        paths.append(path)
    return paths


def draw_genres_before_and_now(former: Manifest, now: Manifest) -> Figure:
    """Posters of each genre in two versions of the data."""
    figure, axes = _figure(9, 6)
    order = _by_frequency(now)
    names = [now.genres[index] for index in order]
    for offset, manifest, label, colour in ((-0.2, former, "before", "#b8c4ce"), (0.2, now, "now", _ACCENTS[0])):
        counts = dict(zip(manifest.genres, manifest.targets().sum(axis=0).tolist(), strict=True))
        heights = [counts.get(name, 0) for name in names]
        axes.barh(np.arange(len(names)) + offset, heights, 0.4, label=label, color=colour)
    axes.set_yticks(range(len(names)), names)
    axes.invert_yaxis()
    axes.set_xlabel("posters")
    axes.set_title("Genres before and now")
    axes.legend(frameon=False)
    return figure


def _genres_by_split(manifest: Manifest) -> Figure:
    """Share of each split's posters that have a genre: equal bars mean a good split."""
    figure, axes = _figure(9, 6)
    order = _by_frequency(manifest)
    for offset, (split, colour) in enumerate(zip(SPLITS, _ACCENTS, strict=True)):
        targets = manifest.split(split).targets().reshape(-1, len(manifest.genres))
        shares = targets.sum(axis=0)[order] / max(1, len(targets))
        axes.barh(np.arange(len(order)) + 0.27 * (offset - 1), 100 * shares, 0.27, label=split, color=colour)
    axes.set_yticks(range(len(order)), [manifest.genres[index] for index in order])
    axes.invert_yaxis()
    axes.set_xlabel("posters with the genre (%)")
    axes.set_title("Genres by split")
    axes.legend(frameon=False)
    return figure


def _co_occurrence(manifest: Manifest) -> Figure:
    """Of the posters with the row's genre, the share that also have the column's."""
    figure, axes = _figure(9, 8)
    order = _by_frequency(manifest)
    targets = manifest.targets()[:, order].astype(float)
    together = targets.T @ targets
    share = 100 * together / np.maximum(1, np.diag(together))[:, None]
    np.fill_diagonal(share, np.nan)
    picture = axes.imshow(share, cmap="cividis")
    names = [manifest.genres[index] for index in order]
    axes.set_xticks(range(len(names)), names, rotation=90)
    axes.set_yticks(range(len(names)), names)
    axes.set_title("Of the posters with the row's genre, how many have the column's (%)")
    figure.colorbar(picture, shrink=0.8)
    return figure


def _labels_per_poster(manifest: Manifest) -> Figure:
    figure, axes = _figure(5, 4)
    counts = np.bincount(manifest.targets().sum(axis=1))
    bars = axes.bar(range(len(counts)), counts, color=_ACCENTS[0])
    axes.bar_label(bars)
    axes.set_xticks(range(len(counts)))
    axes.set_xlabel("genres of a poster")
    axes.set_ylabel("posters")
    axes.set_title("Labels per poster")
    return figure


def _samples(manifest: Manifest) -> Figure:
    """A grid of training posters, evenly spaced through the manifest."""
    rows, columns = _GRID
    figure = Figure(figsize=(columns * 1.5, rows * 2.7), layout="constrained")
    entries = manifest.split("train").entries
    picked = [entries[i] for i in np.linspace(0, len(entries) - 1, min(len(entries), rows * columns)).astype(int)]
    for position, entry in enumerate(picked, start=1):
        _show(figure.add_subplot(rows, columns, position), manifest, entry)
    return figure


def _show(axes: Axes, manifest: Manifest, entry: Entry) -> None:
    axes.imshow(manifest.load(entry, _THUMBNAIL).pixels)
    axes.set_title("\n".join(entry.genres), fontsize=7)
    axes.axis("off")


def _figure(width: float, height: float) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.add_subplot()
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _by_frequency(manifest: Manifest) -> list[int]:
    totals = manifest.targets().sum(axis=0)
    return [int(index) for index in np.argsort(-totals, kind="stable")]
