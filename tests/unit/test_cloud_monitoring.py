"""Alerts and dashboard for Cloud Monitoring: as Google's own types and clients have them."""

from __future__ import annotations

import json
import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import grpc
import pytest
import yaml
from google.auth.credentials import AnonymousCredentials
from google.cloud import monitoring_dashboard_v1, monitoring_v3
from google.cloud.monitoring_dashboard_v1.services.dashboards_service.transports import DashboardsServiceGrpcTransport
from google.cloud.monitoring_v3.services.alert_policy_service.transports import AlertPolicyServiceGrpcTransport
from google.protobuf.json_format import ParseDict

from onesheet.cloud.monitoring import alert_policies, dashboard, documents
from onesheet.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

DEPLOY = Path(__file__).parents[2] / "deploy"
RULES = DEPLOY / "prometheus/rules/onesheet.yml"
GRAFANA = DEPLOY / "grafana/dashboards/onesheet.json"
WRITTEN = DEPLOY / "gcp/monitoring"

CREATED_POLICY = "/google.monitoring.v3.AlertPolicyService/CreateAlertPolicy"
CREATED_DASHBOARD = "/google.monitoring.dashboard.v1.DashboardsService/CreateDashboard"


def written_policies() -> list[Any]:
    """As Google's types; a field that they do not know is an error."""
    found = [json.loads(path.read_text()) for path in sorted(WRITTEN.glob("policies/*.json"))]
    return [monitoring_v3.AlertPolicy(ParseDict(one, monitoring_v3.AlertPolicy.pb()())) for one in found]


def written_dashboard() -> Any:
    found = json.loads((WRITTEN / "dashboard.json").read_text())
    return monitoring_dashboard_v1.Dashboard(ParseDict(found, monitoring_dashboard_v1.Dashboard.pb()()))


def changed(path: Path, folder: Path, *changes: tuple[str, str]) -> Path:
    text = path.read_text()
    for old, new in changes:
        assert old in text
        text = text.replace(old, new, 1)
    copy = folder / path.name
    copy.write_text(text)
    return copy


# ------------------------------------------------------------------------------------------- what is written


def test_the_files_are_what_the_task_would_write() -> None:
    found = {str(path.relative_to(WRITTEN)): path.read_text() for path in WRITTEN.glob("**/*.json")}

    assert found == documents(RULES, GRAFANA), "run: inv monitoring"


def test_googles_types_know_every_field_of_the_files() -> None:
    by_name = {policy.display_name: policy for policy in alert_policies(RULES)}

    assert {policy.display_name: policy for policy in written_policies()} == by_name
    assert written_dashboard() == dashboard(GRAFANA, RULES)


# -------------------------------------------------------------------------------------------------- policies


def test_every_alert_is_a_policy() -> None:
    alerts = [
        (group, rule)
        for group in yaml.safe_load(RULES.read_text())["groups"]
        for rule in group["rules"]
        if "alert" in rule
    ]
    policies = alert_policies(RULES)

    assert len({policy.display_name for policy in policies}) == len(policies) == len(alerts)
    for (group, rule), policy in zip(alerts, policies, strict=True):
        [condition] = policy.conditions
        query = condition.condition_prometheus_query_language
        assert (query.rule_group, query.alert_rule) == (group["name"], rule["alert"])
        assert dict(query.labels) == rule["labels"]
        assert query.evaluation_interval.total_seconds() == 30
        assert (
            policy.severity.name
            == {"page": "CRITICAL", "ticket": "ERROR", "info": "WARNING"}[rule["labels"]["severity"]]
        )
        assert policy.documentation.subject == rule["annotations"]["summary"]
        assert rule["annotations"]["runbook"] in policy.documentation.content


def test_policies_keep_to_what_the_service_accepts() -> None:
    for policy in alert_policies(RULES):
        documentation = policy.documentation
        assert len(documentation.content) <= 8192
        assert len(documentation.subject) <= 255
        assert "{{" not in documentation.content + documentation.subject
        for text in (*policy.user_labels.keys(), *policy.user_labels.values()):
            assert re.fullmatch(r"[a-z0-9_-]{1,63}", text)
        assert re.fullmatch(r"[a-zA-Z_]\w*", policy.conditions[0].condition_prometheus_query_language.alert_rule)


