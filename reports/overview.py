"""The figure of the report that shows how the parts hang together: `inv report` draws it."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch

if TYPE_CHECKING:
    from matplotlib.axes import Axes

INK, MUTED, ACCENT, WASH = "#1c2430", "#5b6673", "#2b6595", "#eef3f7"
WIDTH, HEIGHT = 2.3, 0.95

# Name: column, row, and what is said below it.
BOXES = {
    "Posters": (0, 3, "git, Kaggle, folder, gs://\nversions by DVC"),
    "Manifest": (1, 3, "checks, split by film"),
    "Training": (2, 3, "Hydra, Lightning, timm\nsweeps by Optuna or W&B"),
    "Bundle": (3, 3, "ONNX, thresholds,\ncalibration, reference"),
    "Tracking": (2, 4, "MLflow, W&B, TensorBoard"),
    "Registry": (3, 2, "gates, champion, rollback"),
    "API": (2, 2, "FastAPI or BentoML"),
    "Web page": (1, 2, "Streamlit"),
    "Users": (0, 2, "page, HTTP, Python, CLI"),
    "Prediction log": (2, 1, "SQLite or PostgreSQL"),
    "Drift service": (1, 1, "statistics, Evidently"),
    "Feedback": (0, 1, "labelled posters,\nwith consent"),
    "Monitoring": (3, 1, "Prometheus, Alertmanager,\nGrafana, Cloud Monitoring"),
}
ARROWS = (
    ("Posters", "Manifest"),
    ("Manifest", "Training"),
    ("Training", "Tracking"),
    ("Training", "Bundle"),
    ("Bundle", "Registry"),
    ("Registry", "API"),
    ("Web page", "API"),
    ("Users", "Web page"),
    ("API", "Prediction log"),
    ("API", "Monitoring"),
    ("Prediction log", "Drift service"),
    ("Users", "Feedback"),
)
# Where the parts run, as a line below them all.
PLACES = (
    "GitHub Actions: tests, images, releases, site, retraining",
    "One machine: Docker Compose",
    "Google Cloud: Storage, Build, Vertex AI, Run",
)


def main() -> None:
    """Draw it into a file."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("reports/figures/overview.png"))
    draw().savefig(parser.parse_args().out, dpi=110)


def draw() -> Figure:
    """The parts, what goes from one to the next, and where they run."""
    figure = Figure(figsize=(11.5, 7))
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(-0.3, 11.2), ylim=(-0.75, 6.25))
    axes.axis("off")
    for name, (_, _, said) in BOXES.items():
        left, low = corner(name)
        axes.add_patch(
            FancyBboxPatch((left, low), WIDTH, HEIGHT, boxstyle="round,pad=0,rounding_size=.12", ec=ACCENT, fc=WASH)
        )
        axes.text(left + WIDTH / 2, low + 0.7, name, ha="center", va="center", color=INK, weight="bold", size=11)
        axes.text(left + WIDTH / 2, low + 0.3, said, ha="center", va="center", color=MUTED, size=8.5)
    for start, end in ARROWS:
        arrow(axes, start, end)
    # Around the left side: what was answered becomes what is learned from.
    left, low = corner("Feedback")
    axes.plot([left, -0.15, -0.15], [low + HEIGHT / 2] * 2 + [corner("Posters")[1] + HEIGHT / 2], color=ACCENT)
    tip = corner("Posters")
    axes.annotate(
        "",
        (tip[0], tip[1] + HEIGHT / 2),
        (-0.15, tip[1] + HEIGHT / 2),
        arrowprops={"arrowstyle": "->", "color": ACCENT},
    )
    for place, text in enumerate(PLACES):
        axes.text(0.1 + place * 3.95, -0.35, text, color=INK, size=9, va="center")
    axes.plot([0.05, 10.95], [0, 0], color=MUTED, linewidth=0.8)
    return figure


def corner(name: str) -> tuple[float, float]:
    """The lower left one of a box."""
    column, row, _ = BOXES[name]
    return 0.1 + column * 2.85, 0.35 + (row - 1) * 1.5


def arrow(axes: Axes, start: str, end: str) -> None:
    """From the edge of one box to that of another."""
    (left, low), (far, high) = corner(start), corner(end)
    middle = low + HEIGHT / 2
    if low == high:
        edges = (left + WIDTH, middle), (far, middle)
        edges = edges if far > left else ((left, middle), (far + WIDTH, middle))
    else:
        sideways = WIDTH / 2 + (0.6 if left != far else 0)
        down = high < low
        edges = (
            (left + sideways, low if down else low + HEIGHT),
            (far + (WIDTH / 2 if left == far else 0.6), high + HEIGHT if down else high),
        )
    axes.annotate("", edges[1], edges[0], arrowprops={"arrowstyle": "->", "color": ACCENT})


if __name__ == "__main__":
    main()
