"""A real browser, and the commands of the web page as processes of their own."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import pytest

from onesheet.predictionlog import PredictionLog
from tests.processes import MAX_WAIT, started_process

# The camera shows a test picture, and nobody has to allow it.
_FLAGS = ["--no-sandbox", "--disable-gpu", "--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream"]


class Site:
    """`onesheet up`, or another command that prints addresses, until `stop`.

    Args:
        folder: Its working folder, with its prediction log.
        arguments: Of `onesheet`.
        environment: More of it.
    """

    def __init__(self, folder: Path, *arguments: str, **environment: str) -> None:
        folder.mkdir(exist_ok=True)
        self.log_url = f"sqlite:///{folder}/log.db"
        self.errors = folder / "stderr.log"
        variables = {**os.environ, "ONESHEET_LOG_URL": self.log_url, **environment}
        command = [sys.executable, "-m", "onesheet", *arguments]
        self._running = ExitStack()
        with self.errors.open("ab") as errors:
            process = started_process(command, cwd=folder, env=variables, stdout=subprocess.PIPE, stderr=errors)
            self.process = self._running.enter_context(process)

    def read_addresses(self, lines: int) -> list[str]:
        """Those that it prints, once it is ready."""
        assert self.process.stdout is not None
        said = [self.process.stdout.readline() for _ in range(lines)]
        assert all(said), self.errors.read_text()
        return [re.search(r"http://\S+", line)[0] for line in said]  # type: ignore[index]

    def answers(self) -> int:
        """How many are in the log."""
        with closing(PredictionLog(self.log_url)) as log:
            return log.count()

    def stop(self, how: int = signal.SIGINT) -> int:
        """Its exit code."""
        self.process.send_signal(how)
        return self.process.wait(MAX_WAIT)

    def kill(self) -> None:
        """At once, and all that it has started."""
        self._running.close()


@pytest.fixture(scope="module")
def start_site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Site]]:
    """`start_site("up", "--api-port", "8000")`: running, and gone at the end."""
    started: list[Site] = []

    def start(*arguments: str, folder: Path | None = None, **environment: str) -> Site:
        started.append(Site(folder or tmp_path_factory.mktemp("site"), *arguments, **environment))
        return started[-1]

    yield start
    for site in started:
        try:
            if site.process.poll() is None:
                site.stop(signal.SIGTERM)  # what is killed does not write which of its lines have run
        finally:
            site.kill()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """A real Chromium, driven by Playwright."""
    sync_api = pytest.importorskip("playwright.sync_api")
    program = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if program is None:
        if os.environ.get("ONESHEET_REQUIRE_ALL") == "1":
            pytest.fail("Chromium is not installed")
        pytest.skip("Chromium is not installed")
    with sync_api.sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=program, args=_FLAGS)
        yield started
        started.close()
