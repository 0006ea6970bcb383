"""A month of a service that is watched: three weeks of posters as ever, then one of posters in grey.

Everything is real: `onesheet up` answers, `onesheet watch` compares, Prometheus scrapes both and judges by the rules of
`deploy/prometheus`, and a browser looks at what people would see. Only time is not: after each week, its answers are
moved in the log to where they would be.

uv run --all-extras --group dev python examples/month.py data/raw --pictures docs/images
"""

from __future__ import annotations

import argparse
import io
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, TypeVar

import httpx
import numpy as np
import yaml
from PIL import Image
from sqlalchemy import select, update

from onesheet.data.prepare import prepare
from onesheet.predictionlog import PredictionLog
from onesheet.predictionlog.schema import DRIFT_RUNS, FEEDBACK, PREDICTIONS

Found = TypeVar("Found")
RULES = Path(__file__).parents[1] / "deploy/prometheus/rules/onesheet.yml"
WEEK = timedelta(days=7)
POSTERS_A_WEEK = 160


@dataclass(frozen=True)
class Poster:
    """A film that somebody asks about."""

    data: bytes
    genres: tuple[str, ...]


@dataclass(frozen=True)
class Parts:
    """What runs, by address."""

    api: str
    page: str
    drift: str
    prometheus: str
    log: PredictionLog


@dataclass(frozen=True)
class Month:
    """How it went.

    Attributes:
        weeks: What `onesheet watch` found after each.
        alerts: Names of the alerts of drift that fired after each.
        columns: Which columns the last alert names.
        page: What the web page says of drift.
        report: What the drift service's page says.
    """

    weeks: list[dict[str, Any]]
    alerts: list[set[str]]
    columns: str
    page: str
    report: str


def play(raw: Path, folder: Path, pictures: Path) -> Month:
    """Play it, and take pictures of the end."""
    posters = _unseen_posters(raw, folder)
    weeks = [posters[start : start + POSTERS_A_WEEK] for start in range(0, 4 * POSTERS_A_WEEK, POSTERS_A_WEEK)]
    weeks[3] = [Poster(_grey(poster.data), poster.genres) for poster in weeks[3]]
    found, alerts = [], []
    with _running(folder) as parts:
        for number, week in enumerate(weeks, 1):
            _age(parts.log)
            _ask(parts.api, week)
            _spread(parts.log)
            found.append(_compare(parts.drift, with_report=number == len(weeks)))
            alerts.append(_alerts(parts.prometheus, found[-1]))
            print(f"week {number}: {len(week)} posters; {found[-1]['verdict']}: {found[-1]['summary']}", flush=True)
            print(f"        Prometheus: {', '.join(sorted(alerts[-1])) or 'no alert of drift'}", flush=True)
        (columns,) = (one["annotations"]["columns"] for one in _firing(parts.prometheus) if _name(one) == "Drift")
        page, report = _look(parts, pictures)
    return Month(found, alerts, columns, page, report)


# --------------------------------------------------------------------------------------------------- the posters


def _unseen_posters(raw: Path, folder: Path) -> list[Poster]:
    """Those that the starter was neither trained nor judged on, in any order."""
    entries = [entry for entry in prepare(raw, folder).entries if entry.split == "test"]
    order = np.random.default_rng(0).permutation(len(entries))
    return [Poster((raw / entries[place].path).read_bytes(), tuple(entries[place].genres)) for place in order]


def _grey(data: bytes) -> bytes:
    encoded = io.BytesIO()
    Image.open(io.BytesIO(data)).convert("L").convert("RGB").save(encoded, "JPEG", quality=90)
    return encoded.getvalue()


def _ask(api: str, posters: Sequence[Poster]) -> None:
    """Each poster once; of every other one somebody says what it really is."""
    with httpx.Client(base_url=api, timeout=60) as client, ThreadPoolExecutor(4) as visitors:

        def ask(place: int) -> None:
            answer = client.post("/predict", files={"file": posters[place].data}).raise_for_status().json()
            if place % 2:
                body = {"prediction_id": answer["prediction_id"], "genres": posters[place].genres}
                client.post("/feedback", json=body).raise_for_status()

        list(visitors.map(ask, range(len(posters))))