def test_durations_and_variables_are_translated() -> None:
    by_alert = {
        policy.conditions[0].condition_prometheus_query_language.alert_rule: policy for policy in alert_policies(RULES)
    }
    queue = by_alert["QueueLong"]

    assert queue.conditions[0].condition_prometheus_query_language.duration.total_seconds() == 600
    assert queue.documentation.content.startswith(
        "Posters that wait at ${metric_or_resource.label.instance}, on average: ${metric.label.value}."
    )


def test_recorded_series_are_written_out() -> None:
    recorded = {
        rule["record"]: rule["expr"].strip()
        for group in yaml.safe_load(RULES.read_text())["groups"]
        for rule in group["rules"]
        if "record" in rule
    }
    queries = [policy.conditions[0].condition_prometheus_query_language.query for policy in alert_policies(RULES)]

    assert f"({recorded['onesheet:failures:ratio_rate5m']}) > 14.4 * 0.005" in queries[0]
    assert not [query for query in queries if "onesheet:" in query]
    assert "onesheet:" not in documents(RULES, GRAFANA)["dashboard.json"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("groups:", "groups: ["), "ParserError"),
        (("groups:", "teams:"), "KeyError 'groups'"),
        (("severity: page", "severity: scream"), "KeyError 'scream'"),
        (("interval: 30s", "interval: 45ms"), "KeyError 'ms'"),
        (("record: onesheet:late:ratio_rate5m", "record: onesheet:other"), "KeyError 'onesheet:late:ratio_rate5m'"),
    ],
)
def test_rules_that_are_not_as_expected(change: tuple[str, str], message: str, tmp_path: Path) -> None:
    # The first group only records: nothing asks for its interval.
    text = RULES.read_text()
    start = text.index("  - name: onesheet-objectives") if change[0].startswith("interval") else 0
    rules = tmp_path / "rules.yml"
    rules.write_text(text[:start] + text[start:].replace(*change, 1))

    with pytest.raises(DataError, match=re.escape(message)):
        alert_policies(rules)


def test_an_interval_that_cloud_monitoring_does_not_know(tmp_path: Path) -> None:
    rules = tmp_path / "rules.yml"
    rules.write_text(RULES.read_text().replace("interval: 30s", "interval: 45s"))

    with pytest.raises(DataError, match="every 30 seconds"):
        alert_policies(rules)


@pytest.mark.parametrize(
    "read", [alert_policies, lambda path: dashboard(path, RULES), lambda path: dashboard(GRAFANA, path)]
)
def test_a_file_that_is_not_there(read: Callable[[Path], Any], tmp_path: Path) -> None:
    with pytest.raises(DataError, match="No such file"):
        read(tmp_path / "none.yml")


# ------------------------------------------------------------------------------------------------- dashboard


def test_every_panel_is_a_tile_and_no_two_overlap() -> None:
    panels = json.loads(GRAFANA.read_text())["panels"]
    board = dashboard(GRAFANA, RULES)
    tiles = board.mosaic_layout.tiles
    taken = [
        (column, line)
        for tile in tiles
        for column in range(tile.x_pos, tile.x_pos + tile.width)
        for line in range(tile.y_pos, tile.y_pos + tile.height)
    ]

    assert [tile.widget.title for tile in tiles] == [panel["title"] for panel in panels]
    assert len(taken) == len(set(taken))
    assert {column for column, _ in taken} == set(range(board.mosaic_layout.columns)) == set(range(12))
    # No gaps: rows lie close.
    assert len(taken) == 12 * (1 + max(line for _, line in taken))


