"""`onesheet bench --tune` tries the real service, and says which settings answer most."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING

import pytest

from onesheet import tune
from onesheet.cli import main
from onesheet.errors import OnesheetError
from onesheet.settings import Settings
from onesheet.tune import Candidate, Trial, candidates, choose, running_service

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


def test_the_smallest_that_is_as_good_is_taken() -> None:
    slow, best, smaller = (
        Trial(Candidate(1, 1, 1), 150.0, 10.0),
        Trial(Candidate(2, 2, 8), 200.0, 10.0),
        Trial(Candidate(1, 3, 4), 195.0, 10.0),
    )
    assert choose([slow, best, smaller]) is smaller
    assert choose([slow, best]) is best


@pytest.mark.parametrize("cores", [1, 2, 4, 64])
def test_candidates_fill_the_cores(cores: int) -> None:
    shapes = candidates(cores)
    assert len(set(shapes)) == len(shapes) <= 8
    for shape in shapes:
        assert cores / 2 <= shape.workers * shape.threads <= 2 * cores


def test_tune_prints_settings_that_the_service_takes(
    tiny_bundle: Path,
    make_poster: Callable[..., bytes],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(tune, "candidates", lambda cores: [Candidate(2, 1, 4)])
    monkeypatch.setattr(tune, "_BATCHES", (1,))
    # What the operator has set for his own service must not turn the load away.
    monkeypatch.setenv("ONESHEET_API_KEYS", "0" * 64)
    monkeypatch.setenv("ONESHEET_RATE_LIMIT", "1")
    monkeypatch.setenv("ONESHEET_LOG_URL", "sqlite:////nowhere/at/all.db")
    (tmp_path / "poster.jpg").write_bytes(make_poster())
    monkeypatch.chdir(tmp_path)
    command = ["onesheet", "bench", str(tmp_path), "--tune", "--seconds", "1", "--bundle", str(tiny_bundle), "--json"]
    monkeypatch.setattr(sys, "argv", command)
    with pytest.raises(SystemExit) as stopped:
        main()
    assert stopped.value.code == 0

    found = json.loads(capfd.readouterr().out)
    assert [(trial["workers"], trial["max_batch"]) for trial in found["trials"]] == [(2, 4), (2, 1)]
    assert all(trial["posters_per_s"] > 0 and trial["p95_ms"] > 0 for trial in found["trials"])
    names = {name.removeprefix("ONESHEET_").lower(): value for name, value in found["settings"].items()}
    settings = Settings(_env_file=None, **names)
    assert (settings.threads, settings.max_batch) == (1, 1)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["poster.jpg"]


def test_the_table_ends_with_lines_for_a_file() -> None:
    trial = Trial(Candidate(2, 1, 4), 123.4, 56.7)
    text = tune.Tuning((trial,), trial).to_text()
    assert text.splitlines()[1].split() == ["2", "1", "4", "123", "57", "<"]
    assert text.splitlines()[-3:] == ["ONESHEET_WORKERS=2", "ONESHEET_THREADS=1", "ONESHEET_MAX_BATCH=4"]


@pytest.mark.parametrize(
    ("setting", "value", "reason"),
    [("WORKERS", "0", "onesheet: ONESHEET_WORKERS must be at least 1, got .0."), ("BUNDLE", "nowhere", "nowhere")],
)
def test_a_service_that_does_not_start_says_why(setting: str, value: str, reason: str) -> None:
    with (
        pytest.raises(OnesheetError, match=f"did not start: .*{reason}"),
        running_service({f"ONESHEET_{setting}": value}),
    ):
        pytest.fail("it started")
