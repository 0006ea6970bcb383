"""What a version has to pass to become the champion: one line each, with what was asked and what was found."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from onesheet.bundle import MODEL_FILE
from onesheet.evaluation.bootstrap import interval

if TYPE_CHECKING:
    from collections.abc import Iterator

    from onesheet.registry.comparison import Comparison, Measured

_MEGABYTE = 1e6


class Limits(BaseModel):
    """`configs/gates.yaml`, where each is explained."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    min_posters: int = Field(ge=1)
    confidence: float = Field(ge=0.5, lt=1)
    max_f1_fall: float = Field(ge=0)
    max_ece: float = Field(ge=0)
    max_ece_rise: float = Field(ge=0)
    max_genre_fall: float = Field(ge=0)
    min_genre_posters: int = Field(ge=1)
    max_robustness_fall: float = Field(ge=0)
    max_latency_ratio: float = Field(gt=0)
    max_size_ratio: float = Field(gt=0)
    max_megabytes: float = Field(gt=0)
    max_export_difference: float = Field(ge=0)
    max_difference: float = Field(ge=0)


@dataclass(frozen=True, slots=True)
class Gate:
    """One condition.

    Attributes:
        name: Of what is looked at.
        passed: Whether it holds.
        asked: The condition, in words.
        champion: What the champion has.
        challenger: What the challenger has.
    """

    name: str
    passed: bool
    asked: str
    champion: str
    challenger: str

    def to_dict(self) -> dict[str, Any]:
        """As JSON."""
        return asdict(self)


def judge(comparison: Comparison, limits: Limits) -> list[Gate]:
    """Every gate, passed or not."""
    worth, former = comparison.challenger_worth, comparison.champion_worth
    gates = [
        _posters(comparison, limits),
        _better(worth, former, limits),
        _calibration(worth, former, limits),
        _latency(worth, former, limits),
        _size(comparison, limits),
        _export(comparison, limits),
        _as_promised(worth, limits),
    ]
    if former is not None:
        gates += [
            *_answers(worth, former, limits),
            _genres_known(comparison),
            _no_genre_falls(comparison, worth, former, limits),
            _robustness(worth, former, limits),
        ]
    return gates


def _posters(comparison: Comparison, limits: Limits) -> Gate:
    return Gate(
        "posters that neither has seen",
        comparison.posters >= limits.min_posters,
        f"at least {limits.min_posters}",
        "",
        f"{comparison.posters}; {comparison.seen} left out",
    )


def _better(worth: Measured, former: Measured | None, limits: Limits) -> Gate:
    """Against the champion, or against saying the same of every poster."""
    resampled = worth.resampled.metrics["map_macro"]
    before = former.resampled.metrics["map_macro"] if former else np.full_like(resampled, worth.baseline)
    difference = resampled - before
    sure = float(np.mean(difference[~np.isnan(difference)] > 0))
    low, high = interval(difference) or (float("nan"), float("nan"))
    champion = f"{former.metrics['map_macro']:.3f}" if former else f"{worth.baseline:.3f} (never looking)"
    return Gate(
        "better: mAP",
        sure >= limits.confidence,
        f"higher, at {limits.confidence:.0%} of resamples",
        champion,
        f"{worth.metrics['map_macro']:.3f}: {low:+.3f} to {high:+.3f}, higher at {sure:.1%}",
    )


def _answers(worth: Measured, former: Measured, limits: Limits) -> Iterator[Gate]:
    for name in ("f1_macro", "f1_micro"):
        before, now = former.metrics[name], worth.metrics[name]
        yield Gate(
            f"answers: {name.replace('_', ' ').replace('f1', 'F1')}",
            now >= before - limits.max_f1_fall,
            f"not lower by more than {limits.max_f1_fall:g}",
            f"{before:.3f}",
            f"{now:.3f}",
        )


def _calibration(worth: Measured, former: Measured | None, limits: Limits) -> Gate:
    now = worth.metrics["ece"]
    allowed, asked = limits.max_ece, f"error at most {limits.max_ece:g}"
    if former is not None:
        allowed = min(allowed, former.metrics["ece"] + limits.max_ece_rise)
        asked += f", not higher by more than {limits.max_ece_rise:g}"
    before = f"{former.metrics['ece']:.3f}" if former else ""
    return Gate("calibration", now <= allowed, asked, before, f"{now:.3f}")


