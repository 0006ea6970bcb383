"""`onesheet registry`: versions of the model, and which of them is the champion."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from onesheet.cli.options import PROCESSED, RAW, JsonOption, ProcessedOption, RawOption
from onesheet.configs import default_config_dir, read_config
from onesheet.console import complain, extra, progress, read_settings, show_table
from onesheet.refs import CHALLENGER, CHAMPION

if TYPE_CHECKING:
    from onesheet.registry import Move, Registry, Version
    from onesheet.registry.promotion import Decision

app = typer.Typer(
    no_args_is_help=True,
    help="Versions of the model: keep, compare, promote, roll back. `--bundle champion` answers with the champion.",
)

VersionArgument = Annotated[str, typer.Argument(metavar="VERSION", help="Its number, or an alias.")]
UrlOption = Annotated[
    str | None,
    typer.Option(
        help="A file, database or server of MLflow, or wandb://ENTITY/PROJECT. "
        "(default: ONESHEET_REGISTRY_URL or sqlite:///outputs/mlflow.db)"
    ),
]
GatesOption = Annotated[Path | None, typer.Option(help="Limits of the gates. (default: the shipped gates.yaml)")]


@app.command("list", epilog="Example: onesheet registry list --json")
def list_(url: UrlOption = None, as_json: JsonOption = False) -> None:
    """List the versions, newest first, with where they come from."""
    registry = _open(url)
    versions, aliases = registry.versions(), registry.aliases()
    if as_json:
        named = {number: sorted(alias for alias in aliases if aliases[alias] == number) for number in aliases.values()}
        for version in versions:
            found = {**version.model_dump(mode="json"), "aliases": named.get(version.number, [])}
            typer.echo(json.dumps(found))
        return
    if not versions:
        typer.echo("no versions yet; next: onesheet registry register models/BUNDLE")
        return
    _show_versions(versions, aliases)


@app.command(epilog="Example: onesheet registry register models/candidate --run outputs/retrain")
def register(
    bundle: Annotated[str, typer.Argument(metavar="REF", help="A folder, a .tar.gz, `starter` or a gs:// address.")],
    run: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Folder of the training run that it comes from.")
    ] = None,
    raw: RawOption = RAW,
    processed: ProcessedOption = PROCESSED,
    note: Annotated[str, typer.Option(help="In words, for whoever reads the list.")] = "",
    challenger: Annotated[bool, typer.Option("--challenger/--no-challenger", help="Make it the challenger.")] = True,
    url: UrlOption = None,
) -> None:
    """Keep a bundle as the newest version, with its run, its data and its commit.

    The manifest in --processed is kept too if the bundle was trained on it: it tells later which posters it has seen.
    """
    with extra("promote"):
        from onesheet.registry.lineage import submission
    registry = _open(url, to_move=challenger)
    with submission(bundle, run, processed, raw) as submitted:
        standing = registry.standing(CHALLENGER) if challenger else None
        version = registry.register(submitted.folder, submitted.lineage, note)
    for missing in submitted.notes:
        complain(f"note: {missing}")
    move = registry.move(standing, version, "register", note or "new") if standing else None
    typer.echo(f"{version}" + (f" is the {CHALLENGER}" if move else ""))
    typer.echo(f"next: onesheet registry promote {version.number}")
    if move:
        _tell(move, version)


@app.command(epilog="Example: onesheet registry compare challenger champion")
def compare(
    version: VersionArgument = CHALLENGER,
    other: Annotated[str, typer.Argument(metavar="OTHER", help="What it is compared with.")] = CHAMPION,
    raw: RawOption = RAW,
    processed: ProcessedOption = PROCESSED,
    gates: GatesOption = None,
    url: UrlOption = None,
    as_json: JsonOption = False,
) -> None:
    """Measure two versions on the test posters that neither has seen, and show which gates the first would pass."""
    decision = _decide(_open(url), version, raw, processed, gates, against=other)
    if as_json:
        typer.echo(json.dumps(decision.to_dict()))
    else:
        _show_decision(decision)


@app.command(epilog="Example: onesheet registry promote challenger")
def promote(
    version: VersionArgument = CHALLENGER,
    raw: RawOption = RAW,
    processed: ProcessedOption = PROCESSED,
    gates: GatesOption = None,
    url: UrlOption = None,
    as_json: JsonOption = False,
) -> None:
    """Make a version the champion if it passes every gate; else say which it does not pass, and change nothing."""
    registry = _open(url, to_move=True)
    decision = _decide(registry, version, raw, processed, gates)
    if as_json:
        typer.echo(json.dumps(decision.to_dict()))
    else:
        _show_decision(decision)
    from onesheet.registry.promotion import promote as run_promotion

    move = run_promotion(registry, decision)
    if not as_json:
        typer.echo(f"{decision.version} is the {CHAMPION} now" + (f", instead of {move.before}" if move.before else ""))
    _tell(move, decision.version)


@app.command(epilog="Example: onesheet registry rollback --reason 'answers nothing but Drama'")
def rollback(
    to: Annotated[
        str | None, typer.Option(metavar="VERSION", help="Its number. (default: the champion before this one)")
    ] = None,
    reason: Annotated[str, typer.Option(help="For the history.")] = "",
    url: UrlOption = None,
) -> None:
    """Make an earlier version the champion again, at once and without gates."""
    registry = _open(url, to_move=True)
    standing = registry.standing(CHAMPION)
    version = registry.find(to) if to else registry.former_champion()
    move = registry.move(standing, version, "rollback", reason or "rolled back")
    typer.echo(f"{version} is the {CHAMPION} again")
    _tell(move, version)


@app.command(epilog="Example: onesheet registry history")
def history(url: UrlOption = None, as_json: JsonOption = False) -> None:
    """Show who moved which alias when, and why."""
    moves = _open(url).history()
    if as_json:
        for move in moves:
            typer.echo(move.model_dump_json())
        return
    from rich.table import Table

    table = Table("", "when", "who", "move", "alias", "from", "to", "why")
    for move in moves:
        ended = {"done": "", "lost": " (too late: nothing moved)", "begun": " (broken off?)"}[move.state]
        before = "–" if move.before is None else str(move.before)
        when = f"{move.time:%Y-%m-%d %H:%M:%S}"
        table.add_row(
            str(move.number), when, move.by, f"{move.kind}{ended}", move.alias, before, str(move.after), move.reason
        )
    show_table(table)


@app.command(epilog="Example: onesheet registry fetch champion --out models/champion")
def fetch(
    version: VersionArgument,
    out: Annotated[Path, typer.Option(help="Folder to make.")],
    url: UrlOption = None,
) -> None:
    """Copy the bundle of a version into a folder, and verify it."""
    registry = _open(url)
    found = registry.find(version)
    bundle = registry.fetch(found, out)
    typer.echo(f"{out}: {found}, {len(bundle.files) + 1} files as they were registered")


@app.command(epilog="Example: onesheet registry verify challenger --seconds 10")
def verify(
    version: VersionArgument = CHALLENGER,
    seconds: Annotated[float, typer.Option(min=0.5, help="How long it is asked over HTTP.")] = 10.0,
    connections: Annotated[int, typer.Option(min=1, help="How many ask at a time.")] = 4,
    max_p95: Annotated[
        float, typer.Option(min=1, metavar="MS", help="Slowest 95th percentile of the latency that passes.")
    ] = 1000.0,
    url: UrlOption = None,
) -> None:
    """Check that a version works here: its files, its answers, and a service with it under load for a moment.

    Needs no posters and nothing that trains, so a clean machine with the base install can do it.
    """
    from onesheet.registry.verification import verify as run_verification

    registry = _open(url)
    found = registry.find(version)
    run_verification(registry, found, seconds=seconds, connections=connections, max_p95_ms=max_p95, on_step=typer.echo)
    typer.echo(f"{found} works")


def _open(url: str | None, *, to_move: bool = False) -> Registry:
    """The registry; before an alias is moved in it, the settings of the webhook are checked too."""
    from onesheet.registry import open_registry

    settings = read_settings(registry_url=url)
    if to_move:
        settings.check(("registry_webhook", "registry_webhook_token"))
    return open_registry(settings)


def _tell(move: Move, version: Version) -> None:
    from onesheet.registry.notice import tell_of_move

    tell_of_move(read_settings(), move, version)


def _decide(
    registry: Registry, version: str, raw: Path, processed: Path, gates: Path | None, against: str = CHAMPION
) -> Decision:
    with extra("promote"):
        from onesheet.registry.gates import Limits
        from onesheet.registry.promotion import decide
    limits = read_config(gates or default_config_dir() / "gates.yaml", Limits)
    return decide(registry, version, raw, processed, limits, progress, against=against, threads=read_settings().threads)


def _show_versions(versions: list[Version], aliases: dict[str, int]) -> None:
    from rich.table import Table

    table = Table("", "alias", "model", "mAP", "F1 macro", "registered", "by", "commit", "data", "note")
    for version in versions:
        lineage = version.lineage
        named = ", ".join(sorted(alias for alias, number in aliases.items() if number == version.number))
        figures = (lineage.metrics.get(name) for name in ("map_macro", "f1_macro"))
        table.add_row(
            str(version.number),
            named,
            f"{lineage.model_name} {lineage.model_version}",
            *("–" if figure is None else f"{figure:.3f}" for figure in figures),
            f"{version.registered:%Y-%m-%d %H:%M}",
            version.by,
            (lineage.git_commit or "–")[:9],
            (lineage.data_version or lineage.fingerprint)[:9],
            version.note,
        )
    show_table(table)


def _show_decision(decision: Decision) -> None:
    from rich.table import Table

    other = str(decision.champion) if decision.champion else "nobody: there is no champion yet"
    table = Table("gate", "", "asked", other, str(decision.version), title=f"{decision.comparison.posters} posters")
    for gate in decision.gates:
        verdict = "[green]passed[/]" if gate.passed else "[red]refused[/]"
        table.add_row(gate.name, verdict, gate.asked, gate.champion, gate.challenger)
    show_table(table)
