"""How near the core path is to what this machine can do; everything in one run, side by side.

    uv run --all-extras python benchmarks/core_path.py POSTERS

POSTERS is a folder with train.csv and Images/. Prints Markdown.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from pathlib import Path

from onesheet.bench import run_bench
from onesheet.bundle import load_bundle
from onesheet.evaluation.evaluate import evaluate
from onesheet.predictor import Predictor

ROUNDS = 5


def main(posters: Path) -> None:
    bundle = load_bundle()
    predictor = Predictor(bundle)
    poster = next((posters / "Images").glob("*.jpg"))
    print("| whole command | median of 5, seconds |\n|---|---:|")
    onesheet = Path(sys.executable).with_name("onesheet")
    for name, command in {
        "`python -c pass` (the limit)": [sys.executable, "-c", "pass"],
        "`onesheet --help`": [onesheet, "--help"],
        "`onesheet predict POSTER`": [onesheet, "predict", poster],
    }.items():
        print(f"| {name} | {_median_seconds(command):.2f} |")

    labels = posters / "train.csv"
    rates, results = [], []
    for _ in range(3):
        results.append(run_bench(predictor, posters / "Images", seconds=5))
        start = time.perf_counter()
        evaluation = evaluate(bundle, labels, posters / "Images")
        rates.append(evaluation.metrics["n"] / (time.perf_counter() - start))
    print(f"\n| posters a second, {results[0].threads} threads | median of 3 |\n|---|---:|")
    for name in ("decode_per_s", "model_per_s", "decode_model_per_s", "end_to_end_per_s"):
        print(f"| {name} | {statistics.median(getattr(result, name) for result in results):.0f} |")
    print(
        f"| `onesheet evaluate`, {evaluation.metrics['n']} posters, metrics included | {statistics.median(rates):.0f} |"
    )
    shares = [rate / result.decode_model_per_s for rate, result in zip(rates, results, strict=True)]
    print(f"\nevaluate reaches {statistics.median(shares):.0%} of decode + model (rounds: {_percent(shares)})")


def _median_seconds(command: list[object]) -> float:
    times = []
    for _ in range(ROUNDS + 1):
        start = time.perf_counter()
        subprocess.run([str(part) for part in command], check=True, capture_output=True)
        times.append(time.perf_counter() - start)
    return statistics.median(times[1:])


def _percent(shares: list[float]) -> str:
    return ", ".join(f"{share:.0%}" for share in shares)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
