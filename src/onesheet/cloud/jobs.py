"""Jobs of Vertex AI: a training on one machine or several, and a search over a space of them.

Each machine runs `onesheet cloud work` in the image `train`, see `onesheet.cloud.worker`.
"""

from __future__ import annotations

import hashlib
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, Final

from google.cloud import aiplatform_v1 as vertex

from onesheet.cloud.bootstrap import DATA, RUNS
from onesheet.cloud.config import Machine, Place
from onesheet.cloud.google import Google
from onesheet.cloud.steps import Call
from onesheet.errors import CloudError, ConfigError, DataError
from onesheet.training.searchspace import Parameter, SearchSpace

# What a trial reports; Vertex knows no slashes in it.
METRIC: Final = "val_map_macro"
_POLL_SECONDS: Final = 20.0
_NAME: Final = re.compile(r"[a-z0-9][a-z0-9-]{0,60}")
_HASHED: Final = 2**20
_ENDED: Final = {
    vertex.JobState.JOB_STATE_SUCCEEDED,
    vertex.JobState.JOB_STATE_FAILED,
    vertex.JobState.JOB_STATE_CANCELLED,
    vertex.JobState.JOB_STATE_EXPIRED,
    vertex.JobState.JOB_STATE_PARTIALLY_SUCCEEDED,
}
_ALGORITHMS: Final = {
    "bayes": vertex.StudySpec.Algorithm.ALGORITHM_UNSPECIFIED,  # which is Google's Bayesian optimisation
    "random": vertex.StudySpec.Algorithm.RANDOM_SEARCH,
    "grid": vertex.StudySpec.Algorithm.GRID_SEARCH,
}


@dataclass(frozen=True, slots=True)
class Training:
    """What is trained, on what.

    Attributes:
        name: Of the run and of the job.
        data: Address of the posters.
        overrides: Hydra overrides.
        machine: A name in the file's `training.machines`.
        workers: Machines beside the first.
        tag: Of the image.
        spot: On machines that Google may take away, for less; the run goes on when it gets others.
    """

    name: str
    data: str
    overrides: tuple[str, ...] = ()
    machine: str = "cpu"
    workers: int = 0
    tag: str = "latest"
    spot: bool = False


def train(place: Place, training: Training) -> Call:
    """The job of a training: one machine, or a chief and workers.

    Raises:
        ConfigError: The name cannot be one, or there is no such machine.
    """
    job = vertex.CustomJob(
        display_name=training.name, labels={"service": place.config.name}, job_spec=_job_spec(place, training)
    )
    request = vertex.CreateCustomJobRequest(parent=place.location, custom_job=job)
    return Call(f"training {training.name}", "vertex", "create_custom_job", request)


