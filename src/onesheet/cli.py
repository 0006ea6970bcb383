"""The command line: parses, calls, and shows; everything else happens elsewhere."""

from __future__ import annotations

import json
import math
import sys
import warnings
from importlib.metadata import version as package_version
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from onesheet.console import complain, extra, printable, progress, read_settings
from onesheet.errors import ConfigError, InvalidRequestError, OnesheetError

if TYPE_CHECKING:
    from onesheet.predictor import Prediction

EXIT_FAILURE = 1
EXIT_USAGE = 2
EXIT_INTERRUPTED = 130

# What a user of the command line did, as against what the world did to them.
_USAGE_ERRORS = (InvalidRequestError, ConfigError)

app = typer.Typer(
    name="onesheet",
    help="Tells the genres of a film from its poster.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)
data = typer.Typer(no_args_is_help=True, help="Get the posters; build the manifest; describe it.")
app.add_typer(data, name="data")
runs = typer.Typer(no_args_is_help=True, help="Look at earlier training runs.")
app.add_typer(runs, name="runs")

BundleOption = Annotated[
    str | None,
    typer.Option(
        metavar="REF",
        help="A folder, a .tar.gz, `starter` or a gs:// address. (default: ONESHEET_BUNDLE or starter)",
    ),
]
PrecisionOption = Annotated[
    Literal["fp32", "int8"] | None,
    typer.Option(help="Graph of the bundle that answers. (default: ONESHEET_PRECISION or fp32)"),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Machine-readable output on standard output.")]
ConfigDirOption = Annotated[Path | None, typer.Option(help="Folder with config.yaml. (default: the shipped one)")]
RawOption = Annotated[Path, typer.Option(help="Folder with train.csv and Images/.")]
ProcessedOption = Annotated[Path, typer.Option(help="Folder of the manifest.")]

SweepBackend = Literal["optuna", "wandb"]

StoreOption = Annotated[str, typer.Option(help="Address of the MLflow store.")]

MLFLOW_STORE = "sqlite:///outputs/mlflow.db"
RAW = Path("data/raw")
PROCESSED = Path("data/processed")


def main() -> None:
    """Run the command line; an expected error is one line on standard error, never a traceback."""
    # Of large or oddly made pictures Pillow warns there too; what matters of it is an error with a line of its own.
    warnings.filterwarnings("ignore", module="PIL")
    try:
        app()
    except OnesheetError as error:
        complain(error.message)
        sys.exit(EXIT_USAGE if isinstance(error, _USAGE_ERRORS) else EXIT_FAILURE)
    except OSError as error:
        complain(f"{error.filename or 'output'}: {error.strerror or error}")
        sys.exit(EXIT_FAILURE)
    except KeyboardInterrupt:
        complain("interrupted")
        sys.exit(EXIT_INTERRUPTED)


@app.callback(invoke_without_command=True)
def _root(
    version: Annotated[bool, typer.Option("--version", help="Show the version and exit.")] = False,
) -> None:
    if version:
        typer.echo(f"onesheet {package_version('onesheet')}")
        raise typer.Exit


@app.command(epilog="Example: onesheet predict poster.jpg more/*.png --json")
def predict(
    paths: Annotated[list[Path], typer.Argument(metavar="PATH", help="Poster files.", show_default=False)],
    bundle: BundleOption = None,
    threshold: Annotated[
        float | None,
        typer.Option(help="Say genres from this probability on. (default: the bundle's own, per genre)"),
    ] = None,
    top_k: Annotated[
        int | None, typer.Option(help="How many of the most probable genres to list. (default: 5)")
    ] = None,
    precision: PrecisionOption = None,
    as_json: JsonOption = False,
) -> None:
    """Tell the genres of posters.

    Exit code 0: all answered; 1: some file failed, the others are answered; 2: wrong usage.
    """
    from onesheet.image import ImageLimits
    from onesheet.predictor import load_predictor

    settings = read_settings()
    limits = ImageLimits(max_bytes=settings.max_upload_bytes, max_pixels=settings.max_pixels)
    predictor = load_predictor(
        bundle or settings.bundle,
        limits=limits,
        threads=settings.threads,
        precision=precision or settings.precision,
    )
    answers = predictor.predict_each(paths, threshold=threshold, top_k=top_k)
    failed = False
    for path, answer in zip(paths, answers, strict=True):
        if isinstance(answer, OnesheetError):
            failed = True
            if as_json:
                typer.echo(json.dumps({"file": str(path), "error": answer.to_dict()}))
            else:
                complain(f"{path}: {answer.message}")
        else:
            typer.echo(
                json.dumps({"file": str(path), **answer.to_dict()})
                if as_json
                else printable(f"{path}: {_sentence(answer)}")
            )
    if failed:
        raise typer.Exit(EXIT_FAILURE)


@app.command(epilog="Example: onesheet serve --port 8000, then: curl -F file=@poster.jpg localhost:8000/predict")
def serve(
    bundle: BundleOption = None,
    precision: PrecisionOption = None,
    host: Annotated[
        str | None, typer.Option(help="Address to listen on. (default: ONESHEET_HOST or 127.0.0.1)")
    ] = None,
    port: Annotated[
        int | None,
        typer.Option(min=0, max=65535, help="0 takes any free port. (default: ONESHEET_PORT or 8000)"),
    ] = None,
) -> None:
    """Serve the HTTP API."""
    from onesheet.serving import serve as run_server

    given = {"bundle": bundle, "precision": precision, "host": host, "port": port}
    run_server(read_settings(**{name: value for name, value in given.items() if value is not None}))


@data.command(epilog="Example: onesheet data fetch gs://my-bucket/posters --out data/raw")
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


@data.command(epilog="Example: onesheet data prepare --seed 7")
def prepare(
    raw: RawOption = RAW,
    out: Annotated[Path, typer.Option(help="Folder for the manifest.")] = PROCESSED,
    seed: Annotated[int, typer.Option(min=0, help="Of the split.")] = 42,
) -> None:
    """Look at every poster, set the bad ones aside, and split the good ones by film."""
    with extra("data"):
        from onesheet.data.prepare import prepare as run_prepare
    with progress("Inspecting posters") as advance:
        manifest = run_prepare(raw, out, seed, advance)
    counts = ", ".join(f"{count} {name}" for name, count in manifest.counts().items())
    typer.echo(f"{out}/manifest.parquet: {counts}; fingerprint {manifest.fingerprint[:16]}")
    for entry in manifest.entries:
        if entry.split is None:
            typer.echo(f"  quarantined {printable(Path(entry.path))}: {'; '.join(entry.problems)}")


@data.command(epilog="Example: onesheet data stats --out reports/data")
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


@app.command(epilog="Example: onesheet train experiment=smoke run_dir=outputs/smoke")
def train(
    overrides: Annotated[
        list[str] | None,
        typer.Argument(metavar="KEY=VALUE", help="Hydra overrides, such as optimizer.lr=3e-4."),
    ] = None,
    config_dir: ConfigDirOption = None,
    from_run: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Repeat the run in this folder, in a new folder.")
    ] = None,
    show: Annotated[bool, typer.Option("--show", help="Print every knob of the configuration and stop.")] = False,
) -> None:
    """Train a model.

    Choose from the groups in configs/ (model=resnet18 loss=asymmetric logger=[mlflow,wandb]) and set any knob
    (optimizer.lr=3e-4). An interrupted or killed run goes on with resume=true run_dir=DIR.
    """
    with extra("train"):
        from onesheet.training.compose import compose_config, to_yaml
    config = compose_config(overrides or [], config_dir, from_run=from_run)
    if show:
        typer.echo(to_yaml(config), nl=False)
        return
    with extra("train"):
        from onesheet.training.launch import rank
        from onesheet.training.run import repeat_differences
        from onesheet.training.run import train as run_training
    for difference in repeat_differences(from_run, config) if from_run else ():
        complain(f"note: not the same as in {from_run}: {difference}")
    with progress("Reading posters") as advance:
        result = run_training(config, on_poster=advance)
    if rank() > 0:  # the first process speaks for all
        return
    typer.echo(f"best validation mAP (macro) {result.map_macro:.3f}")
    typer.echo(f"next: onesheet export {result.best} --out models/{config.name}")


@runs.command("list", epilog="Example: onesheet runs list --markdown docs/experiments.md --baseline base")
def list_(
    store: StoreOption = MLFLOW_STORE,
    experiment: Annotated[str, typer.Option(help="Of the store.")] = "onesheet",
    baseline: Annotated[
        str | None, typer.Option(help="Run that the others are compared with. (default: the oldest)")
    ] = None,
    markdown: Annotated[Path | None, typer.Option(help="File to write the finished runs to, for the docs.")] = None,
) -> None:
    """List the runs of the MLflow store, best first, with what each did differently."""
    with extra("train"):
        from onesheet.training.runs import find_baseline, list_runs, runs_markdown, runs_table
    from rich.console import Console

    found = list_runs(store, experiment)
    compared = find_baseline(found, baseline)
    Console().print(runs_table(found, compared))
    if markdown is not None:
        markdown.parent.mkdir(parents=True, exist_ok=True)
        markdown.write_text(runs_markdown(found, compared))
        typer.echo(markdown)


@runs.command(epilog="Example: onesheet runs ui --port 5000, then open http://127.0.0.1:5000")
def ui(
    store: StoreOption = MLFLOW_STORE,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535)] = 5000,
) -> None:
    """Look at the runs of the MLflow store in a browser."""
    with extra("train"):
        from onesheet.training.runs import show_store
    raise typer.Exit(show_store(store, host, port))


