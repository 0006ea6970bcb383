"""The process that makes a report: `python -m onesheet.monitoring.drift.evidently_report FOLDER`.

The folder holds `reference.parquet`, `current.parquet` and `tested.json`; it gets `report.html` and `report.json`.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pandas as pd
from evidently import DataDefinition, Dataset, Report
from evidently.legacy.calculations.stattests import StatTest, register_stattest
from evidently.legacy.core import ColumnType
from evidently.metrics import (
    ColumnCount,
    ConstantColumnsCount,
    DatasetMissingValueCount,
    EmptyColumnsCount,
    EmptyRowsCount,
    RowCount,
)
from evidently.presets import DataDriftPreset
from evidently.tests import eq

from onesheet.priority import let_others_go_first

if TYPE_CHECKING:
    from collections.abc import Mapping

_TEST: Final = "onesheet"


def main() -> None:
    """Make it."""
    let_others_go_first()
    folder = Path(sys.argv[1])
    tested = json.loads((folder / "tested.json").read_text(encoding="utf-8"))
    reference, current = (pd.read_parquet(folder / f"{name}.parquet") for name in ("reference", "current"))
    _use(tested["columns"])
    found = _report(list(reference.columns), tested["rate"]).run(_dataset(current), _dataset(reference))
    found.save_html(str(folder / "report.html"))
    found.save_json(str(folder / "report.json"))


def _report(columns: list[str], rate: float) -> Report:
    return Report(
        [
            # One column that moved is enough to speak of.
            DataDriftPreset(columns=columns, method=_TEST, threshold=1 - rate, drift_share=1 / len(columns)),
            RowCount(),
            ColumnCount(tests=[eq(len(columns))]),
            ColumnCount(column_type=ColumnType.Numerical, tests=[eq(len(columns))]),
            DatasetMissingValueCount(tests=[eq(0)]),
            EmptyRowsCount(tests=[eq(0)]),
            EmptyColumnsCount(tests=[eq(0)]),
            ConstantColumnsCount(tests=[eq(0)]),
        ],
        include_tests=True,
    )


def _dataset(frame: pd.DataFrame) -> Dataset:
    return Dataset.from_pandas(frame, data_definition=DataDefinition(numerical_columns=list(frame.columns)))


def _use(rates: Mapping[str, float]) -> None:
    """Let Evidently judge by what was found before: its own tests know nothing of the other columns.

    It puts high scores first; therefore not the rate itself.
    """

    def look_up(reference: pd.Series, _current: Any, _type: Any, threshold: float) -> tuple[float, bool]:
        confidence = 1 - rates[str(reference.name)]
        return confidence, confidence >= threshold

    register_stattest(StatTest(_TEST, "1 - false discovery rate", [ColumnType.Numerical]), look_up)


if __name__ == "__main__":
    main()
