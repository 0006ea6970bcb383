"""What watches the service: rules, routes and dashboard, tried with the programs that will read them."""

from __future__ import annotations

import json
import os
import re
import shutil
import time
from collections import Counter
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import pytest
import yaml

from onesheet import errors
from onesheet.monitoring.metrics import CONTENT_TYPE, Metrics
from onesheet.serving.context import PROBES
from tests.processes import MAX_WAIT, eventually, run_command, serve_in_thread, started_process

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

ROOT = Path(__file__).parents[2]
PROMETHEUS = ROOT / "deploy/prometheus/prometheus.yml"
RULES = ROOT / "deploy/prometheus/rules/onesheet.yml"
TRIED = sorted((ROOT / "deploy/prometheus/tests").glob("*_test.yml"))
ALERTMANAGER = ROOT / "deploy/alertmanager/alertmanager.yml"
DASHBOARD = ROOT / "deploy/grafana/dashboards/onesheet.json"
PROVISIONING = ROOT / "deploy/grafana/provisioning"
DOCS = ROOT / "docs/alerts.md"

# What the drift service exports.
DRIFT = """
# TYPE onesheet_drift_verdict gauge
onesheet_drift_verdict{model="starter",version="1",verdict="ok"} 0
onesheet_drift_verdict{model="starter",version="1",verdict="warning"} 0
onesheet_drift_verdict{model="starter",version="1",verdict="drift"} 1
onesheet_drift_verdict{model="starter",version="1",verdict="not enough data"} 0
# TYPE onesheet_drift_run_timestamp_seconds gauge
onesheet_drift_run_timestamp_seconds{model="starter",version="1"} 1.7e9
# TYPE onesheet_drift_pictures gauge
onesheet_drift_pictures{model="starter",version="1"} 400
# TYPE onesheet_drift_other_predictions gauge
onesheet_drift_other_predictions{model="starter",version="1"} 0
# TYPE onesheet_drift_distance gauge
onesheet_drift_distance{model="starter",version="1",column="brightness"} 0.31
# TYPE onesheet_drift_moved gauge
onesheet_drift_moved{model="starter",version="1",column="brightness"} 2
# TYPE onesheet_feedback_agreement gauge
onesheet_feedback_agreement{model="starter",version="1"} 0.5
# TYPE onesheet_feedback_expected_agreement gauge
onesheet_feedback_expected_agreement{model="starter",version="1"} 0.6
# TYPE onesheet_feedback_answers gauge
onesheet_feedback_answers{model="starter",version="1"} 60
# TYPE onesheet_feedback_precision gauge
onesheet_feedback_precision{model="starter",version="1",genre="Drama"} 0.7
# TYPE onesheet_drift_failures_total counter
onesheet_drift_failures_total 0
"""


def program(name: str) -> str:
    """The full path of a program of Prometheus' house."""
    found = shutil.which(name)
    if found is None:
        if os.environ.get("ONESHEET_REQUIRE_ALL") == "1":
            pytest.fail(f"{name} is not installed")
        pytest.skip(f"{name} is not installed")
    return found


def run(name: str, *arguments: object) -> str:
    return str(run_command([program(name), *arguments], check=True).stdout)


def load(path: Path) -> Any:
    return yaml.safe_load(path.read_text())


def rules(kind: str) -> list[dict[str, Any]]:
    return [rule for group in load(RULES)["groups"] for rule in group["rules"] if kind in rule]


ALERTS = sorted({rule["alert"] for rule in rules("alert")})


def panels(*kinds: str) -> list[dict[str, Any]]:
    found = json.loads(DASHBOARD.read_text())["panels"]
    return [panel for panel in found if not kinds or panel["type"] in kinds]


def dashboard_expressions() -> list[tuple[str, str]]:
    return [(panel["title"], target["expr"]) for panel in panels() for target in panel.get("targets", [])]


def all_expressions() -> list[str]:
    templates = [text for rule in rules("alert") for text in rule["annotations"].values()]
    asked = [query for text in templates for query in re.findall(r'printf "([^"]+)"\s+\$labels', text)]
    return [*(rule["expr"] for rule in rules("expr")), *(expr for _, expr in dashboard_expressions()), *asked]


# ---------------------------------------------------------------------------------------- what the programs say


def test_prometheus_accepts_its_configuration() -> None:
    assert "1 rule files found" in run("promtool", "check", "config", PROMETHEUS)


def test_the_alerts_fire_when_they_should() -> None:
    assert run("promtool", "test", "rules", *TRIED).count("SUCCESS") == len(TRIED) == 2


