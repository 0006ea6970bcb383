"""What all commands share: settings, missing extras, progress, and lines that are safe to print."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from time import monotonic
from typing import TYPE_CHECKING, Any, Final

import typer

from onesheet.errors import InvalidRequestError, MissingExtraError

if TYPE_CHECKING:
    from rich.table import Table

    from onesheet.settings import Settings

_PIPED_WIDTH: Final = 160
_LINE_SECONDS: Final = 60


def read_settings(**options: Any) -> Settings:
    """Settings from the environment, with a command's options on top; those that are None were not given.

    Raises:
        InvalidRequestError: An option is out of its range, or the `.env` file cannot be read.
    """
    from onesheet.settings import Settings

    given = {name: value for name, value in options.items() if value is not None}
    try:
        settings = Settings(**given)
    except UnicodeDecodeError as error:
        raise InvalidRequestError("the .env file here is no UTF-8 text") from error
    except PermissionError as error:
        raise InvalidRequestError("the .env file here cannot be read: permission denied") from error
    for name in given:
        if problem := settings.problem(name):
            raise InvalidRequestError(f"{name} {problem}")
    return settings


@contextlib.contextmanager
def extra(name: str) -> Iterator[None]:
    """Turn a missing package into the command that installs it.

    Raises:
        MissingExtraError: In place of any `ModuleNotFoundError`.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        raise MissingExtraError(
            f"this command needs the extra `{name}` ({error.name} is not installed): "
            f"uv sync --extra {name}, or pip install 'onesheet[{name}]'"
        ) from error


@contextlib.contextmanager
def progress(description: str) -> Iterator[Callable[[int, int | None], None]]:
    """A progress bar on standard error; yields `advance(done, total)`. It leaves the screen when all is done.

    Where there is no terminal, a line a minute.
    """
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    rate = TextColumn("{task.fields[rate]}")
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), rate, TimeRemainingColumn())
    told = monotonic()
    with Progress(*columns, console=console, disable=not console.is_terminal, transient=True) as bar:
        task = bar.add_task(description, total=None, rate="")

        def advance(done: int, total: int | None) -> None:
            nonlocal told
            bar.start()
            speed = bar.tasks[0].speed
            bar.update(task, completed=done, total=total, rate=f"{speed:,.0f}/s" if speed else "")
            if done == total:
                bar.stop()
            if not console.is_terminal and monotonic() > told + _LINE_SECONDS:
                told = monotonic()
                complain(f"{description}: {done:,} of {'?' if total is None else f'{total:,}'}")

        yield advance


def show_table(table: Table) -> None:
    """On standard output, as wide as the terminal; where there is none, nobody is short of room."""
    from rich.console import Console

    console = Console()
    if not console.is_terminal:
        console.width = _PIPED_WIDTH
    console.print(table)


def printable(text: object) -> str:
    """On one line, and without control characters that could play with the terminal."""
    return "".join(letter if letter.isprintable() else "\ufffd" for letter in str(text).replace("\n", " "))


def complain(message: str) -> None:
    """One line on standard error."""
    typer.echo(f"onesheet: {printable(message)}", err=True)
