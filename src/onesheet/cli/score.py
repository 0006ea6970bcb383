"""`onesheet score`: a whole catalogue."""

from __future__ import annotations

import json
import time
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from onesheet.cli.options import EXIT_FAILURE, BundleOption, JsonOption, PrecisionOption
from onesheet.console import complain, extra, printable, progress, read_settings
from onesheet.errors import InvalidRequestError

if TYPE_CHECKING:
    from onesheet.scoring.catalogue import Engine, Result
    from onesheet.scoring.rows import Source
    from onesheet.scoring.scorer import Scorer

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
    follow_links: Annotated[
        bool, typer.Option("--follow-links", help="Look in linked folders, too; each folder is listed once.")
    ] = False,
    update: Annotated[
        bool,
        typer.Option(
            "--update",
            help="Bring a finished file up to date: score new and changed posters, remove those that are gone.",
        ),
    ] = False,
    bundle: BundleOption = None,
    precision: PrecisionOption = None,
    as_json: JsonOption = False,
) -> None:
    """Predict the genres of every poster of a catalogue, into one Parquet file.

    A poster that cannot be read has a row that says why. Whatever ends the work, the same command resumes it. Exit code
    1: there are no posters, or every one of them failed; the next run tries again.
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
    posters = find_source(source, limits, seconds, follow_links=follow_links)
    model = load_bundle(settings.bundle)
    make_scorer = partial(Scorer, model, limits, settings.precision, embeddings=embeddings)
    start = time.monotonic()
    scorer = make_scorer()
    if engine == "local":
        threads = settings.threads or threads_for(remote=posters.is_remote)
        work: AbstractContextManager[Engine] = nullcontext(partial(scorer.score, threads=threads))
    else:
        work = _ray(make_scorer, posters, workers, address)
    options = {"max_bytes": limits.max_bytes, "max_pixels": limits.max_pixels, "seconds": seconds}
    with progress("Scoring") as on_row:
        result = score_catalogue(posters, out, scorer.schema, work, options, on_row, update=update)
    taken = time.monotonic() - start
    typer.echo(json.dumps(_to_dict(out, result, taken)) if as_json else printable(_sentence(out, result, taken)))
    if result.failure:
        complain(f"every poster failed, and the next run tries again; the first: {result.failure}")
        raise typer.Exit(EXIT_FAILURE)


def _ray(
    make_scorer: partial[Scorer], source: Source, workers: int | None, address: str | None
) -> AbstractContextManager[Engine]:
    with extra("ray"):
        from onesheet.scoring.ray_engine import ray_engine
    return ray_engine(make_scorer, source, workers=workers, address=address)


def _to_dict(out: Path, result: Result, seconds: float) -> dict[str, Any]:
    if result.finished_before:
        return {"file": str(out), "finished": "before", "rows": result.rows, "changes": result.changes.to_dict()}
    return {
        "file": str(out),
        "rows": result.rows,
        "rows_before": result.before,
        "errors": dict(result.errors),
        "left_out": sum(result.skipped.values()),
        "skipped": dict(result.skipped),
        "changes": result.changes.to_dict(),
        "seconds": round(seconds, 3),
    }


def _sentence(out: Path, result: Result, seconds: float) -> str:
    from onesheet.scoring.rows import describe_skipped

    now = result.rows - result.before
    posters = f"{result.rows:,} poster{'' if result.rows == 1 else 's'}"
    if result.finished_before:
        parts = [f"{out} was finished before: {posters}"]
        if not result.changes:
            parts.append("the source has not changed since")
    else:
        parts = [f"{out}: {posters}, {now:,} of them in {seconds:.1f} s ({now / seconds:,.0f}/s)"]
    if result.changes:
        hint = "; run with --update to bring the file up to date" if result.finished_before else ""
        parts.append(f"changed since the run before: {result.changes}{hint}")
    if result.update_interrupted:
        parts.append("an update was interrupted; run with --update to resume it")
    if result.errors:
        kinds = ", ".join(f"{count:,} {code}" for code, count in result.errors.items())
        parts.append(f"{sum(result.errors.values()):,} could not be scored: {kinds}")
    if result.skipped:
        parts.append(describe_skipped(result.skipped))
    return "; ".join(parts)
