"""A report for people who would rather look, made by Evidently in a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np

from onesheet.errors import ReportError
from onesheet.processes import module_command

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from onesheet.monitoring.drift.sample import Sample
    from onesheet.monitoring.drift.two_samples import Separation

_SECONDS: Final = 600


@dataclass(frozen=True, slots=True)
class Report:
    """Histograms and tests of every column.

    Attributes:
        html: One page that needs nothing else.
        json: The same as numbers, in Evidently's form.
    """

    html: bytes
    json: bytes


def make_report(
    reference: Sample, window: Sample, separation: Separation, tested: Mapping[str, float], rate: float
) -> Report:
    """Draw what was compared, and test columns, types and missing values.

    Evidently takes some seconds to import and hundreds of megabytes, which a service that waits for a day would hold
    all the time; therefore the process of its own.

    Args:
        reference: Usable.
        window: All of it, also what is unusable.
        separation: Of the usable ones.
        tested: The false discovery rate of each column, so that the report says what the verdict does.
        rate: Up to which a column has moved.

    Raises:
        ReportError: It could not be made.
    """
    from pyarrow import parquet, table

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        parquet.write_table(table(_numbers(reference, separation.reference)), folder / "reference.parquet")
        parquet.write_table(table(_numbers(window, separation.current)), folder / "current.parquet")
        (folder / "tested.json").write_text(json.dumps({"rate": rate, "columns": tested}), encoding="utf-8")
        command = module_command("onesheet.monitoring.drift.evidently_report", name)
        try:
            subprocess.run(
                command,
                check=True,
                capture_output=True,
                timeout=_SECONDS,
                env={**os.environ, "DO_NOT_TRACK": "1"},
            )
        except (OSError, subprocess.SubprocessError) as error:
            said = (getattr(error, "stderr", None) or b"").decode(errors="replace").strip().splitlines()
            raise ReportError(f"the report could not be made: {said[-1] if said else error}") from error
        return Report((folder / "report.html").read_bytes(), (folder / "report.json").read_bytes())


def _numbers(sample: Sample, scores: NDArray[np.float64]) -> dict[str, NDArray[np.floating]]:
    """By column; of the embedding how much it looks like the other sample. What was not scored is left out."""
    usable = sample.is_usable
    embedding = np.full(len(usable), np.nan)
    embedding[usable] = scores
    shown = ~usable | np.isfinite(embedding)
    return {name: values[shown] for name, values in {**sample.columns, "embedding": embedding}.items()}
