"""The description of a data set is drawn and counted from the manifest."""

from __future__ import annotations

import io

from PIL import Image
from rich.console import Console

from onesheet.data.prepare import prepare
from onesheet.data.stats import genre_table, write_figures


def test_table_counts_every_genre_in_every_split(made_up_posters, tmp_path):
    manifest = prepare(made_up_posters, tmp_path)
    console = Console(width=200, record=True, file=io.StringIO())
    console.print(genre_table(manifest))
    text = console.export_text()
    assert ", ".join(f"{count} {name}" for name, count in manifest.counts().items()) in " ".join(text.split())
    totals = manifest.targets().sum(axis=0)
    for genre, total in zip(manifest.genres, totals, strict=True):
        cells = next(line for line in text.splitlines() if genre in line).replace("│", " ").split()
        assert sum(map(int, cells[1:4])) == total
        assert cells[4] == f"{total / 240:.1%}"


def test_figures_are_pictures_of_some_size(made_up_posters, tmp_path):
    paths = write_figures(prepare(made_up_posters, tmp_path), tmp_path / "figures")
    assert [path.name for path in paths] == [
        "genres-by-split.png",
        "co-occurrence.png",
        "labels-per-poster.png",
        "samples.png",
    ]
    for path in paths:
        with Image.open(path) as figure:
            assert min(figure.size) >= 400
            assert len(figure.convert("L").getcolors() or range(99)) > 20
