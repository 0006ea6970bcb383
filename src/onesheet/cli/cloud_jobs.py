"""`onesheet cloud train`, `sweep`, `download` and, in a job itself, `work`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final, Literal

import typer

from onesheet.cli.cloud_shared import (
    ConfigOption,
    DryRunOption,
    MachinesOption,
    ProjectOption,
    RegionOption,
    TagOption,
    WaitOption,
    YesOption,
    agree,
    open_project,
    send_or_show,
)
from onesheet.cli.options import RAW, RawOption
from onesheet.configs import default_config_dir, read_config
from onesheet.console import progress

if TYPE_CHECKING:
    from onesheet.cloud.config import Place
    from onesheet.cloud.google import Google
    from onesheet.cloud.steps import Call, Step

app = typer.Typer()

_SPLITS: Final = Path("splits.csv")

OverridesArgument = Annotated[
    list[str] | None, typer.Argument(metavar="KEY=VALUE", help="Hydra overrides, such as optimizer.lr=3e-4.")
]
NameOption = Annotated[str, typer.Option(help="Of the run; the same name goes on with it.")]
DataOption = Annotated[
    str | None,
    typer.Option(metavar="GS", help="gs:// address of the posters. (default: --raw, uploaded as far as needed)"),
]
MachineOption = Annotated[str, typer.Option(help="Name of a machine in the configuration: cpu, t4, l4, a100.")]
SpotOption = Annotated[bool, typer.Option(help="On machines that Google may take away, for less.")]


@app.command(epilog="Example: onesheet cloud train experiment=starter --name starter-2 --machine t4 --workers 1")
def train(
    overrides: OverridesArgument = None,
    name: NameOption = "training",
    raw: RawOption = RAW,
    data: DataOption = None,
    machine: MachineOption = "cpu",
    workers: MachinesOption = 0,
    spot: SpotOption = False,
    tag: TagOption = None,
    project: ProjectOption = None,
    region: RegionOption = None,
    config: ConfigOption = None,
    dry_run: DryRunOption = False,
    yes: YesOption = False,
    wait: WaitOption = False,
) -> None:
    """Train on Vertex AI: on one machine, or on a chief and workers that share every batch.

    The run and its bundle come to the bucket while it goes on: `onesheet cloud download NAME`.
    """
    place, google = open_project(project, region, config)
    from onesheet.cloud import cost, jobs
    from onesheet.cloud.builds import commit

    agree(cost.of_training(place, cost.read_prices(), machine, workers + 1), dry_run or yes)
    image = tag or commit(Path.cwd())
    with _posters(place, raw, data) as (address, uploads):
        training = jobs.Training(name, address, tuple(overrides or ()), machine, workers, image, spot)
        _start(google, uploads, jobs.train(place, training), "custom_job", dry_run, wait)


@app.command(epilog="Example: onesheet cloud sweep experiment=starter --name search --trials 20 --parallel 4")
def sweep(
    overrides: OverridesArgument = None,
    space: Annotated[
        Path | None, typer.Option(help="Search space, in W&B's schema. (default: the shipped sweep.yaml)")
    ] = None,
    trials: Annotated[int, typer.Option(min=1, help="Trainings in all.")] = 20,
    parallel: Annotated[int, typer.Option(min=1, help="At a time.")] = 2,
    name: NameOption = "sweep",
    raw: RawOption = RAW,
    data: DataOption = None,
    machine: MachineOption = "cpu",
    workers: MachinesOption = 0,
    spot: SpotOption = False,
    tag: TagOption = None,
    project: ProjectOption = None,
    region: RegionOption = None,
    config: ConfigOption = None,
    dry_run: DryRunOption = False,
    yes: YesOption = False,
    wait: WaitOption = False,
) -> None:
    """Search for better hyperparameters on Vertex AI: many trainings, each with values that Google chooses."""
    place, google = open_project(project, region, config)
    from onesheet.cloud import cost, jobs
    from onesheet.cloud.builds import commit
    from onesheet.training.searchspace import SearchSpace

    wanted = read_config(space or default_config_dir() / "sweep.yaml", SearchSpace)
    prices = cost.read_prices()
    agree(cost.of_training(place, prices, machine, workers + 1, trials, parallel), dry_run or yes)
    image = tag or commit(Path.cwd())
    with _posters(place, raw, data) as (address, uploads):
        training = jobs.Training(name, address, tuple(overrides or ()), machine, workers, image, spot)
        call = jobs.sweep(place, training, wanted, trials, parallel)
        _start(google, uploads, call, "hyperparameter_tuning_job", dry_run, wait)


@app.command(epilog="Example: onesheet cloud download starter-2 --out outputs/starter-2")
def download(
    name: Annotated[str, typer.Argument(help="Of a run; of a trial: NAME/trials/NUMBER.")],
    out: Annotated[Path | None, typer.Option(help="Folder. (default: outputs/NAME)")] = None,
    project: ProjectOption = None,
    region: RegionOption = None,
    config: ConfigOption = None,
) -> None:
    """Get a run from the bucket, as far as it is not here: checkpoints, curves, and the bundle."""
    place, _ = open_project(project, region, config)
    from onesheet.cloud import jobs, transfer

    target = out or Path("outputs") / name
    with progress("Files") as advance:
        done = transfer.download(jobs.run_address(place, name), target, advance)
    typer.echo(f"{target}: {done.files} files, {done.bytes:,} bytes; {done.skipped} were here")


@contextmanager
def _posters(place: Place, raw: Path, data: str | None) -> Iterator[tuple[str, list[Step]]]:
    """Their address, and what has to be uploaded for it, with a bar."""
    if data:
        yield data, []
        return
    from onesheet.cloud.jobs import data_address
    from onesheet.cloud.steps import Upload

    address = data_address(place, raw)
    with progress("Posters") as advance:
        steps: list[Step] = [Upload("posters", raw, address, advance)]
        if _SPLITS.is_file():
            steps.append(Upload("splits", _SPLITS, f"{address}/{_SPLITS}"))
        yield address, steps


def _start(
    google: Google,
    before: Sequence[Step],
    call: Call,
    kind: Literal["custom_job", "hyperparameter_tuning_job"],
    dry_run: bool,
    wait: bool,
) -> None:
    from onesheet.cloud import jobs

    answers = send_or_show(google, [*before, call], dry_run)
    if dry_run:
        return
    job = answers[-1].name
    number = job.rpartition("/")[2]
    typer.echo(f"{call.what} is job {number}; next: onesheet cloud logs {number} --follow")
    if wait:
        jobs.wait(google, kind, job, typer.echo)
