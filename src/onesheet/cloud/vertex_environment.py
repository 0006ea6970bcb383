"""What Vertex AI tells a machine of a training job, and what it wants to hear of a trial.

Vertex speaks to a container through variables of its own. They are no settings of onesheet, so `settings.py` does not
know them: they are read here and nowhere else, from a mapping that the command line passes on.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from onesheet.errors import ConfigError
from onesheet.training.launch import Machine

# The pools of a job by position: chief, workers. Others are for frameworks with parameter servers or evaluators.
_CHIEF, _WORKERS = "workerpool0", "workerpool1"

_METRIC_FILE: Final = "/var/hypertune/output.metrics"
_METRIC_TAG: Final = "val_map_macro"
_WHOLE: Final = re.compile(r"(=-?\d+)\.0+$")


@dataclass(frozen=True, slots=True)
class Trial:
    """One trial of a hyperparameter tuning job.

    Attributes:
        id: Its name in the job.
        metric_file: Where Vertex looks for the metric.
        tag: What the job calls the metric.
    """

    id: str
    metric_file: Path
    tag: str = _METRIC_TAG

    def report(self, values: Mapping[int, float]) -> None:
        """Tell Vertex the metric after each epoch, as far as it does not know it yet.

        The lines are those of the library cloudml-hypertune, text where numbers would do included. It is a hundred
        lines that nobody maintains, so we write them ourselves.

        Args:
            values: Metric by epoch.
        """
        lines = self.metric_file.read_text().splitlines() if self.metric_file.exists() else []
        told = {int(json.loads(line)["global_step"]) for line in lines}
        new = [self._line(epoch, value) for epoch, value in values.items() if epoch not in told]
        if new:
            self.metric_file.parent.mkdir(parents=True, exist_ok=True)
            with self.metric_file.open("a") as file:
                file.writelines(new)

    def _line(self, epoch: int, value: float) -> str:
        entry = {
            "timestamp": time.time(),
            "trial": self.id,
            self.tag: str(value),
            "global_step": str(epoch),
            "checkpoint_path": "",
        }
        return json.dumps(entry, sort_keys=True) + "\n"


def read_machine(environment: Mapping[str, str]) -> Machine | None:
    """This machine among those of the job; None if it is alone.

    Raises:
        ConfigError: CLUSTER_SPEC is not what Vertex promises, or has machines that have nothing to do here.
    """
    spec = _cluster_spec(environment)
    try:
        pools = {name: list(hosts) for name, hosts in spec.get("cluster", {}).items() if hosts}
        if strangers := sorted(set(pools) - {_CHIEF, _WORKERS}):
            raise ConfigError(f"machines beyond chief and workers have nothing to do: {', '.join(strangers)}")
        hosts = [*pools.get(_CHIEF, []), *pools.get(_WORKERS, [])]
        if len(hosts) < 2:
            return None
        address, _, port = hosts[0].rpartition(":")
        task = spec["task"]
        before = 0 if task["type"] == _CHIEF else len(pools[_CHIEF])
        return Machine(before + int(task["index"]), len(hosts), address, int(port))
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ConfigError("CLUSTER_SPEC does not name the machines of a job of Vertex AI") from error


def read_trial(environment: Mapping[str, str]) -> Trial | None:
    """The trial that this is; None if the job is no search.

    Raises:
        ConfigError: CLUSTER_SPEC is no JSON.
    """
    task = _cluster_spec(environment).get("task") or {}
    name = environment.get("CLOUD_ML_TRIAL_ID") or task.get("trial")
    if not name:
        return None
    file = Path(environment.get("CLOUD_ML_HP_METRIC_FILE") or _METRIC_FILE)
    return Trial(str(name), file, environment.get("CLOUD_ML_HP_METRIC_TAG") or _METRIC_TAG)


def as_overrides(arguments: Sequence[str]) -> tuple[str, ...]:
    """Hydra overrides of what a job passes: they themselves, and a trial's `--optimizer.lr=0.003`.

    To Vertex every number of a list is a float; a batch size of 32.0 is one of 32.
    """
    return tuple(_WHOLE.sub(r"\1", argument[2:]) if argument.startswith("--") else argument for argument in arguments)


def _cluster_spec(environment: Mapping[str, str]) -> dict[str, Any]:
    """As in https://cloud.google.com/vertex-ai/docs/training/distributed-training#cluster-variables."""
    try:
        spec = json.loads(environment.get("CLUSTER_SPEC") or "{}")
    except ValueError as error:
        raise ConfigError("CLUSTER_SPEC is no JSON") from error
    return spec if isinstance(spec, dict) else {}
