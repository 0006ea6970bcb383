"""The alerts and the dashboard for Google Cloud Monitoring, made from the files that Prometheus and Grafana read.

Google's Managed Service for Prometheus collects the same series under the same names and asks for them in PromQL, so
expressions stay as they are. Recorded series are written out: nothing records them there.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

import yaml
from google.cloud import monitoring_dashboard_v1 as boards
from google.cloud import monitoring_v3

from onesheet.errors import DataError

_SEVERITIES: Final = {
    "page": monitoring_v3.AlertPolicy.Severity.CRITICAL,
    "ticket": monitoring_v3.AlertPolicy.Severity.ERROR,
    "info": monitoring_v3.AlertPolicy.Severity.WARNING,
}
_SECONDS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}
# Of the rules, https://cloud.google.com/monitoring/api/ref_v3/rest/v3/projects.alertPolicies
_INTERVAL_STEP: Final = timedelta(seconds=30)
_RECORDED: Final = re.compile(r"\bonesheet:[\w:]+")
_VALUE: Final = re.compile(r"\{\{\s*\$value\b[^}]*\}\}")
_LABEL: Final = re.compile(r"\{\{\s*\$labels\.(\w+)\s*\}\}")
_LEGEND: Final = re.compile(r"\{\{\s*(\w+)\s*\}\}")

# Grafana's grid has 24 columns, Cloud Monitoring's at most 12: a block there is two here, in height as well.
_COLUMNS: Final = 12
_BLOCK: Final = 2
_UNITS: Final = {"s": "s", "bytes": "By", "percentunit": "10^2.%", "reqps": "1/s"}
_COLOURS: Final = {"yellow": boards.Threshold.Color.YELLOW, "red": boards.Threshold.Color.RED}
_BADNESS: Final = ("green", "yellow", "red")


def documents(rules: Path, grafana: Path) -> dict[str, str]:
    """Everything for Cloud Monitoring as JSON, as `gcloud` reads it, by file name.

    Args:
        rules: As for `alert_policies`.
        grafana: As for `dashboard`.

    Raises:
        DataError: A file cannot be read, or holds what has no counterpart in Cloud Monitoring.
    """
    found = {"dashboard.json": _as_json(dashboard(grafana, rules))}
    for policy in alert_policies(rules):
        rule = policy.conditions[0].condition_prometheus_query_language
        found[f"policies/{rule.alert_rule}-{rule.labels['severity']}.json"] = _as_json(policy)
    return found


def alert_policies(rules: Path) -> list[monitoring_v3.AlertPolicy]:
    """One policy for each alerting rule.

    Args:
        rules: A rules file of Prometheus. Groups name their interval, alerts have a label `severity` and annotations
            `summary`, `description` and `runbook`; recorded series are used by their bare names.

    Raises:
        DataError: The file cannot be read, or is not of this kind.
    """
    with _reading(rules):
        groups = _groups(rules)
        recorded = _recorded(groups)
        return [_policy(group, rule, recorded) for group in groups for rule in group["rules"] if "alert" in rule]


def dashboard(grafana: Path, rules: Path) -> boards.Dashboard:
    """The panels of a dashboard, where they are.

    Args:
        grafana: A dashboard of Grafana: rows above panels of even positions and sizes.
        rules: The rules file with the recorded series that it uses.

    Raises:
        DataError: A file cannot be read, or holds a panel of an unknown kind.
    """
    with _reading(rules):
        recorded = _recorded(_groups(rules))
    with _reading(grafana):
        source = json.loads(grafana.read_text(encoding="utf-8"))
        return boards.Dashboard(
            display_name=source["title"],
            mosaic_layout=boards.MosaicLayout(columns=_COLUMNS, tiles=list(_tiles(source["panels"], recorded))),
        )


# ------------------------------------------------------------------------------------------------- policies


def _groups(rules: Path) -> list[dict[str, Any]]:
    groups: list[dict[str, Any]] = yaml.safe_load(rules.read_text(encoding="utf-8"))["groups"]
    return groups


def _recorded(groups: list[dict[str, Any]]) -> dict[str, str]:
    """Expressions by the names of the series that are recorded from them."""
    return {rule["record"]: rule["expr"].strip() for group in groups for rule in group["rules"] if "record" in rule}


def _policy(group: dict[str, Any], rule: dict[str, Any], recorded: dict[str, str]) -> monitoring_v3.AlertPolicy:
    interval = _duration(group["interval"])
    if not interval or interval % _INTERVAL_STEP:
        raise DataError(f"{group['name']}: Cloud Monitoring evaluates every 30 seconds or a multiple of them")
    severity, name = rule["labels"]["severity"], f"{group['name']}/{rule['alert']}"
    annotations = {key: _with_variables(text) for key, text in rule["annotations"].items()}
    policy = monitoring_v3.AlertPolicy
    return policy(
        display_name=f"{name} ({severity})",
        severity=_SEVERITIES[severity],
        user_labels={"service": "onesheet", "severity": severity},
        documentation=policy.Documentation(
            subject=annotations["summary"],
            content=f"{annotations['description']}\n\nWhat to do: {annotations['runbook']}",
            mime_type="text/markdown",
        ),
        combiner=policy.ConditionCombinerType.OR,
        conditions=[
            policy.Condition(
                display_name=name,
                condition_prometheus_query_language=policy.Condition.PrometheusQueryLanguageCondition(
                    query=_written_out(rule["expr"], recorded),
                    duration=_duration(rule.get("for", "0s")),
                    evaluation_interval=interval,
                    labels=rule["labels"],
                    rule_group=group["name"],
                    alert_rule=rule["alert"],
                    # Some series begin with the first failure.
                    disable_metric_validation=True,
                ),
            )
        ],
    )


def _written_out(expression: str, recorded: dict[str, str]) -> str:
    return _RECORDED.sub(lambda name: f"({recorded[name[0]]})", expression.strip())


def _with_variables(template: str) -> str:
    """Prometheus' templates as Cloud Monitoring's variables, as `gcloud monitoring policies migrate` has them."""
    return _LABEL.sub(r"${metric_or_resource.label.\1}", _VALUE.sub("${metric.label.value}", template))


def _duration(text: str) -> timedelta:
    return timedelta(seconds=sum(int(number) * _SECONDS[unit] for number, unit in re.findall(r"(\d+)(\D+)", text)))


# ------------------------------------------------------------------------------------------------ dashboard


def _tiles(panels: list[dict[str, Any]], recorded: dict[str, str]) -> Iterator[boards.MosaicLayout.Tile]:
    """Rows are half a block high in Grafana and a whole one here, so each moves what follows by a half."""
    rows = 0
    for panel in panels:
        place = panel["gridPos"]
        yield boards.MosaicLayout.Tile(
            x_pos=place["x"] // _BLOCK,
            y_pos=(place["y"] + rows) // _BLOCK,
            width=place["w"] // _BLOCK,
            height=-(-place["h"] // _BLOCK),
            widget=_widget(panel, recorded),
        )
        rows += panel["type"] == "row"


def _widget(panel: dict[str, Any], recorded: dict[str, str]) -> boards.Widget:
    title, kind = panel["title"], panel["type"]
    if kind == "row":
        return boards.Widget(title=title, section_header=boards.SectionHeader())
    defaults = panel["fieldConfig"]["defaults"]
    queries = [
        boards.TimeSeriesQuery(
            prometheus_query=_written_out(target["expr"], recorded),
            unit_override=_UNITS.get(defaults.get("unit"), ""),
        )
        for target in panel["targets"]
    ]
    match kind:
        case "timeseries":
            legends = [_LEGEND.sub(r"${\1}", target["legendFormat"]) for target in panel["targets"]]
            return boards.Widget(title=title, xy_chart=_chart(defaults, queries, legends))
        case "stat":
            scorecard = boards.Scorecard(
                time_series_query=queries[0],
                spark_chart_view=boards.Scorecard.SparkChartView(spark_chart_type=boards.SparkChartType.SPARK_LINE),
                thresholds=_thresholds(defaults["thresholds"]["steps"]),
            )
            return boards.Widget(title=title, scorecard=scorecard)
        case "table":
            data = [boards.TimeSeriesTable.TableDataSet(time_series_query=query) for query in queries]
            return boards.Widget(title=title, time_series_table=boards.TimeSeriesTable(data_sets=data))
    raise DataError(f"{title}: Cloud Monitoring has no panel of the kind {kind}")


def _chart(defaults: dict[str, Any], queries: list[boards.TimeSeriesQuery], legends: list[str]) -> boards.XyChart:
    plots = boards.XyChart.DataSet.PlotType
    stacked = defaults["custom"]["stacking"]["mode"] == "normal"
    return boards.XyChart(
        data_sets=[
            boards.XyChart.DataSet(
                time_series_query=query,
                legend_template=legend,
                plot_type=plots.STACKED_AREA if stacked else plots.LINE,
            )
            for query, legend in zip(queries, legends, strict=True)
        ],
        # A line has neither colour nor direction here.
        thresholds=[boards.Threshold(value=step["value"]) for step in defaults["thresholds"]["steps"][1:]],
        y_axis=boards.XyChart.Axis(scale=boards.XyChart.Axis.Scale.LINEAR),
    )


def _thresholds(steps: list[dict[str, Any]]) -> list[boards.Threshold]:
    """From one step to the next it gets worse above, or better above and so worse below."""
    found = []
    for below, above in pairwise(steps):
        worse_above = _BADNESS.index(above["color"]) > _BADNESS.index(below["color"])
        directions = boards.Threshold.Direction
        found.append(
            boards.Threshold(
                value=above["value"],
                color=_COLOURS[(above if worse_above else below)["color"]],
                direction=directions.ABOVE if worse_above else directions.BELOW,
            )
        )
    return found


# ---------------------------------------------------------------------------------------------------- files


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """What is wrong with a file, as one of our errors."""
    try:
        yield
    except OSError as error:
        raise DataError(f"{path}: {error.strerror}") from error
    except (yaml.YAMLError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise DataError(f"{path} is not as expected: {type(error).__name__} {error}") from error


def _as_json(message: monitoring_v3.AlertPolicy | boards.Dashboard) -> str:
    text: str = type(message).to_json(
        message, sort_keys=True, use_integers_for_enums=False, always_print_fields_with_no_presence=False
    )
    return text + "\n"
