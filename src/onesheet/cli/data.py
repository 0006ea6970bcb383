"""`onesheet data`: get the posters, also from what people said of answers; build the manifest; move versions."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from onesheet.cli.log import SinceOption, UntilOption, UrlOption, open_log
from onesheet.cli.options import EXIT_FAILURE, PROCESSED, RAW, BundleOption, ProcessedOption, RawOption
from onesheet.console import complain, extra, printable, progress, read_settings
from onesheet.errors import InvalidRequestError

app = typer.Typer(no_args_is_help=True, help="Get the posters; build the manifest; describe it; move versions.")


@app.command(epilog="Example: onesheet data fetch gs://my-bucket/posters --out data/raw")
def fetch(
    source: Annotated[
        str | None,
        typer.Argument(
            metavar="SOURCE",
            help="A folder, a git address, kaggle:OWNER/NAME or gs://BUCKET/FOLDER "
            "(default: ONESHEET_DATA_SOURCE or the public Movies-Poster_Dataset on GitHub)",
        ),
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder to fill.")] = RAW,
    force: Annotated[bool, typer.Option("--force", help="Fetch again even if it is already there.")] = False,
) -> None:
    """Get the posters: resumable, verified, and never half a data set under the final name."""
    with extra("data"):
        from onesheet.data.fetch import fetch as run_fetch
    with progress("Fetching") as advance:
        receipt = run_fetch(
            source or read_settings().data_source,
            out,
            force=force,
            progress=lambda state: advance(state.done_files, state.total_files),
        )
    typer.echo(f"{out}: {receipt.files} files, {receipt.bytes / 1e6:.1f} MB, {receipt.rows} labelled rows")
    if receipt.missing:
        complain(f"{receipt.missing} labelled posters are missing at the source")


@app.command(epilog="Example: onesheet data from-log --base data/raw, then: onesheet data prepare --raw data/feedback")
def from_log(
    out: Annotated[Path, typer.Option(help="Folder to make.")] = Path("data/feedback"),
    images: Annotated[
        Path | None,
        typer.Option(
            exists=True,
            file_okay=False,
            help="Folder with the pictures, under any names. (default: ONESHEET_KEEP_PICTURES)",
        ),
    ] = None,
    base: Annotated[
        Path | None, typer.Option(help="Folder with train.csv and Images/ to add to. (default: feedback alone)")
    ] = None,
    since: SinceOption = None,
    until: UntilOption = None,
    url: UrlOption = None,
    bundle: BundleOption = None,
    force: Annotated[bool, typer.Option("--force", help="Replace an earlier set of this kind.")] = False,
) -> None:
    """Make labelled posters of what people said of answers, where the settings say that they agreed to it.

    Each picture counts once, and a genre is true if more than half of those say so who spoke of it. The posters that
    the bundle was judged by are left out.
    """
    with extra("data"):
        from onesheet.data.from_log import describe
        from onesheet.data.from_log import from_log as run_from_log
    from onesheet.bundle import load_bundle
    from onesheet.predictionlog import open_pictures

    settings = read_settings()
    if not settings.feedback_for_training:
        raise InvalidRequestError(
            "feedback is not for training: set ONESHEET_FEEDBACK_FOR_TRAINING=true if those who gave it agreed"
        )
    pictures = images or open_pictures(settings.keep_pictures)
    if pictures is None:
        raise InvalidRequestError("no pictures are kept: set ONESHEET_KEEP_PICTURES, or name a folder with --images")
    model = load_bundle(bundle or settings.bundle)
    with open_log(url) as log, progress("Looking at pictures") as advance:
        counts = run_from_log(
            log, out, model, pictures, base=base, since=since, until=until, force=force, on_picture=advance
        )
    typer.echo(f"{out}: {counts.taken} posters of feedback" + (f", {counts.base} films of {base}" if base else ""))
    typer.echo(f"left out: {describe(counts)}")
    if not counts.taken:
        complain(f"no feedback was added: {out} holds the films of {base} alone")


@app.command(epilog="Example: onesheet data prepare --seed 7")
def prepare(
    raw: RawOption = RAW,
    out: Annotated[Path, typer.Option(help="Folder for the manifest.")] = PROCESSED,
    seed: Annotated[int, typer.Option(min=0, help="Of the split.")] = 42,
    keep_splits: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            dir_okay=False,
            help="Films in this CSV file stay in their split; new ones are added. (default: all are dealt anew)",
        ),
    ] = None,
    allow_missing: Annotated[
        bool, typer.Option("--allow-missing", help="Go on where more than half of the films have no readable poster.")
    ] = False,
) -> None:
    """Look at every poster, set the bad ones aside, and split the good ones by film.

    The poster of a film is Images/<Id> with .jpg, .jpeg, .jpe, .jfif, .png, .webp or .gif, in this order if there are
    several.
    """
    with extra("data"):
        from onesheet.data.prepare import prepare as run_prepare
    with progress("Inspecting posters") as advance:
        manifest = run_prepare(raw, out, seed, advance, keep_splits, allow_missing=allow_missing)
    counts = ", ".join(f"{count} {name}" for name, count in manifest.counts().items())
    typer.echo(f"{out}/manifest.parquet: {counts}; fingerprint {manifest.fingerprint[:16]}")
    for entry in manifest.entries:
        if entry.split is None:
            typer.echo(f"  quarantined {printable(Path(entry.path))}: {'; '.join(entry.problems)}")
    if unread := sum(entry.phash is None for entry in manifest.entries):
        complain(f"{unread:,} of {len(manifest.entries):,} labelled films have no poster that can be read")


@app.command(epilog="Example: onesheet data shard --out gs://my-bucket/shards, then: onesheet train data.shards=…")
def shard(
    out: Annotated[str, typer.Option(metavar="DIR|gs://BUCKET/PREFIX", help="What to fill.")],
    raw: RawOption = RAW,
    processed: ProcessedOption = PROCESSED,
    shard_size: Annotated[
        int, typer.Option("--shard-size", metavar="MB", min=1, help="A shard ends before it would be larger.")
    ] = 100,
) -> None:
    """Pack the posters of a manifest into tar files that training streams, for sets that outgrow a disk.

    What is there already is kept, whatever ended the command before.
    """
    with extra("train"):
        from onesheet.data.manifest import MANIFEST_FILE, read_manifest
        from onesheet.data.shards import write_shards
    manifest = read_manifest(processed / MANIFEST_FILE, raw)
    with progress("Packing posters") as advance:
        index = write_shards(manifest, out, shard_size * 1_000_000, advance)
    for split, shards in index.splits.items():
        films, size = sum(shard.samples for shard in shards), sum(shard.bytes for shard in shards)
        typer.echo(f"{out}/{split}: {films} films in {len(shards)} shards, {size / 1e6:.1f} MB")


TargetsArgument = Annotated[
    list[str] | None,
    typer.Argument(metavar="TARGET", help="Tracked files or folders, or stages. (default: everything)"),
]
RemoteOption = Annotated[str | None, typer.Option(help="Name of the DVC remote. (default: the repository's default)")]
JobsOption = Annotated[int, typer.Option(min=1, help="Objects at the same time.")]
TimeoutOption = Annotated[
    float, typer.Option(min=5, help="Seconds without any progress after which DVC is started again.")
]


@app.command(epilog="Example: onesheet data push data/raw --remote storage")
def push(
    targets: TargetsArgument = None,
    remote: RemoteOption = None,
    jobs: JobsOption = 16,
    timeout: TimeoutOption = 120,
) -> None:
    """Bring data that DVC tracks to a DVC remote.

    It is DVC's own push, with time-outs, watched, and repeated as long as something gets through.
    """
    _transfer("push", targets, remote=remote, jobs=jobs, timeout_s=timeout)


@app.command(epilog="Example: onesheet data pull data/raw")
def pull(
    targets: TargetsArgument = None,
    remote: RemoteOption = None,
    jobs: JobsOption = 16,
    timeout: TimeoutOption = 120,
    force: Annotated[bool, typer.Option("--force", help="Overwrite what was changed here.")] = False,
) -> None:
    """Get data that DVC tracks from a DVC remote.

    It is DVC's own pull, with time-outs, watched, and repeated as long as something gets through.
    """
    _transfer("pull", targets, remote=remote, jobs=jobs, timeout_s=timeout, force=force)


@app.command(epilog="Example: onesheet data report --former former.parquet --out reports/data-change")
def report(
    raw: RawOption = RAW,
    processed: ProcessedOption = PROCESSED,
    former: Annotated[
        Path | None,
        typer.Option(dir_okay=False, help="Manifest of the version before, to compare with. (default: none)"),
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder of the page and its figures.")] = Path("outputs/data-report"),
) -> None:
    """Check a version of the data and tell what it changes: report.md, for a pull request, with figures.

    Fails if a check does: leaks between the splits, training films that judge now, genres that are gone.
    """
    with extra("data"):
        from onesheet.data.changes import write_change_report
        from onesheet.data.manifest import MANIFEST_FILE, read_manifest
    manifest = read_manifest(processed / MANIFEST_FILE, raw)
    page, checks = write_change_report(manifest, read_manifest(former, raw) if former else None, out)
    for check in checks:
        typer.echo(f"{check.verdict}: {check.name}: {check.found}")
    typer.echo(page)
    if any(check.verdict == "failed" for check in checks):
        raise typer.Exit(EXIT_FAILURE)


@app.command(epilog="Example: onesheet data stats --out reports/data")
def stats(
    raw: RawOption = RAW,
    processed: ProcessedOption = PROCESSED,
    out: Annotated[Path, typer.Option(help="Folder for the figures.")] = Path("outputs/data-stats"),
) -> None:
    """Describe the posters: a table, and figures."""
    with extra("data"):
        from onesheet.data.manifest import MANIFEST_FILE, read_manifest
        from onesheet.data.stats import genre_table, write_figures
    from rich.console import Console

    manifest = read_manifest(processed / MANIFEST_FILE, raw)
    Console().print(genre_table(manifest))
    for figure in write_figures(manifest, out):
        typer.echo(figure)


def _transfer(direction: Literal["push", "pull"], targets: list[str] | None, **options: Any) -> None:
    with extra("dvc"):
        import_module("dvc")
    from onesheet.data.dvc import Order, transfer

    with progress(f"{direction.capitalize()}ing") as advance:
        done = transfer(Order(direction, tuple(targets or ()), **options), advance)
    typer.echo(f"{direction}ed {done.objects} objects" if done.objects else "everything is up to date")
    for note in done.notes:
        complain(f"DVC warns: {note}")