def _genres_known(comparison: Comparison) -> Gate:
    champion = comparison.champion.bundle.metadata.genres if comparison.champion else ()
    missing = [genre for genre in champion if genre not in comparison.genres]
    return Gate(
        "genres",
        not missing,
        "knows all that the champion knows",
        str(len(champion)),
        f"lacks {', '.join(missing)}" if missing else str(len(comparison.challenger.bundle.metadata.genres)),
    )


def _no_genre_falls(comparison: Comparison, worth: Measured, former: Measured, limits: Limits) -> Gate:
    """A fall counts where the interval of the paired difference is wholly below zero."""
    fallen = []
    for i, genre in enumerate(comparison.genres):
        before, now = former.metrics["per_genre"][genre], worth.metrics["per_genre"][genre]
        difference = worth.resampled.average_precision[:, i] - former.resampled.average_precision[:, i]
        limits_of_it = interval(difference)
        if now["positives"] < limits.min_genre_posters or limits_of_it is None:
            continue
        fall = before["average_precision"] - now["average_precision"]
        if fall > limits.max_genre_fall and limits_of_it[1] < 0:
            fallen.append(f"{genre} {before['average_precision']:.3f} to {now['average_precision']:.3f}")
    return Gate(
        "no genre falls",
        not fallen,
        f"average precision, by more than {limits.max_genre_fall:g} and chance",
        "",
        "; ".join(fallen) or "none",
    )


def _robustness(worth: Measured, former: Measured, limits: Limits) -> Gate:
    losses = [untouched - corrupted for corrupted, untouched in (former.corrupted, worth.corrupted)]
    return Gate(
        "robustness",
        losses[1] <= losses[0] + limits.max_robustness_fall,
        f"corrupted posters cost mAP, not {limits.max_robustness_fall:g} more",
        f"{losses[0]:.3f}",
        f"{losses[1]:.3f}",
    )


def _latency(worth: Measured, former: Measured | None, limits: Limits) -> Gate:
    if former is None:
        return Gate("latency", True, "no champion to compare with", "", f"{worth.latency_ms:.2f} ms")
    return Gate(
        "latency",
        worth.latency_ms <= limits.max_latency_ratio * former.latency_ms,
        f"at most {limits.max_latency_ratio:g} times",
        f"{former.latency_ms:.2f} ms",
        f"{worth.latency_ms:.2f} ms",
    )


def _size(comparison: Comparison, limits: Limits) -> Gate:
    now = len(comparison.challenger.bundle.model) / _MEGABYTE
    allowed, asked, before = limits.max_megabytes, f"at most {limits.max_megabytes:g} MB", ""
    if comparison.champion is not None:
        champion = len(comparison.champion.bundle.model) / _MEGABYTE
        allowed = min(allowed, limits.max_size_ratio * champion)
        asked += f", {limits.max_size_ratio:g} times"
        before = f"{champion:.1f} MB"
    return Gate(f"size of {MODEL_FILE}", now <= allowed, asked, before, f"{now:.1f} MB")


def _export(comparison: Comparison, limits: Limits) -> Gate:
    parity = comparison.challenger.bundle.metadata.metrics.get("parity", {})
    difference = parity.get("max_difference")
    return Gate(
        "parity at export",
        difference is not None and difference <= limits.max_export_difference,
        f"torch and ONNX within {limits.max_export_difference:g}",
        "",
        "not recorded" if difference is None else f"{difference:.1g} on {parity.get('posters', '?')} posters",
    )


def _as_promised(worth: Measured, limits: Limits) -> Gate:
    return Gate(
        "parity here",
        worth.difference is not None and worth.difference <= limits.max_difference,
        f"its validation posters get what it promises, within {limits.max_difference:g}",
        "",
        "none of them is here" if worth.difference is None else f"{worth.difference:.1g} on {worth.compared} posters",
    )