@app.command(epilog="Example: onesheet sweep experiment=smoke --trials 8 --workers 2")
def sweep(
    overrides: Annotated[
        list[str] | None,
        typer.Argument(metavar="KEY=VALUE", help="Hydra overrides of every trial."),
    ] = None,
    space: Annotated[
        Path | None, typer.Option(help="Search space, in W&B's schema. (default: the shipped sweep.yaml)")
    ] = None,
    trials: Annotated[int, typer.Option(min=1, help="Trials that there shall be, earlier ones included.")] = 20,
    workers: Annotated[int, typer.Option(min=1, help="Processes that search side by side.")] = 1,
    name: Annotated[str, typer.Option(help="Of the study; the same name goes on with it.")] = "sweep",
    store: Annotated[str, typer.Option(help="SQLAlchemy address of the store.")] = "sqlite:///outputs/sweeps.db",
    out: Annotated[Path, typer.Option(help="Folder of the trials and of the ranking.")] = Path("outputs/sweeps"),
    backend: Annotated[SweepBackend, typer.Option(help="Search here, or create a sweep for `wandb agent`.")] = "optuna",
    project: Annotated[str, typer.Option(help="For W&B.")] = "onesheet",
    entity: Annotated[str | None, typer.Option(help="For W&B.")] = None,
) -> None:
    """Search for better hyperparameters: resumable, with pruning, several workers on one store."""
    with extra("train"):
        from onesheet.training import ranking, searchspace
        from onesheet.training import sweep as sweeps
        from onesheet.training.compose import default_config_dir
    file = space or default_config_dir() / "sweep.yaml"
    if backend == "wandb":
        sweep_id = sweeps.create_wandb_sweep(searchspace.read_search_space(file), overrides or [], project, entity)
        typer.echo(f"next, on any machine: wandb agent {f'{entity}/' if entity else ''}{project}/{sweep_id}")
        return
    wanted = sweeps.Sweep(name, file, store, out / name, tuple(overrides or ()), trials, workers)
    with progress("Trials") as advance:
        study = sweeps.run_sweep(wanted, advance)
    from rich.console import Console

    Console().print(ranking.ranked_table(study))
    for number, reason in sweeps.failures(study).items():
        complain(f"trial {number} failed: {reason}")
    for path in ranking.write_ranking(study, out / name):
        typer.echo(path)


