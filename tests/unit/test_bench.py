"""`onesheet bench` says what a machine can do, in figures that agree with each other."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING

import pytest

from onesheet.bench import BenchResult, run_bench
from onesheet.errors import DataError
from onesheet.predictor import Predictor

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


@pytest.fixture(scope="module")
def result(predictor: Predictor) -> BenchResult:
    return run_bench(predictor, None, seconds=0.1)


def test_every_figure_is_measured(result: BenchResult) -> None:
    assert (result.threads, result.posters) == (2, 64)
    for name, value in result.to_dict().items():
        assert value > 0, name


@pytest.mark.parametrize(
    ("step", "posters_at_once", "slowed"),
    [
        ("read", 1, {"decode_per_s", "decode_model_per_s", "end_to_end_per_s", "decode_ms", "predict_ms"}),
        ("run", 8, {"model_per_s", "decode_model_per_s", "end_to_end_per_s", "model_ms", "predict_ms"}),
    ],
)
def test_a_slow_step_shows_in_every_figure_it_is_part_of(
    predictor: Predictor, monkeypatch: pytest.MonkeyPatch, step: str, posters_at_once: int, slowed: set[str]
) -> None:
    # A sleep is never shorter than asked for, so these bounds hold however busy the machine is.
    pause = 0.02
    whole = getattr(Predictor, step)

    def slow(*args: object) -> object:
        time.sleep(pause)
        return whole(*args)

    monkeypatch.setattr(Predictor, step, slow)
    result = run_bench(predictor, None, seconds=0.1).to_dict()

    for name in slowed:
        if name.endswith("_ms"):
            assert result[name] >= pause * 1e3, name
        else:
            assert result[name] <= predictor.threads * posters_at_once / pause, name


def test_as_json_and_as_a_table(result: BenchResult) -> None:
    assert BenchResult(**json.loads(json.dumps(result.to_dict()))) == result
    round_figures = BenchResult(2, 64, 1000, 500, 333.4, 300, decode_ms=2, model_ms=4, predict_ms=6.13)
    words = [line.split() for line in round_figures.to_text().splitlines()]
    assert words[:5] == [
        ["64", "posters,", "2", "threads"],
        ["decode", "alone", "1000", "posters/s", "2.00", "ms"],
        ["model", "alone", "500", "posters/s", "4.00", "ms"],
        ["decode", "+", "model", "333", "posters/s"],
        ["end", "to", "end", "300", "posters/s", "6.13", "ms"],
    ]
    assert "90% of decode + model" in round_figures.to_text()


def test_posters_of_a_folder(predictor: Predictor, make_poster: Callable[..., bytes], tmp_path: Path) -> None:
    for number in range(3):
        (tmp_path / f"{number}.jpg").write_bytes(make_poster())
    (tmp_path / "notes.txt").touch()

    assert run_bench(predictor, tmp_path, seconds=0.1).posters == 3


@pytest.mark.parametrize("content", [None, b"", b"text"])
def test_a_folder_that_cannot_be_measured(predictor: Predictor, tmp_path: Path, content: bytes | None) -> None:
    if content is not None:
        (tmp_path / "bad.jpg").write_bytes(content)

    with pytest.raises(DataError, match="no posters in" if content is None else r"bad\.jpg: "):
        run_bench(predictor, tmp_path, seconds=0.1)