def test_panels_become_widgets_of_their_kind() -> None:
    widgets = {tile.widget.title: tile.widget for tile in dashboard(GRAFANA, RULES).mosaic_layout.tiles}

    assert "section_header" in widgets["Traffic"]
    assert widgets["The model that answers"].time_series_table.data_sets[0].time_series_query.prometheus_query
    latency = widgets["Latency of /predict"].xy_chart
    assert [data.legend_template for data in latency.data_sets] == ["p50", "p95", "p99"]
    assert [data.time_series_query.unit_override for data in latency.data_sets] == ["s", "s", "s"]
    assert [line.value for line in latency.thresholds] == [0.5]
    [by_route] = widgets["Requests by route"].xy_chart.data_sets
    assert (by_route.legend_template, by_route.plot_type.name) == ("${route}", "STACKED_AREA")


def test_thresholds_say_on_which_side_it_is_bad() -> None:
    widgets = {tile.widget.title: tile.widget for tile in dashboard(GRAFANA, RULES).mosaic_layout.tiles}

    def thresholds(title: str) -> list[tuple[float, str, str]]:
        return [(one.value, one.color.name, one.direction.name) for one in widgets[title].scorecard.thresholds]

    assert thresholds("API instances up") == [(0.5, "RED", "BELOW")]
    assert thresholds("Error budget, speed") == [(1, "YELLOW", "ABOVE"), (3, "RED", "ABOVE")]
    assert thresholds("Requests") == []


def test_a_panel_that_cloud_monitoring_does_not_have(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no panel of the kind candlestick"):
        dashboard(changed(GRAFANA, tmp_path, ('"type": "stat"', '"type": "candlestick"')), RULES)


def test_a_dashboard_that_is_no_json(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="JSONDecodeError"):
        dashboard(changed(GRAFANA, tmp_path, ("{", "{{")), RULES)


# ------------------------------------------------------------------------------------------- Google's clients


class _Recorder(grpc.GenericRpcHandler):
    """Both services, as far as they create: what was asked for, and answered as it was."""

    def __init__(self) -> None:
        self.asked: list[Any] = []
        types = {
            CREATED_POLICY: (monitoring_v3.CreateAlertPolicyRequest, monitoring_v3.AlertPolicy, "alert_policy"),
            CREATED_DASHBOARD: (
                monitoring_dashboard_v1.CreateDashboardRequest,
                monitoring_dashboard_v1.Dashboard,
                "dashboard",
            ),
        }
        self._methods = {name: self._method(*kinds) for name, kinds in types.items()}

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler | None:
        return self._methods.get(handler_call_details.method)

    def _method(self, request: Any, answer: Any, field: str) -> grpc.RpcMethodHandler:
        def create(asked: Any, _: grpc.ServicerContext) -> Any:
            self.asked.append(asked)
            return getattr(asked, field)

        return grpc.unary_unary_rpc_method_handler(create, request.deserialize, answer.serialize)


@pytest.fixture
def cloud() -> Iterator[tuple[grpc.Channel, _Recorder]]:
    """A channel to a server of our own, and what it was asked."""
    recorder = _Recorder()
    server = grpc.server(ThreadPoolExecutor(1), handlers=[recorder])
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        yield channel, recorder
    server.stop(None).wait()


def test_the_official_client_creates_the_policies(cloud: tuple[grpc.Channel, _Recorder]) -> None:
    channel, recorder = cloud
    transport = AlertPolicyServiceGrpcTransport(channel=channel, credentials=AnonymousCredentials())
    client = monitoring_v3.AlertPolicyServiceClient(transport=transport)
    policies = written_policies()

    answers = [client.create_alert_policy(name="projects/films", alert_policy=policy) for policy in policies]

    assert answers == policies
    assert [asked.alert_policy for asked in recorder.asked] == policies
    assert {asked.name for asked in recorder.asked} == {"projects/films"}


def test_the_official_client_creates_the_dashboard(cloud: tuple[grpc.Channel, _Recorder]) -> None:
    channel, recorder = cloud
    transport = DashboardsServiceGrpcTransport(channel=channel, credentials=AnonymousCredentials())
    client = monitoring_dashboard_v1.DashboardsServiceClient(transport=transport)
    board = written_dashboard()

    assert client.create_dashboard({"parent": "projects/films", "dashboard": board}) == board
    [asked] = recorder.asked
    assert (asked.parent, asked.dashboard) == ("projects/films", board)