def test_alertmanager_accepts_its_configuration() -> None:
    assert "3 receivers" in run("amtool", "check-config", ALERTMANAGER)


@pytest.mark.parametrize(
    ("labels", "receiver"),
    [("severity=page", "pager"), ("severity=ticket", "ticket"), ("severity=info", "info"), ("job=other", "ticket")],
)
def test_the_severity_says_whom_an_alert_reaches(labels: str, receiver: str) -> None:
    found = run("amtool", "config", "routes", "test", "--config.file", ALERTMANAGER, "alertname=Some", labels)

    assert found.split() == [receiver]


def test_expressions_are_promql(tmp_path: Path) -> None:
    """Those of the dashboard, and those for Cloud Monitoring, in which recorded series are written out."""
    pattern = r'"(?:prometheusQ|q)uery": ("(?:[^"\\]|\\.)*")'
    files = [path.read_text() for path in (ROOT / "deploy/gcp/monitoring").glob("**/*.json")]
    in_cloud = [json.loads(query) for text in files for query in re.findall(pattern, text)]
    asked = [expression for _, expression in dashboard_expressions()]
    assert len(in_cloud) == len(asked) + len(rules("alert"))
    written = tmp_path / "asked.yml"
    numbered = [{"record": f"asked:{number}", "expr": expr} for number, expr in enumerate([*asked, *in_cloud])]
    written.write_text(yaml.safe_dump({"groups": [{"name": "asked", "rules": numbered}]}))

    assert f"{len(numbered)} rules found" in run("promtool", "check", "rules", written)


# ------------------------------------------------------------------------------------------------- every alert


@pytest.mark.parametrize("alert", ALERTS)
def test_every_alert_is_tried_both_ways(alert: str) -> None:
    cases = [
        case
        for path in TRIED
        for test in load(path)["tests"]
        for case in test["alert_rule_test"]
        if case["alertname"] == alert
    ]
    fired = {one["exp_labels"]["severity"] for case in cases for one in case.get("exp_alerts", [])}

    assert fired == {rule["labels"]["severity"] for rule in rules("alert") if rule["alert"] == alert}
    assert any(not case.get("exp_alerts") for case in cases)


@pytest.mark.parametrize("alert", ALERTS)
def test_every_alert_says_what_to_do(alert: str) -> None:
    page = DOCS.read_text()

    assert f"\n### {alert}\n" in page
    for rule in rules("alert"):
        if rule["alert"] == alert:
            assert rule["labels"]["severity"] in ("page", "ticket", "info")
            assert {"summary", "description", "runbook"} <= set(rule["annotations"])
            assert rule["annotations"]["runbook"] == f"docs/alerts.md#{alert.lower()}"
            assert re.search(
                rf"^\| \[{alert}\]\(#{alert.lower()}\) \|.*\b{rule['labels']['severity']}\b", page, re.MULTILINE
            )


def test_the_page_has_no_alert_that_is_none() -> None:
    assert sorted(re.findall(r"^### (\w+)$", DOCS.read_text(), re.MULTILINE)) == ALERTS


# ------------------------------------------------------------------------------------------- what they ask for


def exported(text: str) -> set[str]:
    """The names that a page of metrics promises, also of series that have not begun."""
    kinds = dict(re.findall(r"^# TYPE (\S+) (\w+)$", text, re.MULTILINE))
    histograms = [name for name, kind in kinds.items() if kind == "histogram"]
    return {*kinds, *(f"{name}_{part}" for name in histograms for part in ("bucket", "sum", "count"))}


def names_in(expression: str) -> set[str]:
    """The series that an expression asks for."""
    bare = re.sub(r"\{[^}]*\}|\[[^\]]*\]|\b(by|on)\s*\([^)]*\)", " ", expression)
    return set(re.findall(r"(?<![\w.])[a-z_][\w:]*\b(?!\s*\()", bare)) - {"and", "or", "unless", "offset"}


def test_the_reader_of_expressions_sees_the_names() -> None:
    expression = 'sum by (le) (rate(a_total{b="c",d=~"e|f"}[5m] offset 1d)) / on (g) h:i:j3d > 2 * 86400 or vector(0)'

    assert names_in(expression) == {"a_total", "h:i:j3d"}


def test_every_series_that_is_asked_for_exists() -> None:
    known = {
        "up",
        *exported(Metrics().render().decode()),
        *exported(DRIFT),
        *(rule["record"] for rule in rules("record")),
    }
    asked = {name for expression in all_expressions() for name in names_in(expression)}

    assert asked - known == set()
    assert len(asked) > 40