def sweep(place: Place, training: Training, space: SearchSpace, trials: int, parallel: int) -> Call:
    """The job of a search: each trial is such a training with other values.

    Args:
        place: Where.
        training: What all trials have in common.
        space: Of the values that differ.
        trials: How many.
        parallel: How many at a time.

    Raises:
        ConfigError: As for `train`, or the space has what Vertex AI cannot search.
    """
    if space.metric.name != "val/map_macro":
        raise ConfigError(f"trials report val/map_macro to Vertex AI, not {space.metric.name}")
    fixed = tuple(f"{name}={one.value}" for name, one in space.parameters.items() if one.kind == "constant")
    goals = vertex.StudySpec.MetricSpec.GoalType
    study = vertex.StudySpec(
        metrics=[vertex.StudySpec.MetricSpec(metric_id=METRIC, goal=getattr(goals, space.metric.goal.upper()))],
        parameters=[_parameter(name, one) for name, one in space.parameters.items() if one.kind != "constant"],
        algorithm=_ALGORITHMS[space.method],
    )
    if space.early_terminate:
        study.median_automated_stopping_spec = vertex.StudySpec.MedianAutomatedStoppingSpec()
    common = Training(
        training.name,
        training.data,
        (*training.overrides, *fixed),
        training.machine,
        training.workers,
        training.tag,
        training.spot,
    )
    job = vertex.HyperparameterTuningJob(
        display_name=training.name,
        labels={"service": place.config.name},
        study_spec=study,
        max_trial_count=trials,
        parallel_trial_count=min(parallel, trials),
        # A space with a value that cannot work is given up, not paid for to the end.
        max_failed_trial_count=max(1, trials // 4),
        trial_job_spec=_job_spec(place, common),
    )
    request = vertex.CreateHyperparameterTuningJobRequest(parent=place.location, hyperparameter_tuning_job=job)
    return Call(f"sweep {training.name}", "vertex", "create_hyperparameter_tuning_job", request)


def data_address(place: Place, raw: Path) -> str:
    """Where the posters of a folder belong: at a name made from all of them, so that other posters lie elsewhere.

    Raises:
        DataError: There are none.
    """
    if not (raw / "train.csv").is_file():
        raise DataError(f"no train.csv in {raw}; get posters with `onesheet data fetch`, or say --data gs://…")
    digest = hashlib.sha256()
    for file in sorted(path for path in raw.rglob("*") if path.is_file()):
        digest.update(f"{file.relative_to(raw).as_posix()}\0{_hash(file)}\0".encode())
    return place.address(DATA, digest.hexdigest()[:16])


def run_address(place: Place, name: str) -> str:
    """Where a run is kept."""
    return place.address(RUNS, name)


def wait(google: Google, kind: str, name: str, on_state: Callable[[str], None]) -> None:
    """Follow a job to its end.

    Args:
        google: The project.
        kind: `custom_job` or `hyperparameter_tuning_job`.
        name: Of the job.
        on_state: Called with each new state.

    Raises:
        CloudError: It failed, or cannot be asked about.
    """
    request = getattr(vertex, f"Get{''.join(part.title() for part in kind.split('_'))}Request")(name=name)
    last = None
    while True:
        job = google.call("vertex", f"get_{kind}", request)
        if job.state != last:
            last = job.state
            on_state(state_name(job.state))
        if job.state in _ENDED:
            break
        time.sleep(_POLL_SECONDS)
    if job.state != vertex.JobState.JOB_STATE_SUCCEEDED:
        said = job.error.message or "see its log"
        raise CloudError(
            f"{job.display_name} {state_name(job.state)}: {said}; onesheet cloud logs {name.rpartition('/')[2]}"
        )


def state_name(state: Any) -> str:
    """In plain words."""
    return str(vertex.JobState(state).name).removeprefix("JOB_STATE_").lower()


def _job_spec(place: Place, training: Training) -> vertex.CustomJobSpec:
    if not _NAME.fullmatch(training.name):
        raise ConfigError(f"{training.name}: a name has small letters, digits and hyphens, 61 at most")
    for one in training.overrides:
        if "=" not in one or one.startswith("-"):
            raise ConfigError(f"{one}: say KEY=VALUE, such as trainer.epochs=10")
    machine = place.config.training.machines.get(training.machine)
    if machine is None:
        raise ConfigError(f"no machine {training.machine}; there are {', '.join(place.config.training.machines)}")
    strategies = vertex.Scheduling.Strategy
    return vertex.CustomJobSpec(
        worker_pool_specs=[_pool(place, training, machine, replicas) for replicas in (1, training.workers) if replicas],
        scheduling=vertex.Scheduling(
            timeout=timedelta(hours=place.config.training.max_hours),
            # The run is in the bucket, and goes on there.
            restart_job_on_worker_restart=True,
            strategy=strategies.SPOT if training.spot else strategies.STANDARD,
        ),
        service_account=place.account("train"),
    )


def _pool(place: Place, training: Training, machine: Machine, replicas: int) -> vertex.WorkerPoolSpec:
    nodes = training.workers + 1
    shape = [f"trainer.nodes={nodes}", f"trainer.devices={max(1, machine.gpus)}"]
    shape += ["trainer.accelerator=gpu"] if machine.gpus else ["trainer.accelerator=cpu"]
    secrets = place.config.training.secrets
    spec = vertex.MachineSpec(machine_type=machine.machine_type)
    if machine.accelerator:
        spec.accelerator_type = _accelerator(machine.accelerator)
        spec.accelerator_count = machine.accelerators
    return vertex.WorkerPoolSpec(
        machine_spec=spec,
        replica_count=replicas,
        disk_spec=vertex.DiskSpec(boot_disk_type="pd-ssd", boot_disk_size_gb=machine.disk_gb),
        container_spec=vertex.ContainerSpec(
            image_uri=place.image("train", training.tag),
            command=["onesheet", "cloud", "work"],
            args=[
                f"--data={training.data}",
                f"--run={run_address(place, training.name)}",
                *(f"--secret={place.config.secrets[name]}={place.secret(name)}" for name in secrets),
                *shape,
                *training.overrides,
            ],
        ),
    )


def _accelerator(name: str) -> vertex.AcceleratorType:
    if name not in vertex.AcceleratorType.__members__:
        raise ConfigError(f"Vertex AI knows no accelerator {name}")
    return vertex.AcceleratorType(vertex.AcceleratorType.__members__[name])


def _parameter(name: str, parameter: Parameter) -> vertex.StudySpec.ParameterSpec:
    spec = vertex.StudySpec.ParameterSpec
    match parameter.kind:
        case "categorical":
            values = [str(value) for value in parameter.values or ()]
            return spec(parameter_id=name, categorical_value_spec=spec.CategoricalValueSpec(values=values))
        case "int_uniform":
            whole = spec.IntegerValueSpec(min_value=int(parameter.min or 0), max_value=int(parameter.max or 0))
            return spec(parameter_id=name, integer_value_spec=whole)
        case kind:
            scales = spec.ScaleType
            return spec(
                parameter_id=name,
                double_value_spec=spec.DoubleValueSpec(min_value=parameter.min, max_value=parameter.max),
                scale_type=scales.UNIT_LINEAR_SCALE if kind == "uniform" else scales.UNIT_LOG_SCALE,
            )


def _hash(file: Path) -> str:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()
