"""`onesheet log`: what was asked and answered, exported and thinned out."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Annotated
from uuid import UUID

import typer

from onesheet.console import extra, progress, read_settings
from onesheet.errors import UnknownPredictionError

if TYPE_CHECKING:
    from onesheet.predictionlog import PredictionLog

app = typer.Typer(no_args_is_help=True, help="Export the prediction log; remove what is old, or no longer wanted.")

UrlOption = Annotated[
    str | None, typer.Option(help="SQLAlchemy URL of the log. (default: ONESHEET_LOG_URL or sqlite:///onesheet.db)")
]


def _in_utc(moment: datetime | None) -> datetime | None:
    return moment and moment.replace(tzinfo=UTC)


_MOMENTS = ["%Y-%m-%d", "%Y-%m-%dT%H:%M", "%Y-%m-%dT%H:%M:%S"]
SinceOption = Annotated[
    datetime | None, typer.Option(formats=_MOMENTS, callback=_in_utc, help="The first moment, UTC.")
]
UntilOption = Annotated[
    datetime | None, typer.Option(formats=_MOMENTS, callback=_in_utc, help="The moment after the last, UTC.")
]


@app.command(epilog="Example: onesheet log export gs://my-bucket/november.parquet --since 2026-11-01")
def export(
    out: Annotated[str, typer.Argument(metavar="OUT", help="A Parquet file to write, here or at gs://BUCKET/FILE.")],
    since: SinceOption = None,
    until: UntilOption = None,
    model_version: Annotated[str | None, typer.Option(help="Only the answers of this version.")] = None,
    url: UrlOption = None,
) -> None:
    """Write answers and feedback to a Parquet file, in bounded memory."""
    with extra("data"):
        from onesheet.monitoring.log_export import export_parquet
    with open_log(url) as log, progress("Exporting") as advance:
        total = log.count()
        rows = export_parquet(
            log,
            out,
            since=since,
            until=until,
            model_version=model_version,
            on_rows=lambda rows: advance(rows, total),
        )
    typer.echo(f"{out}: {rows} answers")


@app.command(epilog="Example: onesheet log delete 0f8b2c9e-6a53-4f0e-9f0b-0a4f6f1c7d21")
def delete(
    ids: Annotated[list[UUID], typer.Argument(metavar="ID", help="A prediction_id; several are welcome.")],
    url: UrlOption = None,
) -> None:
    """Remove answers, what was said of them, and the kept pictures that no other answer is about."""
    with open_log(url) as log:
        removed = log.delete(ids)
    if not removed:
        raise UnknownPredictionError(f"the log holds no prediction with {'this id' if len(ids) == 1 else 'these ids'}")
    typer.echo(f"{removed} answers removed")


@app.command(epilog="Example: onesheet log prune --older-than-days 90")
def prune(
    older_than_days: Annotated[float, typer.Option(min=0, help="Age from which on an answer goes.")],
    url: UrlOption = None,
) -> None:
    """Remove answers of more than an age, what was said of them, and the kept pictures that no other is about."""
    with open_log(url) as log:
        removed = log.delete_before(datetime.now(UTC) - timedelta(days=older_than_days))
        typer.echo(f"{removed} answers removed")


@contextmanager
def open_log(url: str | None) -> Iterator[PredictionLog]:
    """The prediction log at an address, or else the one that the settings name, with its kept pictures.

    Raises:
        LogUnavailableError: There is none, or it cannot be reached.
        InvalidRequestError: The address is none.
    """
    from onesheet.predictionlog import PredictionLog, open_pictures

    settings = read_settings()
    pictures = open_pictures(settings.keep_pictures)
    with closing(PredictionLog(url or settings.log_url, must_exist=True, pictures=pictures)) as log:
        log.migrate()
        yield log
