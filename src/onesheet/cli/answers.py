"""Commands that answer with a model: `predict`, `serve` and its `key`, `bench`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from onesheet.cli.options import EXIT_FAILURE, BundleOption, JsonOption, PrecisionOption
from onesheet.console import complain, printable, progress, read_settings
from onesheet.errors import OnesheetError

if TYPE_CHECKING:
    from onesheet.bench import BenchResult
    from onesheet.predictor import Prediction
    from onesheet.tune import Tuning

app = typer.Typer()


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
    engine: Annotated[
        Literal["fastapi", "bentoml"], typer.Option(help="What runs it; bentoml needs onesheet[bento].")
    ] = "fastapi",
    workers: Annotated[
        int | None, typer.Option(min=1, help="Processes side by side. (default: ONESHEET_WORKERS or 1)")
    ] = None,
    follow: Annotated[
        float | None,
        typer.Option(
            metavar="SECONDS",
            help="Look this often whether --bundle champion is another version by now. "
            "(default: ONESHEET_FOLLOW_SECONDS or never)",
        ),
    ] = None,
) -> None:
    """Serve the HTTP API until SIGTERM or Ctrl-C.

    SIGHUP loads the bundle again and switches to it without dropping a request.
    """
    from onesheet.serving import serve as serve_with_fastapi
    from onesheet.serving.bento_server import serve_with_bentoml

    settings = read_settings(
        bundle=bundle, precision=precision, host=host, port=port, workers=workers, follow_seconds=follow
    )
    (serve_with_bentoml if engine == "bentoml" else serve_with_fastapi)(settings)


@app.command(epilog="Example: onesheet key, then: ONESHEET_API_KEYS=DIGEST onesheet serve")
def key(as_json: JsonOption = False) -> None:
    """Make an API key, and the digest of it that the service is told; neither is kept anywhere."""
    import secrets

    from onesheet.serving.guard import digest

    made = secrets.token_urlsafe(32)
    if as_json:
        typer.echo(json.dumps({"key": made, "digest": digest(made)}))
    else:
        typer.echo(f"key, for the client:              {made}\ndigest, for ONESHEET_API_KEYS:    {digest(made)}")


@app.command(epilog="Example: onesheet bench data/raw/Images --tune")
def bench(
    images: Annotated[
        Path | None,
        typer.Argument(metavar="IMAGES", help="Folder of posters. (default: made-up ones of 300 x 444 pixels)"),
    ] = None,
    bundle: BundleOption = None,
    precision: PrecisionOption = None,
    seconds: Annotated[float, typer.Option(min=0.1, help="How long each figure is measured.")] = 3.0,
    find_settings: Annotated[
        bool,
        typer.Option(
            "--tune", help="Try the service with different numbers of processes, threads and pictures at once."
        ),
    ] = False,
    connections: Annotated[
        int, typer.Option(min=1, help="With --tune: requests under way at any time, as the service is to expect.")
    ] = 32,
    as_json: JsonOption = False,
) -> None:
    """Measure decoding, model, and both together on this machine.

    With --tune: start the service again and again, load it over HTTP, and print the settings that answer most.
    """
    from onesheet.bench import run_bench, sample_posters
    from onesheet.predictor import load_predictor

    settings = read_settings()
    ref, graph = bundle or settings.bundle, precision or settings.precision
    predictor = load_predictor(ref, threads=settings.threads, precision=graph)
    result: BenchResult | Tuning
    if find_settings:
        from onesheet.tune import tune

        place = str(Path(ref).absolute()) if Path(ref).exists() else ref
        shared = {"ONESHEET_BUNDLE": place, "ONESHEET_PRECISION": graph}
        with progress("Trying") as advance:
            result = tune(shared, sample_posters(images, predictor), connections, seconds, on_trial=advance)
    else:
        result = run_bench(predictor, images, seconds)
    typer.echo(json.dumps(result.to_dict()) if as_json else result.to_text())


def _sentence(prediction: Prediction) -> str:
    if prediction.predicted:
        return ", ".join(f"{score.label} {score.probability:.0%}" for score in prediction.predicted)
    best = prediction.topk[0]
    return f"no genre reaches its threshold; nearest is {best.label} {best.probability:.0%}"
