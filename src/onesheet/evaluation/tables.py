"""An evaluation as tables for a terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.table import Table

if TYPE_CHECKING:
    from onesheet.evaluation.evaluate import Evaluation

_METRICS = (
    "map_macro",
    "auroc_macro",
    "f1_macro",
    "f1_micro",
    "f1_samples",
    "exact_match",
    "hamming_loss",
    "ece",
)


def evaluation_tables(evaluation: Evaluation) -> tuple[Table, Table]:
    """The metrics beside their floors, and the genres."""
    return _overview(evaluation), _genres(evaluation)


def _overview(evaluation: Evaluation) -> Table:
    model = evaluation.model
    table = Table(title=f"{model['name']} {model['version']} on {evaluation.metrics['n']} posters")
    table.add_column("metric")
    for title in ("this model", "training frequencies", "every genre", "posters", "genres"):
        table.add_column(title, justify="right")
    for name in _METRICS:
        support = evaluation.metrics["support"][name]
        floors = (evaluation.baselines[floor][name] for floor in ("training_frequencies", "every_genre"))
        table.add_row(
            name,
            _number(evaluation.metrics[name]),
            *map(_number, floors),
            str(support["posters"]),
            str(support["genres"]),
        )
    return table


def _genres(evaluation: Evaluation) -> Table:
    table = Table()
    table.add_column("genre")
    columns = ("positives", "predicted", "average_precision", "f1", "precision", "recall")
    for title in columns:
        table.add_column(title.replace("_", " "), justify="right")
    for genre, scores in evaluation.metrics["per_genre"].items():
        table.add_row(genre, *(_number(scores[name]) for name in columns))
    return table


def _number(value: float | None) -> str:
    if isinstance(value, int):
        return str(value)
    return "–" if value is None else f"{value:.3f}"