# -------------------------------------------------------------------------------------------------------- time


def _age(log: PredictionLog) -> None:
    """A week later: everything in the log is a week older."""
    log.write(
        *(
            update(table).where(table.c.id == row.id).values(time=row.time - WEEK)
            for table in (PREDICTIONS, FEEDBACK, DRIFT_RUNS)
            for row in log.rows(select(table.c.id, table.c.time))
        )
    )


def _spread(log: PredictionLog) -> None:
    """What was asked within seconds, over the last seven days."""
    now = datetime.now(UTC)
    recent = [row.id for row in log.rows(select(PREDICTIONS.c.id).where(PREDICTIONS.c.time > now - WEEK / 7))]
    moments = np.sort(np.random.default_rng(len(recent)).uniform(0.001, 0.999, len(recent)))
    log.write(
        *(
            update(PREDICTIONS).where(PREDICTIONS.c.id == row).values(time=now - WEEK * float(moment))
            for row, moment in zip(recent, moments, strict=True)
        )
    )


# --------------------------------------------------------------------------------------------------- what is found


def _compare(drift: str, *, with_report: bool) -> dict[str, Any]:
    asked = {"hours": WEEK / timedelta(hours=1), "report": with_report}
    answer = httpx.post(f"{drift}/drift/run", params=asked, timeout=400).raise_for_status()
    found: dict[str, Any] = answer.json()
    return found


def _alerts(prometheus: str, found: dict[str, Any]) -> set[str]:
    """Those of drift, once Prometheus has scraped and judged what was found."""
    made = datetime.fromisoformat(found["time"]).timestamp()

    def judged() -> bool:
        asked = {"query": "max(onesheet_drift_run_timestamp_seconds)"}
        known = httpx.get(f"{prometheus}/api/v1/query", params=asked).json()["data"]["result"]
        return bool(known) and float(known[0]["value"][1]) >= made - 1

    def firing() -> set[str]:
        return {_name(alert) for alert in _firing(prometheus)} & {"Drift", "DriftWarning"}

    _wait(judged)
    expected = {"drift": {"Drift"}, "warning": {"DriftWarning"}}.get(found["verdict"], set())
    _wait(lambda: firing() == expected, seconds=60)
    return firing()


def _firing(prometheus: str) -> list[dict[str, Any]]:
    alerts: list[dict[str, Any]] = httpx.get(f"{prometheus}/api/v1/alerts").json()["data"]["alerts"]
    return [alert for alert in alerts if alert["state"] == "firing"]


def _name(alert: dict[str, Any]) -> str:
    return str(alert["labels"]["alertname"])


def _look(parts: Parts, pictures: Path) -> tuple[str, str]:
    """What the web page and the drift service's page say; pictures of both, and of the alert."""
    from playwright.sync_api import sync_playwright

    program = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))))
    with (
        sync_playwright() as playwright,
        closing(playwright.chromium.launch(executable_path=program, args=["--no-sandbox", "--disable-gpu"])) as browser,
    ):
        page = browser.new_page(viewport={"width": 1280, "height": 3500})
        page.goto(f"{parts.page}/monitoring")
        page.get_by_test_id("stButtonGroup").get_by_text("month", exact=True).click()
        page.get_by_role("heading", name="What moved, and how far").wait_for()
        _picture(page, pictures / "month-page.jpg")
        page.get_by_text("Show the report").click()
        # The inner frame is walled off.
        page.frame_locator("iframe").frame_locator("iframe").get_by_text("Dataset Drift").first.wait_for()
        said = page.get_by_test_id("stMainBlockContainer").inner_text()

        page.set_viewport_size({"width": 1280, "height": 1000})
        page.goto(parts.drift)
        page.get_by_text("Dataset Drift").first.wait_for()
        page.get_by_text("colourfulness", exact=True).first.click()
        _picture(page, pictures / "month-report.jpg")
        report = page.locator("body").inner_text()

        alerts = f"{parts.prometheus}/alerts"
        page.goto(alerts if _answers(alerts) else f"{parts.prometheus}/classic/alerts")  # Debian's is an older one
        page.get_by_text(re.compile(r"^Drift( \(1 active\))?$")).first.click()
        _picture(page, pictures / "month-alert.jpg")
    return said, report


