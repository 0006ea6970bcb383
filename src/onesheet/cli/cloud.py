"""`onesheet cloud`: the project on Google Cloud, one command for each thing that is done there."""

from __future__ import annotations

import json
import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, Final, Literal

import typer

from onesheet.cli import cloud_jobs, cloud_work
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
    confirm,
    open_project,
    send_or_show,
    show_estimate,
)
from onesheet.cli.options import JsonOption
from onesheet.console import printable, show_table
from onesheet.errors import CloudError, InvalidRequestError

app = typer.Typer(
    no_args_is_help=True,
    help="Google Cloud: make the project ready, build images, train, deploy, look, tear down. --dry-run shows every "
    "request and sends none; what costs something says how much before it asks.",
)
app.add_typer(cloud_jobs.app)
app.add_typer(cloud_work.app)

_ALERTS: Final = Path("deploy/gcp/monitoring")
_UNITS: Final = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}


@app.command(epilog="Example: onesheet cloud bootstrap --project my-project --dry-run")
def bootstrap(
    project: ProjectOption = None,
    region: RegionOption = None,
    config: ConfigOption = None,
    dry_run: DryRunOption = False,
) -> None:
    """Make what everything else needs: services, repository, bucket, accounts, rights, secrets.

    May be run again: what is there stays. Secrets are made empty; their values are put in by a person.
    """
    place, google = open_project(project, region, config)
    from onesheet.cloud.bootstrap import bootstrap as steps

    send_or_show(google, list(steps(place)), dry_run)
    if not dry_run:
        typer.echo("next: put values into the secrets (docs/cloud.md), then: onesheet cloud build")


@app.command(epilog="Example: onesheet cloud build --image api --image train")
def build(
    image: Annotated[list[str] | None, typer.Option("--image", help="Only this one; may be repeated.")] = None,
    tag: TagOption = None,
    local: Annotated[bool, typer.Option("--local", help="Build and push with Docker or Podman here.")] = False,
    tool: Annotated[Literal["docker", "podman"], typer.Option(help="For --local.")] = "docker",
    base: Annotated[str | None, typer.Option(help="For --local: another image to build on.")] = None,
    trigger: Annotated[
        str | None,
        typer.Option(metavar="OWNER/NAME", help="Instead: build every push to main of this GitHub repository."),
    ] = None,
    project: ProjectOption = None,
    region: RegionOption = None,
    config: ConfigOption = None,
    dry_run: DryRunOption = False,
    yes: YesOption = False,
    wait: WaitOption = True,
) -> None:
    """Build the images of this checkout with Cloud Build, and push them to the project's repository."""
    place, google = open_project(project, region, config)
    from onesheet.cloud import builds, cost

    checkout = Path.cwd()
    images = image or list(builds.EXTRAS)
    if trigger:
        send_or_show(google, [builds.trigger(place, trigger)], dry_run)
        return
    chosen = tag or builds.new_tag(checkout)
    if local:
        _build_here(list(builds.build_here(place, checkout, chosen, images, tool, base)), dry_run)
        return
    with builds.packed(checkout, place, chosen) as source:
        submitted = builds.submit(place, source.address, chosen, images)
        agree(cost.of_build(place, cost.read_prices(), builds.MACHINE, builds.MAX_MINUTES), dry_run or yes)
        answers = send_or_show(google, [source, submitted], dry_run)
    if dry_run:
        return
    number = answers[-1].metadata.build.id
    typer.echo(f"build {number}; onesheet cloud logs {number}")
    if wait:
        builds.wait(google, place, number, typer.echo)
        typer.echo(f"next: onesheet cloud deploy --tag {chosen}")


@app.command(epilog="Example: onesheet cloud deploy --tag 3f2a91c0d4e5 --bundle gs://my-bucket/runs/starter-2/bundle")
def deploy(
    tag: TagOption = None,
    bundle: Annotated[str, typer.Option(metavar="REF", help="That the services answer with.")] = "starter",
    service: Annotated[list[str] | None, typer.Option("--service", help="Only this one; may be repeated.")] = None,
    alerts: Annotated[bool, typer.Option("--alerts/--no-alerts", help="Bring alerts and dashboard up to date.")] = True,
    project: ProjectOption = None,
    region: RegionOption = None,
    config: ConfigOption = None,
    dry_run: DryRunOption = False,
    yes: YesOption = False,
) -> None:
    """Bring services, scheduled drift check, alerts and dashboard to Cloud Run and Cloud Monitoring."""
    place, google = open_project(project, region, config)
    from onesheet.cloud import builds, cost, services

    only = tuple(service or ())
    steps = list(services.deploy(place, tag or builds.commit(Path.cwd()), bundle, only, _ALERTS if alerts else None))
    agree(cost.of_services(place, cost.read_prices(), only), dry_run or yes)
    if not dry_run:
        services.check_secrets(google, place, only)
    answers = send_or_show(google, steps, dry_run)
    for name, address in services.addresses(answers or []).items():
        typer.echo(f"{name}: {address}")


