"""`onesheet up` and `onesheet ui`: the web page, with the API or beside it."""

from __future__ import annotations

from typing import Annotated

import typer

from onesheet.cli.options import BundleOption
from onesheet.console import read_settings

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
    from onesheet.ui.launch import run_both

    settings = read_settings(host=host, ui_host=host, port=api_port, ui_port=ui_port, bundle=bundle)
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
    run_page(settings, lambda page: typer.echo(f"Web page: {page}"))
