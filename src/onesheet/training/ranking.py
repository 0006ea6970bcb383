"""What a sweep found: a ranked table, and which parameters mattered."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any, Final

import numpy as np
import optuna
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from optuna.trial import FrozenTrial, TrialState
from rich.table import Table

TABLE_FILE: Final = "trials.csv"
IMPORTANCE_FILE: Final = "importance.png"
HISTORY_FILE: Final = "history.png"
_ACCENT: Final = "#33658a"


def ranked(study: optuna.Study) -> list[FrozenTrial]:
    """The trials that have a value, best first, then those that were given up."""
    best_first = -1 if study.direction is optuna.study.StudyDirection.MAXIMIZE else 1
    done = study.get_trials(states=(TrialState.COMPLETE, TrialState.PRUNED), deepcopy=False)
    return sorted(done, key=lambda trial: (trial.state is TrialState.PRUNED, best_first * _value(trial)))


def ranked_table(study: optuna.Study, rows: int = 20) -> Table:
    """The best trials, to be printed."""
    parameters = _parameters(study)
    table = Table(title=f"{study.study_name}: {len(ranked(study))} trials")
    short = [name.rpartition(".")[2] for name in parameters]
    for heading in ("#", "trial", "value", "state", "epochs", *short):
        table.add_column(heading, justify="left" if heading == "state" else "right", overflow="fold")
    for rank, trial in enumerate(ranked(study)[:rows], start=1):
        row = _row(trial, parameters)
        table.add_row(str(rank), *(f"{cell:.3g}" if isinstance(cell, float) else str(cell) for cell in row))
    return table


def write_ranking(study: optuna.Study, out: Path) -> list[Path]:
    """Write the whole table as CSV, and draw the history and the importance of the parameters.

    Returns:
        The files; without a picture of importance while fewer than two values differ.
    """
    out.mkdir(parents=True, exist_ok=True)
    parameters = _parameters(study)
    with (out / TABLE_FILE).open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["rank", "trial", "value", "state", "epochs", *parameters, "run_dir"])
        for rank, trial in enumerate(ranked(study), start=1):
            writer.writerow([rank, *_row(trial, parameters), trial.user_attrs.get("run_dir")])
    written = [out / TABLE_FILE, out / HISTORY_FILE]
    _history_figure(study).savefig(out / HISTORY_FILE, dpi=120)
    if shares := importance(study):
        _importance_figure(shares).savefig(out / IMPORTANCE_FILE, dpi=120)
        written.append(out / IMPORTANCE_FILE)
    return written


def _parameters(study: optuna.Study) -> list[str]:
    return sorted({name for trial in study.get_trials(deepcopy=False) for name in trial.params})


def _row(trial: FrozenTrial, parameters: list[str]) -> list[Any]:
    epochs = max(trial.intermediate_values, default=0)
    settings = [trial.params.get(name, "") for name in parameters]
    return [trial.number, _value(trial), trial.state.name.lower(), epochs, *settings]


def _value(trial: FrozenTrial) -> float:
    """Of a trial that was given up: its last."""
    if trial.value is not None:
        return trial.value
    return trial.intermediate_values[max(trial.intermediate_values)] if trial.intermediate_values else float("nan")


def importance(study: optuna.Study) -> dict[str, float]:
    """Share of the variation that each parameter explains (fANOVA, Hutter et al., 2014); empty if it cannot be told.

    Trials that were given up count with their last value: what made them fall behind is what mattered most.
    """
    told = optuna.create_study(direction=study.direction)
    told.add_trials(
        [
            optuna.trial.create_trial(value=_value(trial), params=trial.params, distributions=trial.distributions)
            for trial in ranked(study)
            if np.isfinite(_value(trial))
        ]
    )
    if len({trial.value for trial in told.trials}) < 2:
        return {}
    return optuna.importance.get_param_importances(told, evaluator=optuna.importance.FanovaImportanceEvaluator(seed=0))


def _importance_figure(importance: dict[str, float]) -> Figure:
    figure = Figure(figsize=(7, 1 + 0.4 * len(importance)), layout="constrained")
    axis = figure.subplots()
    names = list(importance)[::-1]
    bars = axis.barh(names, [importance[name] for name in names], color=_ACCENT)
    axis.bar_label(bars, fmt="%.2f", padding=3)
    axis.set(xlabel="share of the variation between trials", title="Which parameters mattered")
    axis.spines[["top", "right"]].set_visible(False)
    return figure


def _history_figure(study: optuna.Study) -> Figure:
    """One line a trial, epoch by epoch; those that were given up end early."""
    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axis = figure.subplots()
    best = ranked(study)[0]
    for trial in reversed(ranked(study)):
        epochs = sorted(trial.intermediate_values)
        accent = trial.number == best.number
        axis.plot(
            epochs,
            [trial.intermediate_values[epoch] for epoch in epochs],
            marker="o",
            markersize=3,
            color=_ACCENT if accent else "#b8c4cf",
            linewidth=2 if accent else 1,
            linestyle="--" if trial.state is TrialState.PRUNED else "-",
            label=f"best: trial {trial.number}" if accent else None,
        )
    axis.set(xlabel="epoch", ylabel="value of the trial", title="All trials (dashed: given up)")
    axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    axis.legend()
    axis.spines[["top", "right"]].set_visible(False)
    return figure