@app.command(epilog="Example: onesheet cloud logs api --since 30m --follow")
def logs(
    what: Annotated[str, typer.Argument(help="A service, drift-check, or an id that `status` lists.")],
    since: Annotated[str, typer.Option(metavar="TIME", help="How far back: 30m, 2h, 7d.")] = "1h",
    limit: Annotated[int, typer.Option(min=1, max=10_000, help="Most entries, the newest.")] = 200,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on with what comes.")] = False,
    project: ProjectOption = None,
    region: RegionOption = None,
    config: ConfigOption = None,
) -> None:
    """Show what a service, a build, a training or a sweep has written."""
    place, google = open_project(project, region, config)
    from onesheet.cloud import observe

    for when, severity, text in observe.logs(google, place, what, _ago(since), limit, follow=follow):
        typer.echo(printable(f"{when:%Y-%m-%d %H:%M:%S} {severity:8} {text}"))


@app.command(epilog="Example: onesheet cloud status --json")
def status(
    project: ProjectOption = None,
    region: RegionOption = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """List services, drift checks, builds, trainings and sweeps, with how they are."""
    place, google = open_project(project, region, config)
    from onesheet.cloud import observe

    rows = observe.status(google, place)
    if as_json:
        for row in rows:
            typer.echo(json.dumps(row))
        return
    if not rows:
        typer.echo("nothing is there yet; next: onesheet cloud bootstrap")
        return
    from rich.table import Table

    table = Table("", "name", "state", "since (UTC)", "")
    for row in rows:
        table.add_row(*(printable(value) for value in row.values()))
    show_table(table)


@app.command(epilog="Example: onesheet cloud cost --machine t4 --workers 3")
def cost(
    machine: Annotated[str | None, typer.Option(help="A training on this machine, instead of the services.")] = None,
    workers: MachinesOption = 0,
    trials: Annotated[int, typer.Option(min=1, help="Trainings of a sweep.")] = 1,
    parallel: Annotated[int, typer.Option(min=1, help="At a time.")] = 1,
    project: ProjectOption = None,
    region: RegionOption = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Estimate what the services cost in a month, or what a training may cost; asks nobody and starts nothing."""
    place, _ = open_project(project or "my-project", region, config)
    from onesheet.cloud import cost as costs

    prices = costs.read_prices()
    if machine:
        estimate = costs.of_training(place, prices, machine, workers + 1, trials, parallel)
    else:
        estimate = costs.of_services(place, prices)
    if as_json:
        lines = [{"what": one.what, "least": one.least, "most": one.most} for one in (*estimate.lines, estimate.total)]
        typer.echo(json.dumps({"prices_of": str(estimate.noted), "currency": "USD", "lines": lines}))
        return
    show_estimate(estimate)


@app.command(epilog="Example: onesheet cloud teardown --dry-run")
def teardown(
    everything: Annotated[bool, typer.Option("--everything", help="Images, secrets and accounts too.")] = False,
    project: ProjectOption = None,
    region: RegionOption = None,
    config: ConfigOption = None,
    dry_run: DryRunOption = False,
    yes: YesOption = False,
) -> None:
    """Remove services, scheduled check, alerts and trigger, so that nothing costs or answers any more.

    The bucket stays, with posters, runs and bundles: `gcloud storage rm --recursive gs://BUCKET` removes it.
    """
    place, google = open_project(project, region, config)
    from onesheet.cloud import teardown as tearing

    steps = list(tearing.teardown(place, everything=everything))
    confirm(f"remove {', '.join(step.what for step in steps)} from project {place.project}?", dry_run or yes)
    send_or_show(google, steps, dry_run)


def _build_here(commands: list[list[str]], dry_run: bool) -> None:
    for command in commands:
        typer.echo(" ".join(command))
        if not dry_run and subprocess.run(command, check=False).returncode:
            raise CloudError(f"{' '.join(command[:2])} failed")


def _ago(text: str) -> datetime:
    number, unit = text[:-1], text[-1:]
    if not number.isdecimal() or unit not in _UNITS:
        raise InvalidRequestError(f"{text}: say a number and s, m, h or d, such as 30m")
    return datetime.now(UTC) - timedelta(**{_UNITS[unit]: int(number)})
