"""`onesheet cloud work`: what a machine of a training job runs."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from onesheet.console import extra, printable, read_settings

app = typer.Typer()


# A trial of a search is given its values as options that only Hydra knows: `--optimizer.lr=0.003`.
@app.command(
    context_settings={"ignore_unknown_options": True},
    epilog="Example: onesheet cloud work --data gs://my-bucket/data/v1 --run gs://my-bucket/runs/first loss=focal",
)
def work(
    data: Annotated[str, typer.Option(metavar="GS", help="gs:// address of train.csv and Images/.")],
    run: Annotated[str, typer.Option(metavar="GS", help="gs:// address of the run; what is there is gone on with.")],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(metavar="KEY=VALUE", help="Hydra overrides, such as optimizer.lr=3e-4; with or without --."),
    ] = None,
    folder: Annotated[Path, typer.Option(file_okay=False, help="To work in, on this machine.")] = Path("outputs/job"),
    secret: Annotated[
        list[str] | None,
        typer.Option(metavar="VARIABLE=NAME", help="Variable that gets the value of a secret; may be repeated."),
    ] = None,
    sync: Annotated[float, typer.Option(min=1, help="Seconds between two uploads of the run.")] = 60,
) -> None:
    """Train as a machine of a Vertex AI job: posters from a bucket, the run and its bundle to a bucket.

    The run is uploaded again and again, so that a machine that takes over goes on with it. SIGTERM ends it with exit
    code 143.
    """
    with extra("train"):
        from onesheet.cloud.google import read_secret
        from onesheet.cloud.worker import Work
        from onesheet.cloud.worker import work as run_work
    for one in secret or ():
        variable, _, name = one.partition("=")
        os.environ[variable] = read_secret(name, read_settings().cloud_emulator)
    job = Work(data, run, tuple(overrides or ()), folder, sync_seconds=sync)
    run_work(job, os.environ, lambda line: typer.echo(printable(line)))
