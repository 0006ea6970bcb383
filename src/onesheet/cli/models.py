"""Commands about a model: `evaluate` it, `export` it."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from onesheet.cli.options import (
    EXIT_FAILURE,
    PROCESSED,
    RAW,
    BundleOption,
    JsonOption,
    PrecisionOption,
    ProcessedOption,
    RawOption,
)
from onesheet.console import complain, extra, progress, read_settings

if TYPE_CHECKING:
    from onesheet.evaluation.evaluate import Evaluation

app = typer.Typer()


@app.command(
    epilog="Example: onesheet evaluate --labels data/raw/train.csv --images data/raw/Images --split test --report DIR"
)
def evaluate(
    labels: Annotated[Path, typer.Option(help="Label file such as train.csv.")],
    images: Annotated[Path, typer.Option(help="Folder of posters, named <Id> and .jpg, .jpeg, .png, .webp or .gif.")],
    bundle: BundleOption = None,
    precision: PrecisionOption = None,
    split: Annotated[
        str | None, typer.Option(help="Only this split of the manifest: train, validation or test.")
    ] = None,
    processed: ProcessedOption = PROCESSED,
    raw: RawOption = RAW,
    report: Annotated[
        Path | None,
        typer.Option(metavar="DIR", file_okay=False, help="Write a report into this folder: a page, JSON, CSV."),
    ] = None,
    posters: Annotated[
        bool, typer.Option("--posters/--no-posters", help="Show posters in the report; without, it may be passed on.")
    ] = True,
    robustness: Annotated[
        bool, typer.Option("--robustness/--no-robustness", help="Measure corrupted posters too, for the report.")
    ] = True,
    allow_missing: Annotated[
        bool, typer.Option("--allow-missing", help="Leave films without a poster out, however many they are.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Measure the quality of a bundle on labelled posters, at its own thresholds.

    Films without a poster fail, and the command with them; nothing is measured if they are more than half.
    """
    with extra("evaluate"):
        from onesheet.evaluation.evaluate import evaluate as run_evaluation
        from onesheet.evaluation.evaluate import split_ids

        if report:
            from onesheet.evaluation.findings import ReportOptions
            from onesheet.evaluation.report import write_report
    from onesheet.bundle import load_bundle

    settings = read_settings()
    only = split_ids(processed, split) if split else None
    model = load_bundle(bundle or settings.bundle)
    if report:
        report.mkdir(parents=True, exist_ok=True)  # now, and not after minutes of work
    with progress("Predicting") as advance:
        evaluation = run_evaluation(
            model,
            labels,
            images,
            only=only,
            threads=settings.threads,
            precision=precision or settings.precision,
            allow_missing=allow_missing,
            on_poster=advance,
        )
    if report:
        options = ReportOptions(
            split, processed, raw, posters, robustness, settings.threads, precision or settings.precision
        )
        page, _ = write_report(evaluation, model, report, options, progress)
    if as_json:
        typer.echo(json.dumps(evaluation.to_dict()))
    else:
        _show_tables(evaluation)
        if report:
            typer.echo(page)
    _complain_of(evaluation)


@app.command(epilog="Example: onesheet export outputs/smoke/best.ckpt --out models/smoke")
def export(
    checkpoint: Annotated[Path, typer.Argument(help="Checkpoint of `onesheet train`.", show_default=False)],
    out: Annotated[Path, typer.Option(help="Folder of the bundle; a .tar.gz is written beside it.")],
    name: Annotated[str | None, typer.Option(help="Of the model. (default: as trained)")] = None,
    version: Annotated[str | None, typer.Option(help="Of the model. (default: date and time)")] = None,
    raw: Annotated[Path | None, typer.Option(help="Raw posters. (default: as trained)")] = None,
    processed: Annotated[Path | None, typer.Option(help="Manifest's folder. (default: as trained)")] = None,
    min_precision: Annotated[
        float | None,
        typer.Option(min=0, max=1, help="Say a genre only where it is right this often. (default: aim at macro-F1)"),
    ] = None,
    int8: Annotated[
        bool, typer.Option("--int8/--no-int8", help="Add an int8 graph if it is faster here and hardly worse.")
    ] = True,
) -> None:
    """Turn a checkpoint into a bundle; refused when torch and ONNX disagree."""
    with extra("train"):
        from onesheet.export.card import int8_sentence
        from onesheet.export.export import export as run_export
        from onesheet.export.quantize import MIN_SPEEDUP
    from rich.console import Console

    with Console(stderr=True).status("Exporting") as status:
        bundle = run_export(
            checkpoint,
            out,
            name=name,
            version=version,
            raw=raw,
            processed=processed,
            min_precision=min_precision,
            min_speedup=MIN_SPEEDUP if int8 else math.inf,
            on_step=lambda step: status.update(f"{step} …"),
        )
    test, parity = bundle.metadata.metrics["test"], bundle.metadata.metrics["parity"]
    typer.echo(
        f"{out}: {bundle.metadata.name} {bundle.metadata.version}, on {test['n']} test posters mAP "
        f"{test['map_macro'] or 0:.3f}, F1 macro {test['f1_macro']:.3f} micro {test['f1_micro']:.3f}; "
        f"torch and ONNX within {parity['max_difference']:.1g} on {parity['posters']} posters"
    )
    if int8:
        typer.echo(int8_sentence(bundle.metadata.metrics["int8"]))
    typer.echo(f"next: onesheet predict POSTER --bundle {out}")


def _show_tables(evaluation: Evaluation) -> None:
    from rich.console import Console

    from onesheet.evaluation.tables import evaluation_tables

    Console().print(*evaluation_tables(evaluation), sep="\n")


def _complain_of(evaluation: Evaluation) -> None:
    """Name the posters that could not be answered; the command fails if there are any."""
    for path, error in evaluation.failed:
        complain(f"{path}: {error.message}")
    if evaluation.missing:
        complain(f"{evaluation.missing:,} labelled films have no poster and are left out")
    if evaluation.note:
        complain(f"note: {evaluation.note}")
    if evaluation.failed:
        raise typer.Exit(EXIT_FAILURE)
