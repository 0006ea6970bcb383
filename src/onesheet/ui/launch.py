"""Start the web page, alone or together with the API, and stop both together."""

from __future__ import annotations

import errno
import importlib.util
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import httpx

from onesheet.errors import MissingExtraError, NotReadyError, OnesheetError
from onesheet.processes import NEW_GROUP, stop
from onesheet.settings import Settings
from onesheet.ui.address import find_api

_START_SECONDS: Final = 90
_STOP_SECONDS: Final = 10
_ANSWER_SECONDS: Final = 2
_POLL_SECONDS: Final = 0.1
_PAGE: Final = Path(__file__).with_name("page.py")

# Calm: one accent, light and dark, nothing that is sent anywhere, no menu for those who write Streamlit programs.
_LOOK: Final[Mapping[str, str]] = {
    "browser.gatherUsageStats": "false",
    "client.toolbarMode": "viewer",
    "client.showErrorDetails": "none",
    "server.headless": "true",
    "logger.enableRich": "false",
    "server.fileWatcherType": "none",
    "runner.magicEnabled": "false",
    # A tenth of a second in which nobody else is served, each time that a part of a page is drawn.
    "runner.postScriptGC": "false",
    "theme.headingFontSizes": '["2rem", "1.5rem", "1.25rem"]',
    "theme.light.primaryColor": "#09655d",
    "theme.light.backgroundColor": "#fcfcfb",
    "theme.light.secondaryBackgroundColor": "#f1f2f0",
    "theme.light.textColor": "#0d1114",
    "theme.dark.primaryColor": "#2bb3a5",
    "theme.dark.backgroundColor": "#14181b",
    "theme.dark.secondaryBackgroundColor": "#1e2428",
    "theme.dark.textColor": "#e7eaec",
}


def run_page(settings: Settings, on_ready: Callable[[str], None]) -> None:
    """Run the web page until SIGTERM or Ctrl-C.

    Args:
        settings: Its address, and that of the API.
        on_ready: Told the address of the page, once it answers.

    Raises:
        OnesheetError: It cannot start; the message says why.
    """
    _require_streamlit()
    _require_free(settings.ui_host, settings.ui_port, "the web page", "--port")
    url = find_api(settings.api_url)
    with _ended_by_sigterm(), _running(_page_command(settings), {"ONESHEET_API_URL": url}) as page:
        address = _page_address(settings)
        _wait_until(page, f"{address}/_stcore/health", "the web page")
        on_ready(address)
        page.wait()
        raise OnesheetError("the web page has ended by itself")


def run_both(settings: Settings, on_ready: Callable[[str, str], None]) -> None:
    """Run API and web page until SIGTERM or Ctrl-C, or until one of them ends.

    Args:
        settings: Of both; `api_url` does not matter.
        on_ready: Told the addresses of API and page, once both answer.

    Raises:
        OnesheetError: One of them cannot start, or has ended; the message says which and why.
    """
    _require_streamlit()
    _require_free(settings.host, settings.port, "the API", "--api-port")
    _require_free(settings.ui_host, settings.ui_port, "the web page", "--ui-port")
    api_url, page_url = _address(settings.host, settings.port), _page_address(settings)
    with (
        _ended_by_sigterm(),
        _running(_api_command(settings), {}) as api,
        _running(_page_command(settings), {"ONESHEET_API_URL": api_url}) as page,
    ):
        _wait_until(api, f"{api_url}/readyz", "the API")
        _wait_until(page, f"{page_url}/_stcore/health", "the web page")
        on_ready(api_url, page_url)
        while api.poll() is None and page.poll() is None:
            time.sleep(_POLL_SECONDS)
        raise OnesheetError(f"{'the web page' if api.poll() is None else 'the API'} has ended by itself")


def _require_streamlit() -> None:
    if importlib.util.find_spec("streamlit") is None:
        raise MissingExtraError("the web page needs Streamlit: uv sync --extra ui, or pip install 'onesheet[ui]'")


def _require_free(host: str, port: int, what: str, option: str) -> None:
    """Say so before anything is started, where somebody listens already."""
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, socket.SOCK_STREAM) as listener:
            if sys.platform != "win32":  # where it would take the port from whoever listens
                listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(address)
            listener.listen(1)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise OnesheetError(
                f"port {port}, meant for {what}, is taken; name another one with {option}, or stop what listens there"
            ) from error
        raise OnesheetError(f"{what} cannot listen on {host} port {port}: {error.strerror}") from error


def _api_command(settings: Settings) -> list[str]:
    options = {"--bundle": settings.bundle, "--host": settings.host, "--port": str(settings.port)}
    return [sys.executable, "-m", "onesheet", "serve", *(part for option in options.items() for part in option)]


def _page_command(settings: Settings) -> list[str]:
    options = {
        **_LOOK,
        "server.address": settings.ui_host,
        "server.port": str(settings.ui_port),
        "server.baseUrlPath": settings.ui_base_path.strip("/"),
        "server.maxUploadSize": str(max(1, settings.max_upload_bytes // 2**20)),
    }
    return [
        *(sys.executable, "-m", "onesheet.ui", "run", str(_PAGE)),
        *(f"--{name}={value}" for name, value in options.items()),
    ]


def _address(host: str, port: int) -> str:
    """Where a person on this machine finds it."""
    shown = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(host, f"[{host}]" if ":" in host else host)  # noqa: S104
    return f"http://{shown}:{port}"


def _page_address(settings: Settings) -> str:
    return _address(settings.ui_host, settings.ui_port) + settings.ui_base_path


@contextmanager
def _running(command: list[str], environment: Mapping[str, str]) -> Iterator[subprocess.Popen[bytes]]:
    """A process of its own group, so that Ctrl-C reaches it through us, once and in order; all it says is for a log."""
    process = subprocess.Popen(
        command,
        env={**os.environ, **environment},
        stdout=sys.stderr,
        start_new_session=True,
        creationflags=NEW_GROUP,
    )
    try:
        yield process
    finally:
        stop(process, _STOP_SECONDS)


@contextmanager
def _ended_by_sigterm() -> Iterator[None]:
    """SIGTERM leaves by the same door as Ctrl-C, and is a good end."""

    def leave(*_: object) -> None:
        raise SystemExit(0)

    before = signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _wait_until(process: subprocess.Popen[bytes], url: str, what: str) -> None:
    deadline = time.monotonic() + _START_SECONDS
    while process.poll() is None and time.monotonic() < deadline:
        response = _ask(url)
        if response is not None and response.is_success:
            return
        if response is not None and _is_final(response):
            raise OnesheetError(f"{what} cannot answer: {response.json()['detail']}")
        time.sleep(_POLL_SECONDS)
    raise OnesheetError(f"{what} did not start; what it said stands above")


def _ask(url: str) -> httpx.Response | None:
    """None while nobody listens there yet."""
    try:
        return httpx.get(url, timeout=_ANSWER_SECONDS, trust_env=False)
    except httpx.HTTPError:
        return None


def _is_final(response: httpx.Response) -> bool:
    """Whether the API says that its model will not come."""
    is_problem = response.headers.get("content-type", "").startswith("application/problem+json")
    return is_problem and not response.json()["type"].endswith(f"/{NotReadyError.code}")
