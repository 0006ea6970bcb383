"""Start the web page, alone or together with the API, and stop both together."""

from __future__ import annotations

import errno
import importlib.util
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Final

import httpx

from onesheet.errors import MissingExtraError, NotReadyError, OnesheetError
from onesheet.listening import listen
from onesheet.processes import running
from onesheet.settings import Settings
from onesheet.ui.address import find_api

_STOP_SECONDS: Final = 10
_ANSWER_SECONDS: Final = 5
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
    with _ended_by_sigterm(), _page(settings, url) as page:
        address = _page_address(settings)
        _wait_until(f"{address}/_stcore/health", "the web page", {"the web page": page})
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
    with _ended_by_sigterm(), _api(settings) as api, _page(settings, api_url) as page:
        processes = {"the API": api, "the web page": page}
        _wait_until(f"{api_url}/readyz", "the API", processes)
        _wait_until(f"{page_url}/_stcore/health", "the web page", processes)
        on_ready(api_url, page_url)
        while not (ended := _ended(processes)):
            time.sleep(_POLL_SECONDS)
        raise OnesheetError(f"{ended} has ended by itself")


def _require_streamlit() -> None:
    if importlib.util.find_spec("streamlit") is None:
        raise MissingExtraError("the web page needs Streamlit: uv sync --extra ui, or pip install 'onesheet[ui]'")


def _require_free(host: str, port: int, what: str, option: str) -> None:
    """Check that a port can be listened on before anything is started."""
    try:
        listen(host, port).close()
    except OnesheetError as error:
        if getattr(error.__cause__, "errno", None) == errno.EADDRINUSE:
            raise OnesheetError(
                f"port {port}, meant for {what}, is taken; name another one with {option}, or stop what listens there"
            ) from error
        raise OnesheetError(f"{what}: {error.message}") from error


def _api(settings: Settings) -> AbstractContextManager[subprocess.Popen[bytes]]:
    options = {"--bundle": settings.bundle, "--host": settings.host, "--port": str(settings.port)}
    arguments = [part for option in options.items() for part in option]
    return running("onesheet", "serve", *arguments, patience=_STOP_SECONDS, stdout=sys.stderr)


def _page(settings: Settings, api_url: str) -> AbstractContextManager[subprocess.Popen[bytes]]:
    options = {
        **_LOOK,
        "server.address": settings.ui_host,
        "server.port": str(settings.ui_port),
        "server.baseUrlPath": settings.ui_base_path.strip("/"),
        "server.maxUploadSize": str(max(1, settings.max_upload_bytes // 2**20)),
    }
    arguments = ["run", str(_PAGE), *(f"--{name}={value}" for name, value in options.items())]
    environment = {**os.environ, "ONESHEET_API_URL": api_url}
    return running("onesheet.ui", *arguments, patience=_STOP_SECONDS, stdout=sys.stderr, env=environment)


def _address(host: str, port: int) -> str:
    """Where a person on this machine finds it."""
    shown = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(host, f"[{host}]" if ":" in host else host)  # noqa: S104
    return f"http://{shown}:{port}"


def _page_address(settings: Settings) -> str:
    return _address(settings.ui_host, settings.ui_port) + settings.ui_base_path


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


def _wait_until(url: str, what: str, processes: Mapping[str, subprocess.Popen[bytes]]) -> None:
    """Wait until a URL answers with success, however long a process takes to start.

    Raises:
        OnesheetError: A process has ended, or the API says that it cannot load its model.
    """
    while not (ended := _ended(processes)):
        response = _ask(url)
        if response is not None and response.is_success:
            return
        if response is not None and _is_final(response):
            raise OnesheetError(f"{what} cannot answer: {response.json()['detail']}")
        time.sleep(_POLL_SECONDS)
    raise OnesheetError(f"{ended} did not start; what it said stands above")


def _ended(processes: Mapping[str, subprocess.Popen[bytes]]) -> str | None:
    """Name of a process that has ended; None while all are running."""
    return next((name for name, process in processes.items() if process.poll() is not None), None)


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
