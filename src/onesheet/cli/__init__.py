"""The command line: parses, calls, and shows; everything else happens elsewhere."""

from __future__ import annotations

import signal
import sys
import warnings
from importlib.metadata import version as package_version
from typing import Annotated

import typer

from onesheet.cli import answers, cloud, data, drift, log, models, page, registry, report, score, similar, training
from onesheet.cli.options import EXIT_FAILURE, EXIT_INTERRUPTED, EXIT_USAGE
from onesheet.console import complain
from onesheet.errors import ConfigError, InvalidRequestError, OnesheetError

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
app.add_typer(answers.app)
app.add_typer(page.app)
app.add_typer(data.app, name="data")
app.add_typer(training.app)
app.add_typer(training.runs, name="runs")
app.add_typer(models.app)
app.add_typer(registry.app, name="registry")
app.add_typer(drift.app)
app.add_typer(log.app, name="log")
app.add_typer(cloud.app, name="cloud")
app.add_typer(report.app, name="report")
app.add_typer(score.app)
app.add_typer(similar.app)


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
        # Threads may still end what they are at. Who does not want to wait presses again, and then it is over at once.
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        complain("interrupted")
        sys.exit(EXIT_INTERRUPTED)


@app.callback(invoke_without_command=True)
def _root(
    version: Annotated[bool, typer.Option("--version", help="Show the version and exit.")] = False,
) -> None:
    if version:
        typer.echo(f"onesheet {package_version('onesheet')}")
        raise typer.Exit
