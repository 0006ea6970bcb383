"""`onesheet drift`: whether production still looks like what the model was judged on."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from onesheet.cli.log import open_log
from onesheet.cli.options import EXIT_FAILURE, BundleOption
from onesheet.console import complain, extra, read_settings
from onesheet.errors import InvalidRequestError, ReportError
from onesheet.priority import let_others_go_first

if TYPE_CHECKING:
    from onesheet.monitoring.drift.run import Drift

app = typer.Typer()

_EXIT_BLIND: Final = 3
_UNITS = {"h": "hours", "d": "days", "w": "weeks"}


@app.command(epilog="Example: onesheet drift --since 7d --out reports/drift --fail-on-drift")
def drift(
    since: Annotated[
        str,
        typer.Option(help="Start of the window: an age such as 24h, 7d or 2w, or a moment such as 2026-11-01, UTC."),
    ] = "7d",
    until: Annotated[str | None, typer.Option(help="Its end, in the same forms. (default: now)")] = None,
    bundle: BundleOption = None,
    url: Annotated[
        str | None, typer.Option(help="SQLAlchemy URL of the log. (default: ONESHEET_LOG_URL or sqlite:///onesheet.db)")
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(help="Folder for drift.json, and report.html and report.json made by Evidently, with histograms."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="The result as JSON.")] = False,
    notify: Annotated[
        bool, typer.Option("--notify", help="Tell ONESHEET_DRIFT_WEBHOOK when the verdict turns to drift.")
    ] = False,
    fail_on_drift: Annotated[
        bool,
        typer.Option("--fail-on-drift", help="Exit with 1 when the verdict is drift, and with 3 when there is none."),
    ] = False,
) -> None:
    """Compare what was asked lately with the posters that the model was judged on.

    The verdict is ok, warning, drift or not enough data; each one is also kept in the log's database. Only predictions
    of the bundle's own name and version are compared; those of others in the window are counted. With --fail-on-drift,
    exit code 3 means that there was not enough to compare, or that most predictions are of other versions.
    """
    let_others_go_first()  # also while the libraries are read, which takes longest
    with extra("drift"):
        from onesheet.monitoring.drift import find_drift, tell_of_drift
    from onesheet.bundle import load_bundle

    now = datetime.now(UTC)
    window = _moment(since, now), _moment(until, now) if until else now
    settings = read_settings(bundle=bundle)
    if notify and not settings.drift_webhook:
        raise InvalidRequestError("--notify needs ONESHEET_DRIFT_WEBHOOK")
    with open_log(url) as log:
        found = find_drift(log, load_bundle(settings.bundle), *window, with_report=bool(out))
        if as_json:
            typer.echo(json.dumps(found.to_dict()))
        else:
            _show(found)
        if out:
            _write(found, out)
        if notify:
            tell_of_drift(log, settings)
    if found.other_models and found.is_blind:
        complain("to watch what answers, name its bundle with --bundle or ONESHEET_BUNDLE")
    if fail_on_drift and found.verdict == "drift":
        raise typer.Exit(EXIT_FAILURE)
    if fail_on_drift and found.is_blind:
        raise typer.Exit(_EXIT_BLIND)


@app.command(epilog="Example: onesheet watch --every 6, then curl -X POST http://127.0.0.1:8002/drift/run")
def watch(
    host: Annotated[str | None, typer.Option(help="Address to listen on. (default: 127.0.0.1)")] = None,
    port: Annotated[int | None, typer.Option(min=0, max=65535, help="(default: ONESHEET_DRIFT_PORT or 8002)")] = None,
    every: Annotated[
        float | None,
        typer.Option(min=0, metavar="HOURS", help="How often to compare; 0: only on request. (default: 24)"),
    ] = None,
    bundle: BundleOption = None,
) -> None:
    """Run the drift service: it compares regularly and on request, and Prometheus reads the verdict from /metrics."""
    let_others_go_first()
    with extra("drift"):
        from onesheet.monitoring.drift.service import watch as run_service

    run_service(read_settings(drift_host=host, drift_port=port, drift_every_hours=every, bundle=bundle))


def _write(found: Drift, folder: Path) -> None:
    """The result and its report, and nothing of an earlier one.

    Raises:
        ReportError: The report could not be made; the result is written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "drift.json").write_text(json.dumps(found.to_dict(), indent=2) + "\n", encoding="utf-8")
    for name in ("report.html", "report.json"):
        (folder / name).unlink(missing_ok=True)
    if found.report:
        (folder / "report.html").write_bytes(found.report.html)
        (folder / "report.json").write_bytes(found.report.json)
    if found.report_error:
        raise ReportError(found.report_error)


def _show(found: Drift) -> None:
    from rich.console import Console
    from rich.table import Table

    typer.echo(f"{found.verdict}: {found.summary}")
    if not found.columns:
        return
    table = Table("moved", "verdict", "before", "now", "distance", "chance")
    for column in found.columns:
        means = ("–" if mean is None else f"{mean:.3g}" for mean in (column.reference, column.current))
        table.add_row(column.name, column.verdict, *means, f"{column.distance:.2f}", f"{column.q_value:.1g}")
    Console().print(table)


def _moment(text: str, now: datetime) -> datetime:
    """An age before now, or a moment in UTC.

    Raises:
        InvalidRequestError: It is neither.
    """
    try:
        if age := re.fullmatch(r"(\d+(?:\.\d+)?)([hdw])", text):
            return now - timedelta(**{_UNITS[age[2]]: float(age[1])})
        moment = datetime.fromisoformat(text)
    except (ValueError, OverflowError) as error:
        raise InvalidRequestError(f"{text} is neither an age such as 7d nor a moment such as 2026-11-01") from error
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
