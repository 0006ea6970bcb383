"""`onesheet up` and `onesheet ui`: the web page, with the API or beside it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from onesheet.cli.options import BundleOption
from onesheet.console import complain, read_settings

if TYPE_CHECKING:
    from onesheet.settings import Settings

app = typer.Typer()

HostOption = Annotated[str | None, typer.Option(help="Address to listen on. (default: 127.0.0.1)")]


@app.command(epilog="Example: onesheet up, then open http://127.0.0.1:8501")
def up(
    host: HostOption = None,
    api_port: Annotated[int | None, typer.Option(min=1, max=65535, help="(default: ONESHEET_PORT or 8000)")] = None,
    ui_port: Annotated[int | None, typer.Option(min=1, max=65535, help="(default: ONESHEET_UI_PORT or 8501)")] = None,
    bundle: BundleOption = None,
) -> None:
    """Start API and web page together; Ctrl-C stops both."""
    from onesheet.serving.preflight import check_access
    from onesheet.ui.launch import run_both

    settings = read_settings(host=host, ui_host=host, port=api_port, ui_port=ui_port, bundle=bundle)
    check_access(settings)
    _warn(settings, "port", "ui_port")
    typer.echo("Starting API and web page ...", err=True)
    run_both(settings, lambda api, page: typer.echo(f"Web page: {page}\nAPI:      {api} ({api}/docs)"))


@app.command(epilog="Example: onesheet ui --api https://onesheet.example.com")
def ui(
    api: Annotated[
        str | None,
        typer.Option(
            metavar="URL",
            help="API to ask: its address, or cloudrun://PROJECT/REGION/SERVICE. "
            "(default: ONESHEET_API_URL or http://127.0.0.1:8000)",
        ),
    ] = None,
    host: HostOption = None,
    port: Annotated[int | None, typer.Option(min=1, max=65535, help="(default: ONESHEET_UI_PORT or 8501)")] = None,
) -> None:
    """Start the web page alone."""
    from onesheet.ui.launch import run_page

    settings = read_settings(api_url=api, ui_host=host, ui_port=port)
    _warn(settings, "ui_port")
    run_page(settings, lambda page: typer.echo(f"Web page: {page}"))


def _warn(settings: Settings, *ports: str) -> None:
    for text in settings.warnings(ports):
        complain(f"warning: {text}")
