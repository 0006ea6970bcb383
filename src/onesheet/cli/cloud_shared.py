"""What the commands of `onesheet cloud` share: options, the project, prices, and how requests are sent or shown."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from onesheet.console import extra, read_settings, show_table
from onesheet.errors import InvalidRequestError

if TYPE_CHECKING:
    from onesheet.cloud.config import Place
    from onesheet.cloud.cost import Estimate
    from onesheet.cloud.google import Google
    from onesheet.cloud.steps import Step

ProjectOption = Annotated[str | None, typer.Option(help="Id of the project. (default: ONESHEET_CLOUD_PROJECT)")]
RegionOption = Annotated[str | None, typer.Option(help="(default: ONESHEET_CLOUD_REGION or europe-west4)")]
ConfigOption = Annotated[
    Path | None, typer.Option("--config", metavar="FILE", help="What runs there. (default: the shipped cloud.yaml)")
]
DryRunOption = Annotated[bool, typer.Option("--dry-run", help="Print every request as JSON, and send none.")]
YesOption = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]
WaitOption = Annotated[bool, typer.Option("--wait/--no-wait", help="Stay until it has ended; exit 1 if it failed.")]
TagOption = Annotated[str | None, typer.Option(help="Of the images. (default: the commit here)")]
MachinesOption = Annotated[int, typer.Option("--workers", min=0, help="Machines beside the chief.")]


def open_project(project: str | None, region: str | None, config: Path | None) -> tuple[Place, Google]:
    """The place that options and settings name, and its services."""
    settings = read_settings(cloud_project=project, cloud_region=region)
    with extra("cloud"):
        from onesheet.cloud.config import read_place
        from onesheet.cloud.google import Google
    place = read_place(settings, config)
    return place, Google(place.project, place.region, settings.cloud_emulator)


def send_or_show(google: Google, steps: Sequence[Step], dry_run: bool) -> list[Any]:
    """Send requests one after the other and say what was done, or print them."""
    from onesheet.cloud.steps import run_steps

    if dry_run:
        for step in steps:
            typer.echo(json.dumps({"what": step.what, **step.shown()}))
        return []
    return run_steps(google, steps, lambda what: typer.echo(f"done: {what}"))


def agree(estimate: Estimate, agreed: bool) -> None:
    """Show the price on standard error, and ask unless it was agreed to before."""
    show_estimate(estimate, to_stderr=True)
    confirm("start it?", agreed)


def confirm(question: str, yes: bool) -> None:
    """Go on only if somebody says so, here or by --yes."""
    if yes:
        return
    if not sys.stdin.isatty():
        raise InvalidRequestError(f"{question} say --yes")
    if not typer.confirm(question, err=True):
        raise typer.Exit(1)


def show_estimate(estimate: Estimate, to_stderr: bool = False) -> None:
    """What something costs, as a table."""
    from rich.console import Console
    from rich.table import Table

    table = Table("", estimate.least, estimate.most, caption=estimate.note, caption_justify="left")
    lines = estimate.lines if len(estimate.lines) == 1 else (*estimate.lines, estimate.total)
    for line in lines:
        table.add_row(line.what, f"$ {line.least:,.2f}", f"$ {line.most:,.2f}")
    if to_stderr:
        Console(stderr=True).print(table)
    else:
        show_table(table)
