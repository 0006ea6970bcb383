"""A month of a service that is watched, with all its real parts."""

from __future__ import annotations

import importlib.util
import os
import shutil
import sys
from pathlib import Path

import pytest

# What compares lets others go first, and may wait long beside other tests.
pytestmark = [
    pytest.mark.slow,
    pytest.mark.posters,
    pytest.mark.usefixtures("uncounted_processes"),
]


@pytest.fixture
def example(monkeypatch):
    """`examples/month.py`."""
    missing = [program for program in ("prometheus", "chromium") if not shutil.which(program)]
    if missing and os.environ.get("ONESHEET_REQUIRE_ALL") == "1":
        pytest.fail(f"{missing} not installed")
    if missing:
        pytest.skip(f"{missing} not installed")
    specification = importlib.util.spec_from_file_location(
        "example_month", Path(__file__).parents[2] / "examples/month.py"
    )
    module = importlib.util.module_from_spec(specification)
    monkeypatch.setitem(sys.modules, "example_month", module)
    specification.loader.exec_module(module)
    return module


def test_a_shift_is_found_told_and_shown(example, posters, tmp_path):
    month = example.play(posters, tmp_path, Path(os.environ.get("ONESHEET_SCREENSHOTS", tmp_path)))

    # Chance may warn of an ordinary week, and no more.
    assert {week["verdict"] for week in month.weeks[:3]} <= {"ok", "warning"}
    assert all("Drift" not in alerts for alerts in month.alerts[:3])
    assert all(week["pictures"] >= 155 for week in month.weeks), "hardly any film is there twice"

    assert (month.weeks[3]["verdict"], month.alerts[3]) == ("drift", {"Drift"})
    moved = {column["name"]: column for column in month.weeks[3]["columns"] if column["verdict"] == "drift"}
    farthest = max(
        (column for column in moved.values() if column["kind"] == "picture"), key=lambda one: one["distance"]
    )
    assert farthest["name"] == "colourfulness"
    assert farthest["current"] < 1 < farthest["reference"]
    assert "embedding" in moved
    assert not moved.keys() & {"aspect", "width", "height", "sharpness"}, "grey posters are shaped as the others"
    assert "colourfulness 1.00" in month.columns

    assert "Posters no longer look as they did" in month.page
    assert month.weeks[3]["summary"] in month.page
    assert "The last 4 comparisons" in month.page
    assert "colourfulness" in month.report
    assert "Dataset Drift is detected" in month.report
