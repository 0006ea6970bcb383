"""What the tracking store knows of earlier runs: a table to read, a table for the docs, a page to look at."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any, Final

from rich.table import Table

from onesheet.errors import TrainingError, reason
from onesheet.mlflow_artifacts import database_file, settle_artifacts
from onesheet.mlflow_store import open_mlflow_store
from onesheet.processes import running
from onesheet.training.config import TrainConfig

MAX_RUNS: Final = 1000
_STOP_SECONDS: Final = 10

# Where a run lies says nothing of what it tried.
_NO_DIFFERENCE: Final = ("name", "run_dir", "resume", "logger", "trainer.progress", "trainer.log_every")
_FIGURES: Final = {"map_macro": "mAP", "f1_macro": "F1 macro", "f1_micro": "F1 micro", "auroc_macro": "AUROC"}

_HEAD: Final = """\
# Runs

Made by `onesheet runs list --markdown FILE`. Metrics of the best epoch on the validation posters; F1 at one threshold
for all genres (`trainer.threshold`), while a bundle gets thresholds of its own. What a run tried is what it did
differently from `{baseline}`.

"""


@dataclass(frozen=True, slots=True)
class Run:
    """A run as the store knows it.

    Attributes:
        name: Of the run.
        status: MLflow's: `FINISHED`, `RUNNING`, `FAILED`, `KILLED`.
        started: UTC.
        parameters: The flattened configuration, keys with dots.
        best: Metrics of the best checkpoint, on the validation posters.
        seconds: Training time; None while it runs.
    """

    name: str
    status: str
    started: datetime
    parameters: dict[str, str]
    best: dict[str, float]
    seconds: float | None

    def changes(self, baseline: Run) -> list[str]:
        """What this run tried that the baseline did not, as overrides."""
        # A knob that the baseline does not know came later: there it stood at its default.
        known = _flat(asdict(TrainConfig(run_dir=""))) | baseline.parameters
        return [
            f"{key}={value}"
            for key, value in sorted(self.parameters.items())
            if known.get(key) != value and not key.startswith(_NO_DIFFERENCE)
        ]


def list_runs(uri: str, experiment: str) -> list[Run]:
    """All runs of an experiment, oldest first.

    Raises:
        TrainingError: The store is out of reach, or knows no such experiment.
    """
    address = open_mlflow_store(uri)
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException

    try:
        client = MlflowClient(address)
        found = client.get_experiment_by_name(experiment)
        if found is None:
            names = ", ".join(sorted(each.name for each in client.search_experiments()))
            raise TrainingError(f"{uri} has no experiment `{experiment}`; there are: {names}")
        stored = client.search_runs([found.experiment_id], order_by=["attributes.start_time"], max_results=MAX_RUNS)
    except MlflowException as error:
        raise TrainingError(f"MLflow at {uri} cannot be used: {reason(error)}") from error
    return [
        Run(
            name=run.info.run_name,
            status=run.info.status,
            started=datetime.fromtimestamp(run.info.start_time / 1000, UTC),
            parameters={key.replace("/", "."): value for key, value in run.data.params.items()},
            best={
                key.removeprefix("best/"): value for key, value in run.data.metrics.items() if key.startswith("best/")
            },
            seconds=run.data.metrics.get("seconds"),
        )
        for run in stored
    ]


def find_baseline(runs: Sequence[Run], name: str | None) -> Run:
    """The run that the others are compared with; the oldest one by default.

    Raises:
        TrainingError: There is none.
    """
    for run in runs:
        if name is None or run.name == name:
            return run
    raise TrainingError(f"no run `{name}`" if name else "no runs")


def runs_table(runs: Sequence[Run], baseline: Run) -> Table:
    """Best first, to be printed."""
    table = Table()
    table.add_column("run", no_wrap=True)
    table.add_column("tried", overflow="fold", min_width=24)
    table.add_column("status", no_wrap=True)
    for heading in (*_FIGURES.values(), "epoch", "min"):
        table.add_column(heading, justify="right")
    for run in _best_first(runs):
        table.add_row(run.name, " ".join(run.changes(baseline)), run.status.lower(), *_cells(run))
    return table


def runs_markdown(runs: Sequence[Run], baseline: Run) -> str:
    """Finished runs, best first, as a page for the docs."""
    headings = ["run", "what it tried", *_FIGURES.values(), "best epoch", "minutes"]
    rows = [
        *_HEAD.format(baseline=baseline.name).splitlines(),
        "| " + " | ".join(headings) + " |",
        "|---|---|" + "---:|" * (len(headings) - 2),
    ]
    for run in _best_first(runs):
        if run.status == "FINISHED":
            tried = " ".join(f"`{change}`" for change in run.changes(baseline)) or "the baseline"
            rows.append("| " + " | ".join([run.name, tried, *_cells(run)]) + " |")
    return "\n".join(rows) + "\n"


def show_store(uri: str, host: str, port: int) -> int:
    """Serve MLflow's pages over the store until Ctrl-C.

    Returns:
        Exit code of the server.
    """
    address = open_mlflow_store(uri)
    if database := database_file(uri):
        settle_artifacts(database)
    place = ("--backend-store-uri", address, "--host", host, "--port", str(port))
    with running("mlflow", "ui", *place, patience=_STOP_SECONDS) as server:
        return server.wait()


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Nested values by dotted key, as the store writes them."""
    flat: dict[str, str] = {}
    for key, value in values.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": str(value)}
    return flat


def _best_first(runs: Sequence[Run]) -> list[Run]:
    return sorted(runs, key=lambda run: -run.best.get("map_macro", -1.0))


def _cells(run: Run) -> list[str]:
    figures = [f"{run.best[name]:.3f}" if name in run.best else "-" for name in _FIGURES]
    epoch = f"{run.best['epoch']:.0f}" if "epoch" in run.best else "-"
    return [*figures, epoch, f"{run.seconds / 60:.0f}" if run.seconds is not None else "-"]
