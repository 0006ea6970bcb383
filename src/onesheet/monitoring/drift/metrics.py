"""What Prometheus reads of the latest comparison, whoever made it: this process, a scheduled job or a person."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Final, get_args

from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from onesheet.monitoring.drift.run import Verdict
from onesheet.predictionlog import DriftRun, DriftRuns

if TYPE_CHECKING:
    from onesheet.predictionlog import PredictionLog

_LEVELS: Final = {"ok": 0, "warning": 1, "drift": 2}


class LatestRun(Collector):
    """Gauges of the latest run in a log's database; none while there is no run.

    Args:
        log: Its tables must be there when Prometheus asks.
    """

    def __init__(self, log: PredictionLog) -> None:
        self._runs = DriftRuns(log)

    def collect(self) -> Iterator[Metric]:
        """Called for every rendering.

        Raises:
            LogUnavailableError: The database cannot be read.
        """
        for run in self._runs.latest():
            yield from _gauges(run)


def _gauges(run: DriftRun) -> Iterator[Metric]:
    labels = {"model": run.model_name, "version": run.model_version}
    result, feedback = run.result, run.result["feedback"]
    watched: list[dict[str, Any]] = result["watched"]

    def gauge(name: str, text: str, samples: list[tuple[dict[str, str], float | None]]) -> Metric:
        metric = Metric(f"onesheet_{name}", text, "gauge")
        for more, value in samples:
            if value is not None:
                metric.add_sample(metric.name, labels | more, value)
        return metric

    yield gauge(
        "drift_verdict",
        "1 for the verdict of the latest run.",
        [({"verdict": verdict}, float(verdict == run.verdict)) for verdict in get_args(Verdict)],
    )
    yield gauge("drift_run_timestamp_seconds", "When the latest run was made.", [({}, run.time.timestamp())])
    yield gauge("drift_pictures", "Distinct pictures that were compared.", [({}, result["pictures"])])
    yield gauge(
        "drift_other_predictions",
        "Predictions that other model versions made in the window, and that were not compared.",
        # A run of an earlier version of onesheet has not counted them.
        [({}, sum(result.get("other_models", {}).values()))],
    )
    yield gauge(
        "drift_distance",
        "How far a column is from the reference, 0 to 1; of the embedding a classifier's area under the ROC curve.",
        [({"column": column["name"]}, column["distance"]) for column in watched],
    )
    yield gauge(
        "drift_moved",
        "0: a column is as in the reference, 1: warning, 2: drift.",
        [({"column": column["name"]}, _LEVELS[column["verdict"]]) for column in watched],
    )
    yield gauge("feedback_answers", "Answers that somebody spoke of.", [({}, feedback["count"])])
    yield gauge("feedback_agreement", "Mean Jaccard index of said and true genres.", [({}, feedback["agreement"])])
    yield gauge(
        "feedback_expected_agreement", "The same in the model's reference.", [({}, feedback["expected_agreement"])]
    )
    yield gauge(
        "feedback_precision",
        "Share of the answers with a genre that are right.",
        [({"genre": genre}, value) for genre, value in feedback["precision"].items()],
    )