@app.command(
    epilog="Example: onesheet evaluate --labels data/raw/train.csv --images data/raw/Images --split test --report DIR"
)
def evaluate(
    labels: Annotated[Path, typer.Option(help="Label file such as train.csv.")],
    images: Annotated[Path, typer.Option(help="Folder of <Id>.jpg.")],
    bundle: BundleOption = None,
    precision: PrecisionOption = None,
    split: Annotated[
        str | None, typer.Option(help="Only this split of the manifest: train, validation or test.")
    ] = None,
    processed: ProcessedOption = PROCESSED,
    raw: RawOption = RAW,
    report: Annotated[
        Path | None,
        typer.Option(metavar="DIR", file_okay=False, help="Write report.html and report.json into this folder."),
    ] = None,
    posters: Annotated[
        bool, typer.Option("--posters/--no-posters", help="Show posters in the report; without, it may be passed on.")
    ] = True,
    robustness: Annotated[
        bool, typer.Option("--robustness/--no-robustness", help="Measure corrupted posters too, for the report.")
    ] = True,
    as_json: JsonOption = False,
) -> None:
    """Measure the quality of a bundle on labelled posters, at its own thresholds."""
    with extra("evaluate"):
        from onesheet.evaluation.evaluate import evaluate as run_evaluation
        from onesheet.evaluation.evaluate import split_ids
        from onesheet.evaluation.tables import evaluation_tables

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
        from rich.console import Console

        Console().print(*evaluation_tables(evaluation), sep="\n")
        if report:
            typer.echo(page)
    for path, error in evaluation.failed:
        complain(f"{path}: {error.message}")
    if evaluation.note:
        complain(f"note: {evaluation.note}")
    if evaluation.failed:
        raise typer.Exit(EXIT_FAILURE)


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


@app.command(epilog="Example: onesheet bench data/raw/Images --json")
def bench(
    images: Annotated[
        Path | None,
        typer.Argument(metavar="IMAGES", help="Folder of posters. (default: made-up ones of 300 x 444 pixels)"),
    ] = None,
    bundle: BundleOption = None,
    precision: PrecisionOption = None,
    seconds: Annotated[float, typer.Option(min=0.1, help="How long each figure is measured.")] = 3.0,
    as_json: JsonOption = False,
) -> None:
    """Measure decoding, model, and both together on this machine."""
    from onesheet.bench import run_bench
    from onesheet.predictor import load_predictor

    settings = read_settings()
    predictor = load_predictor(
        bundle or settings.bundle, threads=settings.threads, precision=precision or settings.precision
    )
    result = run_bench(predictor, images, seconds)
    typer.echo(json.dumps(result.to_dict()) if as_json else result.to_text())


def _sentence(prediction: Prediction) -> str:
    if prediction.predicted:
        return ", ".join(f"{score.label} {score.probability:.0%}" for score in prediction.predicted)
    best = prediction.topk[0]
    return f"no genre reaches its threshold; nearest is {best.label} {best.probability:.0%}"
