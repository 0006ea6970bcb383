"""Commands that train: `pretrain`, `train`, `sweep`, and `runs` to look back."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated, Literal

import typer

from onesheet.cli.options import ConfigDirOption
from onesheet.configs import default_config_dir, read_config
from onesheet.console import complain, extra, progress
from onesheet.errors import InvalidRequestError

app = typer.Typer()
runs = typer.Typer(no_args_is_help=True, help="Look at earlier training runs.")

SweepBackend = Literal["optuna", "wandb"]
OverridesArgument = Annotated[
    list[str] | None, typer.Argument(metavar="KEY=VALUE", help="Hydra overrides, such as optimizer.lr=3e-4.")
]
StoreOption = Annotated[str, typer.Option(help="Address of the MLflow store.")]

MLFLOW_STORE = "sqlite:///outputs/mlflow.db"


@app.command(epilog="Example: onesheet train experiment=smoke run_dir=outputs/smoke")
def train(
    overrides: OverridesArgument = None,
    config_dir: ConfigDirOption = None,
    from_run: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Repeat the run in this folder, in a new folder.")
    ] = None,
    config_file: Annotated[
        Path | None,
        typer.Option(
            "--config",
            metavar="FILE",
            exists=True,
            dir_okay=False,
            help="A whole configuration, as --show prints it, in place of the defaults.",
        ),
    ] = None,
    show: Annotated[bool, typer.Option("--show", help="Print every knob of the configuration and stop.")] = False,
) -> None:
    """Train a model.

    Choose from the groups in configs/ (model=resnet18 loss=asymmetric logger=wandb) and set any knob
    (optimizer.lr=3e-4). An interrupted or killed run goes on with resume=true run_dir=DIR.
    """
    with extra("train"):
        from onesheet.training.compose import compose_config, compose_yaml
    if from_run and config_file:
        raise InvalidRequestError("--from-run or --config: each is the whole configuration")
    if show:
        typer.echo(compose_yaml(overrides or [], config_dir, from_run=from_run, from_file=config_file), nl=False)
        return
    config = compose_config(overrides or [], config_dir, from_run=from_run, from_file=config_file)
    with extra("train"):
        from onesheet.training.launch import rank
        from onesheet.training.requirements import training_notes
        from onesheet.training.run import repeat_differences, training_manifest
        from onesheet.training.run import train as run_training
    for difference in repeat_differences(from_run, config) if from_run else ():
        complain(f"note: not the same as in {from_run}: {difference}")
    for note in training_notes(training_manifest(config)) if rank() == 0 else ():
        complain(f"note: {note}")
    with progress("Reading posters") as advance:
        result = run_training(config, on_poster=advance)
    if rank() > 0:  # the first process speaks for all
        return
    typer.echo(f"best validation mAP (macro) {result.map_macro:.3f}")
    typer.echo(f"next: onesheet export {shlex.quote(str(result.best))} --out {shlex.quote(f'models/{config.name}')}")


@app.command(epilog="Example: onesheet pretrain experiment=pretrain run_dir=outputs/pretrain")
def pretrain(
    overrides: OverridesArgument = None,
    config_dir: ConfigDirOption = None,
) -> None:
    """Train a backbone on posters without their genres, as a start for `onesheet train`.

    It learns what two views of the same poster have in common (Barlow Twins). Loss, loggers, mixup, growing pictures
    and early stopping play no part. An interrupted or killed run goes on with resume=true run_dir=DIR.
    """
    with extra("train"):
        from onesheet.training.compose import compose_config
    config = compose_config(overrides or [], config_dir)
    with extra("train"):
        from onesheet.training.selfsupervised import pretrain as run_pretraining
    with progress("Reading posters") as advance:
        weights = run_pretraining(config, advance)
    typer.echo(weights)
    typer.echo(f"next: onesheet train … model.pretrained=true {shlex.quote(f'model.weights={weights}')}")


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
    file = space or default_config_dir() / "sweep.yaml"
    if backend == "wandb":
        wanted_space = read_config(file, searchspace.SearchSpace)
        sweep_id = sweeps.create_wandb_sweep(wanted_space, overrides or [], project, entity)
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
