"""What Prometheus reads from the service: right for one process and for several.

With several worker processes the client library keeps the numbers in files that all of them share: the folder named by
`PROMETHEUS_MULTIPROC_DIR`, which the launcher of the workers sets before they import this module.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final

from prometheus_client import (
    CONTENT_TYPE_LATEST,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    generate_latest,
)
from prometheus_client.metrics_core import Metric
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.registry import Collector

if TYPE_CHECKING:
    from onesheet.predictor import Prediction

CONTENT_TYPE: Final = CONTENT_TYPE_LATEST

_STAGES: Final = ("read", "queue", "decode", "model", "log")
_STAGE_BUCKETS: Final = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5)
_LATENCY_BUCKETS: Final = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 0.75, 1, 2, 5)
_SHARES: Final = tuple(tenth / 10 for tenth in range(1, 11))
_BATCHES: Final = (1, 2, 4, 8, 16, 32)


class Metrics:
    """All series of one application. The first three have the names of the student system."""

    def __init__(self) -> None:
        self._registry = registry = CollectorRegistry()
        self.prediction_error = Counter("prediction_error", "Pictures that got no answer.", registry=registry)
        self.health_error = Counter("health_error", "Health checks that found no model.", registry=registry)
        self.prediction_latency = Histogram(
            "prediction_latency_seconds",
            "From a request's arrival to its answer.",
            buckets=_LATENCY_BUCKETS,
            registry=registry,
        )
        self.requests = Counter(
            "onesheet_requests", "Requests answered.", ["method", "route", "status"], registry=registry
        )
        self.in_flight = Gauge(
            "onesheet_requests_in_flight", "Requests under way.", multiprocess_mode="livesum", registry=registry
        )
        self.queue_depth = Gauge(
            "onesheet_queue_depth", "Pictures that wait for a thread.", multiprocess_mode="livesum", registry=registry
        )
        self.batch_size = Histogram(
            "onesheet_batch_size", "Pictures that went through the graph together.", buckets=_BATCHES, registry=registry
        )
        stages = Histogram(
            "onesheet_stage_seconds",
            f"Time of one picture in a stage: {', '.join(_STAGES)}.",
            ["stage"],
            buckets=_STAGE_BUCKETS,
            registry=registry,
        )
        self.stages = {stage: stages.labels(stage) for stage in _STAGES}
        self.refused = Counter(
            "onesheet_refused", "Requests that got a problem for an answer, by its code.", ["reason"], registry=registry
        )
        self.predicted = Counter("onesheet_predicted", "Genres in answers.", ["genre"], registry=registry)
        self.confidence = Histogram(
            "onesheet_confidence", "Probability of the most probable genre.", buckets=_SHARES, registry=registry
        )
        self.log_failures = Counter(
            "onesheet_log_failures", "Answers that could not be written to the prediction log.", registry=registry
        )
        self.pictures_not_kept = Counter(
            "onesheet_pictures_not_kept", "Pictures that were answered and could not be kept.", registry=registry
        )
        self.model = Gauge(
            "onesheet_model_info",
            "1 for the model that answers.",
            ["name", "version"],
            multiprocess_mode="livemax",
            registry=registry,
        )
        self.model_created = Gauge(
            "onesheet_model_created_timestamp_seconds",
            "When the model that answers was exported.",
            ["name", "version"],
            multiprocess_mode="livemax",
            registry=registry,
        )
        self.swaps = Counter(
            "onesheet_model_swaps",
            "Bundles that were to answer instead: done, or refused.",
            ["outcome"],
            registry=registry,
        )
        self.shadow = Counter(
            "onesheet_shadow", "Pictures for the shadow model: scored, or skipped.", ["outcome"], registry=registry
        )
        if shared_folder() is None:
            ProcessCollector(registry=registry)

    def observe(self, prediction: Prediction) -> None:
        """Count the genres of an answer."""
        for score in prediction.predicted:
            self.predicted.labels(score.label).inc()
        self.confidence.observe(prediction.topk[0].probability)

    def render(self) -> bytes:
        """Prometheus' text format; of all worker processes together, whichever is asked."""
        folder = shared_folder()
        if folder is None:
            return generate_latest(self._registry)
        registry = CollectorRegistry()
        MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
        registry.register(_Processes(folder))
        return generate_latest(registry)


class _Processes(Collector):
    """The usual `process_` series, of each worker process, told apart by the label `pid`.

    Args:
        folder: Where the workers keep their metrics.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def collect(self) -> Iterator[Metric]:
        """Called for every rendering."""
        families: dict[str, Metric] = {}
        for pid in self._living():
            for found in ProcessCollector(pid=partial(int, pid), registry=None).collect():
                family = families.setdefault(found.name, Metric(found.name, found.documentation, found.type))
                for sample in found.samples:
                    family.add_sample(sample.name, {"pid": str(pid)}, sample.value)
        yield from families.values()

    def _living(self) -> list[int]:
        """Each worker has a file for its counters, which outlives it."""
        pids = {int(path.stem.rpartition("_")[2]) for path in self._folder.glob("counter_*.db")}
        return sorted(pid for pid in pids if Path(f"/proc/{pid}").exists())


def shared_folder() -> Path | None:
    """The folder that the worker processes of one service share; None where there is but one."""
    folder = os.environ.get("PROMETHEUS_MULTIPROC_DIR")
    return Path(folder) if folder else None