def test_every_recorded_series_is_used() -> None:
    asked = {name for expression in all_expressions() for name in names_in(expression)}

    assert {rule["record"] for rule in rules("record")} <= asked


def test_labels_have_the_values_that_the_service_gives_them() -> None:
    asked = "\n".join(all_expressions())
    codes = {kind.code for kind in vars(errors).values() if isinstance(kind, type) and hasattr(kind, "code")}
    limits = re.findall(
        r'^prediction_latency_seconds_bucket\{le="([^"]+)"\}', Metrics().render().decode(), re.MULTILINE
    )

    assert {frozenset(routes.split("|")) for routes in re.findall(r'route!~"([^"]+)"', asked)} == {PROBES}
    assert set(re.findall(r'reason="(\w+)"', asked)) == {"overloaded", "log_unavailable"} <= codes
    assert set(re.findall(r'le="([^"]+)"', asked)) == {"0.5"} <= set(limits)
    assert set(re.findall(r'job="(\w+)"', asked)) == {job["job_name"] for job in load(PROMETHEUS)["scrape_configs"]}


# --------------------------------------------------------------------------------------------- the dashboard


def test_the_dashboard_is_whole() -> None:
    dashboard = json.loads(DASHBOARD.read_text())
    shown = panels("timeseries", "stat", "table")

    assert dashboard["schemaVersion"] >= 39
    assert len(shown) + len(panels("row")) == len(panels())
    assert max(Counter(panel["id"] for panel in panels()).values()) == 1
    assert [row["title"] for row in panels("row")] == [
        *("Traffic", "Errors and refusals", "Latency", "Saturation", "Model", "Drift", "Feedback", "Log")
    ]
    kinds = [panel["type"] for panel in panels()]
    assert not [pair for pair in pairwise([*kinds, "row"]) if pair == ("row", "row")]
    for panel in shown:
        assert len({target["refId"] for target in panel["targets"]}) == len(panel["targets"]) > 0


def test_the_panels_lie_side_by_side() -> None:
    taken = [
        (column, line)
        for place in (panel["gridPos"] for panel in panels())
        for column in range(place["x"], place["x"] + place["w"])
        for line in range(place["y"], place["y"] + place["h"])
    ]

    assert len(taken) == len(set(taken)) == 24 * (1 + max(line for _, line in taken))


def test_the_dashboard_finds_its_source() -> None:
    [source] = load(PROVISIONING / "datasources/prometheus.yml")["datasources"]
    [provider] = load(PROVISIONING / "dashboards/onesheet.yml")["providers"]
    sources = [panel["datasource"] for panel in panels("timeseries", "stat", "table")]
    sources += [target["datasource"] for panel in panels() for target in panel.get("targets", [])]

    assert all(one == {"type": source["type"], "uid": source["uid"]} for one in sources)
    assert provider["type"] == "file"


# ---------------------------------------------------------------------------------------- with all of it running


@contextmanager
def listening(answer: Callable[[BaseHTTPRequestHandler], bytes]) -> Iterator[str]:
    """A web server of one answer; its address."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = answer(self)
            self.send_response(200)
            self.send_header("Content-Type", CONTENT_TYPE)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_POST = do_GET  # noqa: N815

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    with serve_in_thread(ThreadingHTTPServer(("127.0.0.1", 0), Handler)) as server:
        yield f"127.0.0.1:{server.server_port}"


@contextmanager
def running(name: str, port: int, folder: Path, *options: str) -> Iterator[httpx.Client]:
    """A program of Prometheus' house once it is ready; a client of it."""
    command = [program(name), f"--web.listen-address=127.0.0.1:{port}", *options]
    with (
        (folder / f"{name}.log").open("wb") as log,
        started_process(command, stdout=log, stderr=log) as process,
        httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=MAX_WAIT) as client,
    ):

        def ready() -> bool:
            assert process.poll() is None, (folder / f"{name}.log").read_text()
            try:
                return client.get("/-/ready").status_code == 200
            except httpx.TransportError:
                return False

        eventually(ready)
        yield client


def busy_service() -> Metrics:
    """Metrics of a service to which everything has happened."""
    metrics = Metrics()
    for status in ("200", "503"):
        metrics.requests.labels("POST", "/predict", status).inc()
    for reason in ("overloaded", "log_unavailable"):
        metrics.refused.labels(reason).inc()
    metrics.prediction_latency.observe(0.1)
    metrics.batch_size.observe(2)
    for stage in metrics.stages.values():
        stage.observe(0.01)
    metrics.predicted.labels("Drama").inc()
    metrics.confidence.observe(0.6)
    metrics.model.labels("starter", "1").set(1)
    metrics.model_created.labels("starter", "1").set(1.7e9)
    metrics.swaps.labels("refused").inc()
    metrics.shadow.labels("scored").inc()
    return metrics


