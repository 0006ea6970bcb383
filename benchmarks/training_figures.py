"""The figures of docs/training.md: a run that was killed, two processes, and what the profilers saw.

python benchmarks/training_figures.py --out docs/images
"""

from __future__ import annotations

import argparse
import csv
import pstats
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from matplotlib.figure import Figure

from onesheet.training.compose import compose_config
from onesheet.training.run import train

COMMON = ("experiment=smoke", "logger=csv", "trainer.accelerator=cpu", "trainer.epochs=8", "trainer.progress=false")
PROFILED = ("experiment=scratch", "trainer=profile", "logger=none", "trainer.progress=false")
ACCENT, MUTED = "#2b6595", "#9aa7b2"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("docs/images"))
    out = parser.parse_args().out
    torch.set_num_threads(1)  # as each of the two processes
    with tempfile.TemporaryDirectory() as scratch:
        draw_losses(Path(scratch)).savefig(out / "resume_and_ddp.svg")
        draw_profiles(Path(scratch)).savefig(out / "profile.svg")


def draw_losses(scratch: Path) -> Figure:
    unbroken, killed, shared = (scratch / name for name in ("unbroken", "killed", "shared"))
    train(compose_config([*COMMON, f"run_dir={unbroken}"]))
    start_and_kill(killed, after=3)
    train(compose_config([*COMMON, f"run_dir={killed}", "resume=true"]))
    train(compose_config([*COMMON, f"run_dir={shared}", "trainer.devices=2"]))
    before, after = (series(killed, version) for version in (0, 1))
    print("unbroken", series(unbroken, 0))
    print("killed  ", before, after)
    print("two     ", series(shared, 0))

    figure = Figure(figsize=(7, 3.2), layout="constrained")
    axes = figure.subplots()
    axes.plot(*zip(*series(unbroken, 0).items(), strict=True), color=MUTED, linewidth=5, label="one process, unbroken")
    axes.plot(*zip(*before.items(), strict=True), "o-", color=ACCENT, label="until kill -9")
    axes.plot(*zip(*after.items(), strict=True), "o--", color=ACCENT, markerfacecolor="white", label="resumed")
    axes.plot(*zip(*series(shared, 0).items(), strict=True), "s:", color="#b0562f", label="two processes")
    axes.set(xlabel="epoch", ylabel="validation loss")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    return figure


def start_and_kill(run_dir: Path, after: int) -> None:
    """`kill -9` in the middle of the epoch that follows."""
    code = "import torch; torch.set_num_threads(1); from onesheet.cli import main; main()"
    process = subprocess.Popen([sys.executable, "-c", code, "train", *COMMON, f"run_dir={run_dir}"])
    while epochs_done(run_dir) < after and process.poll() is None:
        time.sleep(0.05)
    time.sleep(1)
    process.kill()
    process.wait()


def epochs_done(run_dir: Path) -> int:
    try:
        return int(torch.load(run_dir / "last.ckpt", weights_only=True)["epoch"]) + 1
    except (OSError, RuntimeError, EOFError):
        return 0


def series(run_dir: Path, version: int) -> dict[int, float]:
    """Validation loss by epoch, from 1 on."""
    with (run_dir / f"metrics/version_{version}/metrics.csv").open() as file:
        return {int(row["epoch"]) + 1: float(row["val/loss"]) for row in csv.DictReader(file) if row["val/loss"]}


def draw_profiles(scratch: Path) -> Figure:
    train(compose_config([*PROFILED, f"run_dir={scratch / 'python'}"]))
    train(compose_config([*PROFILED, f"run_dir={scratch / 'torch'}", "trainer.profiler=pytorch"]))
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    bars(left, functions(scratch / "python/profile/train.prof"), "cProfile: own time of functions, s")
    bars(right, operators(scratch / "torch/profile/operators.txt"), "PyTorch profiler: own time of operators, %")
    return figure


def functions(profile: Path, count: int = 8) -> dict[str, float]:
    stats = pstats.Stats(str(profile)).stats  # type: ignore[attr-defined]
    own = {re.sub(r"<built-in method |<method |'|>", "", name): values[2] for (_, _, name), values in stats.items()}
    return dict(sorted(own.items(), key=lambda item: -item[1])[:count])


def operators(table: Path, count: int = 8) -> dict[str, float]:
    rows = re.findall(r"^\s*(\S.*?)\s{2,}([\d.]+)%", table.read_text(), re.MULTILINE)
    return {name.removeprefix("aten::"): float(share) for name, share in rows[:count]}


def bars(axes: object, values: dict[str, float], title: str) -> None:
    names = [name if len(name) < 34 else f"{name[:33]}…" for name in values]
    axes.barh(names, values.values(), color=ACCENT)
    axes.invert_yaxis()
    axes.set_title(title, fontsize=9)
    axes.tick_params(labelsize=7)
    axes.spines[["top", "right"]].set_visible(False)


if __name__ == "__main__":
    main()
