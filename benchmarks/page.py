"""What a visitor of the web page waits for, in a real Chromium; browser, page and API share the machine.

uv run --all-extras --group dev python benchmarks/page.py POSTERS [ROUNDS]

The limit is what the API takes for the same poster, asked by itself.
"""

from __future__ import annotations

import re
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path

import httpx
from playwright.sync_api import Browser, Page, sync_playwright

VISITORS = 20


def main() -> None:
    posters = sorted(Path(sys.argv[1]).iterdir())
    rounds = int(sys.argv[2]) if len(sys.argv) > 2 else 15
    found: defaultdict[str, list[float]] = defaultdict(list)
    ports = ("--api-port", str(free_port()), "--ui-port", str(free_port()))
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=shutil.which("chromium"), args=["--no-sandbox", "--disable-gpu"]
        )
        started = time.perf_counter()
        command = [sys.executable, "-m", "onesheet", "up", *ports]
        with subprocess.Popen(
            command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        ) as process:
            assert process.stdout
            page_url, api_url = (re.search(r"http://\S+", process.stdout.readline())[0] for _ in range(2))  # type: ignore[index]
            found["`onesheet up` until it says both addresses"].append(time.perf_counter() - started)
            found["page start, the first visitor"].append(visit(browser, page_url)[1])
            for number in range(rounds):
                poster = posters[number * len(posters) // rounds]
                started = time.perf_counter()
                httpx.post(f"{api_url}/predict", files={"file": poster.read_bytes()}).raise_for_status()
                found["limit: the API alone"].append(time.perf_counter() - started)
                page, seconds = visit(browser, page_url)
                found["page start"].append(seconds)
                answer, chart = drop(page, poster)
                found["from drop to the genres"].append(answer)
                found["from drop to their chart, whose code a new visitor loads first"].append(chart)
                found["from Why? to the heat map"].append(explain(page))
                page.context.close()
            found[f"drop to answer, {VISITORS} visitors at once"] = crowd(browser, page_url, posters)
            process.terminate()
        browser.close()
    print("| | median s | slowest s | times |")
    print("|---|---:|---:|---:|")
    for what, seconds_each in found.items():
        print(f"| {what} | {statistics.median(seconds_each):.2f} | {max(seconds_each):.2f} | {len(seconds_each)} |")


def visit(browser: Browser, url: str) -> tuple[Page, float]:
    page = browser.new_context().new_page()
    started = time.perf_counter()
    page.goto(url)
    page.get_by_text("Bring a poster").wait_for()
    return page, time.perf_counter() - started


def drop(page: Page, poster: Path) -> tuple[float, float]:
    started = time.perf_counter()
    page.locator("input[type=file]").set_input_files(poster)
    page.locator("h2").first.wait_for()
    answer = time.perf_counter() - started
    page.locator("[data-testid=stVegaLiteChart] :is(canvas, svg)").first.wait_for()
    return answer, time.perf_counter() - started


def explain(page: Page) -> float:
    started = time.perf_counter()
    page.get_by_role("button", name="Why?").click()
    page.get_by_text("the answer changes when").wait_for()
    return time.perf_counter() - started


def crowd(browser: Browser, url: str, posters: list[Path]) -> list[float]:
    """All drop a poster, then all wait; the time of each runs from its own drop."""
    pages = [visit(browser, url)[0] for _ in range(VISITORS)]
    dropped = []
    for number, page in enumerate(pages):
        dropped.append(time.perf_counter())
        page.locator("input[type=file]").set_input_files(posters[-1 - number])
    waited = []
    for page, moment in zip(pages, dropped, strict=True):
        page.locator("h2").first.wait_for()
        waited.append(time.perf_counter() - moment)
    return waited


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


if __name__ == "__main__":
    main()