def _picture(page: Any, path: Path) -> None:
    page.wait_for_timeout(2000)  # fonts and charts
    page.screenshot(path=path, quality=80)


# -------------------------------------------------------------------------------------------------- what runs


@contextmanager
def _running(folder: Path) -> Iterator[Parts]:
    """The service, its page, its watch and Prometheus, until the end."""
    api, page, drift, prometheus = (_free_port() for _ in range(4))
    environment = {**os.environ, "ONESHEET_LOG_URL": f"sqlite:///{folder}/log.db", "ONESHEET_BUNDLE": "starter"}
    onesheet = [sys.executable, "-m", "onesheet"]
    with ExitStack() as stack:
        start = lambda *command: stack.enter_context(_process(command, folder, environment))  # noqa: E731
        start(*onesheet, "up", "--api-port", str(api), "--ui-port", str(page))
        start(*onesheet, "watch", "--every", "0", "--port", str(drift))
        config = _prometheus_config(folder, api, drift)
        start(
            "prometheus",
            f"--config.file={config}",
            f"--storage.tsdb.path={folder}/prometheus",
            f"--web.listen-address=127.0.0.1:{prometheus}",
        )
        parts = Parts(
            *(f"http://127.0.0.1:{port}" for port in (api, page, drift, prometheus)),
            stack.enter_context(closing(PredictionLog(environment["ONESHEET_LOG_URL"]))),
        )
        for address in (f"{parts.api}/readyz", f"{parts.drift}/readyz", f"{parts.prometheus}/-/ready"):
            _wait(lambda address=address: _answers(address))
        yield parts


@contextmanager
def _process(command: Sequence[str], folder: Path, environment: dict[str, str]) -> Iterator[None]:
    with (folder / "parts.log").open("ab") as output:
        process = subprocess.Popen(command, cwd=folder, env=environment, stdout=output, stderr=output)
    try:
        yield
    finally:
        process.terminate()
        process.wait(200)


def _prometheus_config(folder: Path, api: int, drift: int) -> Path:
    """Our own, on these ports, and in a hurry: a month passes in a minute."""
    config = yaml.safe_load((RULES.parents[1] / "prometheus.yml").read_text())
    config["global"] = {"scrape_interval": "1s", "scrape_timeout": "1s", "evaluation_interval": "1s"}
    config["rule_files"], config["alerting"] = ["rules.yml"], {}
    for job in config["scrape_configs"]:
        job["static_configs"][0]["targets"] = [f"127.0.0.1:{ {'api': api, 'drift': drift}[job['job_name']] }"]
    (folder / "rules.yml").write_text(re.sub(r"interval: \d+s", "interval: 1s", RULES.read_text()))
    (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
    return folder / "prometheus.yml"


def _answers(address: str) -> bool:
    try:
        return httpx.get(address).is_success
    except httpx.HTTPError:
        return False


def _wait(done: Callable[[], Found], seconds: float = 240) -> Found:
    deadline = time.monotonic() + seconds
    while not (found := done()):
        if time.monotonic() > deadline:
            raise TimeoutError("this took too long; see parts.log")
        time.sleep(0.2)
    return found


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def main() -> None:
    """Play a month with these posters."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("raw", type=Path, help="Folder of posters, with train.csv and Images/.")
    parser.add_argument("--pictures", type=Path, default=Path(), help="Folder for month-*.jpg.")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        month = play(options.raw, Path(folder), options.pictures)
    print(f"the alert names: {month.columns}")


if __name__ == "__main__":
    main()