def test_a_real_prometheus_evaluates_every_rule_and_fills_every_panel(
    tmp_path: Path, free_port: Callable[[], int]
) -> None:
    (tmp_path / "rules.yml").write_text(RULES.read_text().replace("interval: 30s", "interval: 1s"))
    config = load(PROMETHEUS) | {"rule_files": ["rules.yml"], "alerting": {}}
    config["global"] = {"scrape_interval": "500ms", "scrape_timeout": "500ms", "evaluation_interval": "1s"}
    metrics = busy_service()
    with listening(lambda _: metrics.render()) as api, listening(lambda _: DRIFT.encode()) as drift:
        for job in config["scrape_configs"]:
            job["static_configs"][0]["targets"] = [{"api": api, "drift": drift}[job["job_name"]]]
        (tmp_path / "prometheus.yml").write_text(yaml.safe_dump(config))
        options = (f"--config.file={tmp_path}/prometheus.yml", f"--storage.tsdb.path={tmp_path}/data")
        with running("prometheus", free_port(), tmp_path, *options) as client:

            def firing() -> set[str]:
                found = client.get("/api/v1/alerts").json()["data"]["alerts"]
                return {one["labels"]["alertname"] for one in found if one["state"] == "firing"}

            def empty() -> list[str]:
                asked = {
                    (title, expression): client.get("/api/v1/query", params={"query": expression}).json()
                    for title, expression in dashboard_expressions()
                }
                assert {answer["status"] for answer in asked.values()} == {"success"}
                return [title for (title, _), answer in asked.items() if not answer["data"]["result"]]

            eventually(lambda: {"Drift", "DriftCheckLate"} <= firing())
            eventually(lambda: empty() == [])
            groups = client.get("/api/v1/rules").json()["data"]["groups"]

    evaluated = [rule for group in groups for rule in group["rules"]]
    assert len(evaluated) == len(rules("expr"))
    assert [rule for rule in evaluated if rule["health"] == "err"] == []


@pytest.mark.parametrize(
    ("alerts", "told"),
    [
        (
            [("ApiDown", "page"), ("ErrorBudgetBurn", "page"), ("Overloaded", "ticket"), ("ModelOld", "info")],
            {("/page", "ApiDown")},
        ),
        (
            [
                ("ErrorBudgetBurn", "page"),
                ("ErrorBudgetBurn", "ticket"),
                ("Overloaded", "ticket"),
                ("QueueLong", "info"),
            ],
            {("/page", "ErrorBudgetBurn"), ("/ticket", "Overloaded"), ("/info", "QueueLong")},
        ),
    ],
)
def test_a_real_alertmanager_tells_whom_it_should_and_no_more(
    alerts: list[tuple[str, str]], told: set[tuple[str, str]], tmp_path: Path, free_port: Callable[[], int]
) -> None:
    (tmp_path / "token").write_text("secret-of-the-test")
    received: set[tuple[str, str]] = set()
    tokens: set[str | None] = set()

    def notified(request: BaseHTTPRequestHandler) -> bytes:
        content = json.loads(request.rfile.read(int(request.headers["Content-Length"])))
        received.update((request.path, alert["labels"]["alertname"]) for alert in content["alerts"])
        tokens.add(request.headers["Authorization"])
        return b""

    with listening(notified) as notifier:
        config = ALERTMANAGER.read_text().replace("notifier:9000", notifier)
        config = config.replace("/etc/alertmanager/secrets/notifier-token", str(tmp_path / "token"))
        (tmp_path / "alertmanager.yml").write_text(re.sub(r"group_wait: \d+s", "group_wait: 1s", config))
        options = (
            *(f"--config.file={tmp_path}/alertmanager.yml", f"--storage.path={tmp_path}/data"),
            "--cluster.listen-address=",
        )
        with running("prometheus-alertmanager", free_port(), tmp_path, *options) as client:
            posted = [{"labels": {"alertname": name, "severity": severity}} for name, severity in alerts]
            client.post("/api/v2/alerts", json=posted).raise_for_status()
            eventually(lambda: received >= told)
            time.sleep(1.5)  # whoever else was to be told would have been by now

    assert received == told
    assert tokens == {"Bearer secret-of-the-test"}
