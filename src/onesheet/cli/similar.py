"""`onesheet similar`: the posters of a scored catalogue that are most like a poster."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from onesheet.cli.options import EXIT_FAILURE, BundleOption, JsonOption, PrecisionOption
from onesheet.console import complain, extra, printable, progress, read_settings, show_table
from onesheet.errors import ImageError

if TYPE_CHECKING:
    from onesheet.scoring.search import Similar

app = typer.Typer()


@app.command(epilog="Example: onesheet similar poster.jpg --in catalogue.parquet")
def similar(
    poster: Annotated[Path, typer.Argument(metavar="POSTER", help="A poster file.", show_default=False)],
    catalogue: Annotated[
        Path, typer.Option("--in", metavar="FILE", help="What `onesheet score --embeddings` has made.")
    ],
    top_k: Annotated[int, typer.Option(min=1, help="How many posters to list.")] = 10,
    exact: Annotated[bool, typer.Option("--exact", help="Compare every row, however many there are.")] = False,
    bundle: BundleOption = None,
    precision: PrecisionOption = None,
    as_json: JsonOption = False,
) -> None:
    """List the posters of a scored catalogue that are most like a poster.

    In a large catalogue an index is searched, which the first call makes and keeps beside the catalogue.
    """
    with extra("score"):
        from onesheet.scoring.search import Catalogue
    from onesheet.bundle import load_bundle
    from onesheet.image import ImageLimits
    from onesheet.predictor import Predictor
    from onesheet.scoring.identity import bundle_identity

    settings = read_settings(bundle=bundle, precision=precision)
    limits = ImageLimits(max_bytes=settings.max_upload_bytes, max_pixels=settings.max_pixels)
    with Catalogue(catalogue) as scored:
        model = load_bundle(settings.bundle)
        scored.check_bundle(bundle_identity(model))
        try:
            embedding = Predictor(model, limits, precision=settings.precision).predict(poster).embedding
        except ImageError as error:
            complain(f"{poster}: {error.message}")
            raise typer.Exit(EXIT_FAILURE) from error
        with progress("Indexing") as advance:
            found = scored.similar(embedding, top_k, exact=exact, on_progress=advance)
    if found.note:
        complain(found.note)
    if as_json:
        typer.echo(json.dumps(found.to_dict()))
    else:
        _show(found)


def _show(found: Similar) -> None:
    from rich.table import Table
    from rich.text import Text

    table = Table("poster", "genres")
    table.add_column("distance", justify="right")
    for one in found.posters:
        # Text, as brackets in a name are no markup.
        table.add_row(Text(printable(one.poster)), ", ".join(one.genres), f"{one.distance:.3f}")
    show_table(table)
