"""`onesheet report`: the course's report, checked against its own questions, and as a page."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from onesheet.cli.options import EXIT_FAILURE, JsonOption
from onesheet.console import complain, extra, printable

if TYPE_CHECKING:
    from onesheet.reporting.check import Finding
    from onesheet.reporting.parse import Question, Report

app = typer.Typer(no_args_is_help=True, help="Check the project's report; make a page of it.")

_REPORT: Final = Path("reports/README.md")

FileArgument = Annotated[Path, typer.Argument(metavar="[FILE]", help="The report, in the form of the template.")]


@app.command(epilog="Example: onesheet report check reports/README.md")
def check(file: FileArgument = _REPORT, as_json: JsonOption = False) -> None:
    """Compare each answer with what its question asks for: words, pictures, and files that are really there.

    Exit code 1 if anything should be otherwise.
    """
    report, findings = _checked(file)
    if as_json:
        typer.echo(json.dumps(_to_dict(file, report, findings)))
    else:
        _show(file, report, findings)
    if findings:
        raise typer.Exit(EXIT_FAILURE)


@app.command(epilog="Example: onesheet report html --out dist/report.html")
def html(
    file: FileArgument = _REPORT,
    out: Annotated[Path, typer.Option(help="The page.")] = Path("reports/report.html"),
) -> None:
    """Write the report as one page with its pictures in it."""
    report, findings = _checked(file)
    with extra("report"):
        from onesheet.reporting.html import write_report

    not_shown = write_report(report, file.parent, out)
    typer.echo(out)
    for picture in not_shown:
        complain(picture)
    if findings:
        complain(f"{file} is not as it should be yet: see onesheet report check")


def _checked(file: Path) -> tuple[Report, list[Finding]]:
    with extra("report"):
        from onesheet.reporting.check import check_report
        from onesheet.reporting.parse import read_report

    report = read_report(file)
    return report, check_report(report, file.parent)


def _show(file: Path, report: Report, findings: list[Finding]) -> None:
    for finding in findings:
        typer.echo(printable(finding))
    empty = [question for question in report.questions if question.declared_empty is not None]
    for question in empty:
        typer.echo(printable(f"question {question.number}: declared empty: {question.declared_empty}"))
    verdict = f"{len(findings)} to mend" if findings else "as asked for"
    typer.echo(f"{file}: {len(report.questions)} questions, {len(empty)} of them declared empty; {verdict}")


def _to_dict(file: Path, report: Report, findings: list[Finding]) -> dict[str, Any]:
    return {
        "file": str(file),
        "ok": not findings,
        "questions": [_counts(question) for question in report.questions],
        "findings": [finding.to_dict() for finding in findings],
    }


def _counts(question: Question) -> dict[str, Any]:
    return {
        "number": question.number,
        "title": question.title,
        "words": question.words,
        "words_asked": question.words_asked and asdict(question.words_asked),
        "pictures": len(question.pictures),
        "pictures_asked": question.pictures_asked and asdict(question.pictures_asked),
        "declared_empty": question.declared_empty,
    }
