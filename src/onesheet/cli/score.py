"""`onesheet score`: a whole catalogue."""

from __future__ import annotations

import json
import time
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from onesheet.cli.options import BundleOption, JsonOption, PrecisionOption
from onesheet.console import extra, printable, progress, read_settings
from onesheet.errors import InvalidRequestError

if TYPE_CHECKING:
    from onesheet.scoring.catalogue import Engine, Scored

app = typer.Typer()


@app.command(epilog="Example: onesheet score posters/ --out catalogue.parquet --embeddings")
def score(
    source: Annotated[
        str,
        typer.Argument(
            metavar="SOURCE",
            help="A folder; a .csv or .parquet with a column `path` or `url`; a .zip, .tar, .tar.gz or .tgz; "
            "or gs://BUCKET/PREFIX.",
            show_default=False,
        ),
    ],
    out: Annotated[Path, typer.Option(metavar="FILE.parquet", help="The catalogue; it appears when it is whole.")],
    embeddings: Annotated[
        bool, typer.Option("--embeddings", help="With a column `embedding`, which `onesheet similar` needs.")
    ] = False,
    engine: Annotated[
        Literal["local", "ray"], typer.Option(help="All cores of this machine, or a Ray cluster (onesheet[ray]).")
    ] = "local",
    workers: Annotated[
        int | None, typer.Option(min=1, help="With --engine ray: processes. (default: the cluster's cores)")
    ] = None,
    address: Annotated[
        str | None,
        typer.Option(
            metavar="ADDRESS", help="With --engine ray: a cluster, `auto` or ray://HOST:PORT. (default: one made here)"
        ),
    ] = None,
    seconds: Annotated[
        float, typer.Option(min=0.1, max=600, help="In which an address in a table has to answer.")
    ] = 10.0,
    bundle: BundleOption = None,
    precision: PrecisionOption = None,
    as_json: JsonOption = False,
) -> None:
    """Tell the genres of every poster of a catalogue, into one Parquet file.

    A poster that cannot be answered has a row that says why. Whatever ends the work, the same command goes on with it.
    """
    if engine == "local" and (workers or address):
        raise InvalidRequestError("--workers and --address belong to --engine ray")
    if out.suffix != ".parquet":
        raise InvalidRequestError(f"--out {out}: name a file that ends in .parquet")
    with extra("score"):
        from onesheet.scoring.catalogue import score_catalogue
        from onesheet.scoring.scorer import Scorer, threads_for
        from onesheet.scoring.sources import find_source
    from onesheet.bundle import load_bundle
    from onesheet.image import ImageLimits

    settings = read_settings(bundle=bundle, precision=precision)
    limits = ImageLimits(max_bytes=settings.max_upload_bytes, max_pixels=settings.max_pixels)
    posters = find_source(source, limits, seconds)
    model = load_bundle(settings.bundle)
    make_scorer = partial(Scorer, model, limits, settings.precision, embeddings=embeddings)
    start = time.monotonic()
    scorer = make_scorer()
    work: AbstractContextManager[Engine]
    if engine == "local":
        threads = settings.threads or threads_for(remote=posters.is_remote)
        work = nullcontext(partial(scorer.score, threads=threads))
    else:
        with extra("ray"):
            from onesheet.scoring.ray_engine import ray_engine
        work = ray_engine(make_scorer, posters, workers=workers, address=address)
    options = {"max_bytes": limits.max_bytes, "max_pixels": limits.max_pixels, "seconds": seconds}
    with progress("Scoring") as on_row:
        scored = score_catalogue(posters, out, scorer.schema, work, options, on_row)
    taken = time.monotonic() - start
    typer.echo(json.dumps(_to_dict(out, scored, taken)) if as_json else printable(_sentence(out, scored, taken)))


def _to_dict(out: Path, scored: Scored | None, seconds: float) -> dict[str, Any]:
    if scored is None:
        return {"file": str(out), "finished": "before"}
    return {
        "file": str(out),
        "rows": scored.rows,
        "rows_before": scored.before,
        "errors": dict(scored.errors),
        "left_out": scored.left_out,
        "seconds": round(seconds, 3),
    }


def _sentence(out: Path, scored: Scored | None, seconds: float) -> str:
    if scored is None:
        return f"{out} was finished before; remove it to score again"
    now = scored.rows - scored.before
    parts = [f"{out}: {scored.rows:,} posters, {now:,} of them in {seconds:.1f} s ({now / seconds:,.0f}/s)"]
    if scored.errors:
        kinds = ", ".join(f"{count:,} {code}" for code, count in scored.errors.items())
        parts.append(f"{sum(scored.errors.values()):,} could not be answered: {kinds}")
    if scored.left_out:
        parts.append(f"left out, as their names are not those of pictures: {scored.left_out:,}")
    return "; ".join(parts)
