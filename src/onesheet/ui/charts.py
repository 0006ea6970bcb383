"""The charts of the page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import altair as alt

# Altair looks for it among the loaded modules, also while another visitor's thread is still loading it.
import pandas  # noqa: F401

# One accent; all the rest is grey. Both stand out from white and from black by at least 3 : 1.
ACCENT: Final = "#0d8f83"
GREY: Final = "#6f7a88"
_ROW: Final = 26


def genres(probabilities: Mapping[str, float], thresholds: Mapping[str, float], count: int) -> alt.LayerChart:
    """Bars for the most probable genres, each with its own threshold.

    Args:
        probabilities: By genre, most probable first.
        thresholds: By genre.
        count: How many genres to show.
    """
    rows = [
        {
            "genre": genre,
            "probability": value,
            "threshold": thresholds[genre],
            "end": max(value, thresholds[genre]),
            "said": "reaches its threshold" if value >= thresholds[genre] else "stays below",
        }
        for genre, value in list(probabilities.items())[:count]
    ]
    base = alt.Chart(alt.Data(values=rows)).encode(
        y=alt.Y("genre:N", sort=None, title=None, axis=alt.Axis(labelFontSize=13, labelOverlap=False, ticks=False)),
        tooltip=["genre:N", alt.Tooltip("probability:Q", format=".1%"), alt.Tooltip("threshold:Q", format=".1%")],
    )
    bars = base.mark_bar(height=14, cornerRadiusEnd=3).encode(
        x=alt.X("probability:Q", scale=alt.Scale(domain=[0, 1]), axis=alt.Axis(format="%", title="probability")),
        color=alt.Color(
            "said:N",
            scale=alt.Scale(domain=["reaches its threshold", "stays below"], range=[ACCENT, GREY]),
            legend=alt.Legend(title=None, orient="bottom"),
        ),
    )
    marks = base.mark_tick(thickness=2, size=20, color="#d97706").encode(x="threshold:Q")
    numbers = base.mark_text(align="left", dx=6, color=GREY).encode(
        x="end:Q", text=alt.Text("probability:Q", format=".0%")
    )
    return (bars + marks + numbers).properties(height=_ROW * len(rows) + 100)


def quality(rows: Sequence[Mapping[str, Any]]) -> alt.LayerChart:
    """Precision or recall of each genre with its interval.

    Args:
        rows: `genre`, `measure`, `value`, `low`, `high`.
    """
    base = alt.Chart(alt.Data(values=list(rows))).encode(
        y=alt.Y("genre:N", title=None, sort=None, axis=alt.Axis(labelOverlap=False))
    )
    lines = base.mark_rule(color=GREY, strokeWidth=2).encode(
        x=alt.X("low:Q", scale=alt.Scale(domain=[0, 1]), axis=alt.Axis(format="%", title=None)), x2="high:Q"
    )
    points = base.mark_point(filled=True, size=60, color=ACCENT).encode(
        x="value:Q",
        tooltip=[
            "genre:N",
            alt.Tooltip("value:Q", format=".0%"),
            alt.Tooltip("low:Q", format=".0%"),
            alt.Tooltip("high:Q", format=".0%"),
        ],
    )
    return (lines + points).properties(height=24 * len(rows) + 40)


def calibration(bins: Sequence[Mapping[str, Any]]) -> alt.LayerChart:
    """What was said against what was true; on the diagonal a probability means what it says.

    Args:
        bins: `count` (of pairs of poster and genre), `probability` and `frequency` (0-1, None in an empty bin).
    """
    axis = alt.Axis(format="%")
    whole = alt.Scale(domain=[0, 1])
    diagonal = (
        alt.Chart(alt.Data(values=[{"x": 0, "y": 0}, {"x": 1, "y": 1}]))
        .mark_line(color=GREY, strokeDash=[4, 4])
        .encode(x=alt.X("x:Q", scale=whole), y=alt.Y("y:Q", scale=whole))
    )
    found = (
        alt.Chart(alt.Data(values=[found for found in bins if found["count"]]))
        .mark_line(color=ACCENT, point=alt.OverlayMarkDef(color=ACCENT, filled=True, size=60))
        .encode(
            x=alt.X("probability:Q", axis=axis, title="probability that was said"),
            y=alt.Y("frequency:Q", axis=axis, title="share that was true"),
            tooltip=[
                alt.Tooltip("probability:Q", format=".1%"),
                alt.Tooltip("frequency:Q", format=".1%"),
                alt.Tooltip("count:Q"),
            ],
        )
    )
    return (diagonal + found).properties(height=320)


def over_time(activity: Mapping[str, Any], columns: Mapping[str, str], title: str) -> alt.Chart:
    """Lines over time.

    Args:
        activity: As `GET /activity` answers.
        columns: Names of figures in a bucket, and how to call them.
        title: Of the vertical axis.
    """
    rows = [
        {"time": bucket["start"], "what": called, "value": bucket[name]}
        for bucket in activity["buckets"]
        for name, called in columns.items()
        if bucket[name] is not None
    ]
    return (
        alt.Chart(alt.Data(values=rows))
        .mark_line(point=alt.OverlayMarkDef(size=25), strokeWidth=2)
        .encode(
            x=_time(activity),
            y=alt.Y("value:Q", title=title, scale=alt.Scale(zero=True)),
            color=alt.Color(
                "what:N",
                scale=alt.Scale(domain=list(columns.values()), range=[ACCENT, GREY]),
                legend=alt.Legend(title=None, orient="bottom") if len(columns) > 1 else None,
            ),
            tooltip=["what:N", alt.Tooltip("time:T", format="%d %b %H:%M"), alt.Tooltip("value:Q", format=".3g")],
        )
        .properties(height=220)
    )


def genre_mix(activity: Mapping[str, Any], shown: int = 8) -> alt.Chart:
    """How often each genre was said over time; the rarest ones together."""
    buckets = activity["buckets"]
    totals: dict[str, int] = {}
    for bucket in buckets:
        for genre, number in bucket["genres"].items():
            totals[genre] = totals.get(genre, 0) + number
    named = sorted(totals, key=lambda genre: -totals[genre])[:shown]
    rows = [
        {"time": bucket["start"], "genre": genre if genre in named else "others", "answers": number}
        for bucket in buckets
        for genre, number in bucket["genres"].items()
    ]
    return (
        alt.Chart(alt.Data(values=rows))
        .mark_bar()
        .encode(
            x=_time(activity),
            y=alt.Y("sum(answers):Q", title="answers that name it"),
            color=alt.Color(
                "genre:N",
                sort=[*named, "others"],
                scale=alt.Scale(scheme="tableau10"),
                legend=alt.Legend(title=None, orient="bottom", columns=3),
            ),
            tooltip=["genre:N", alt.Tooltip("time:T", format="%d %b %H:%M"), "sum(answers):Q"],
        )
        .properties(height=300)
    )


def distances(columns: Sequence[Mapping[str, Any]]) -> alt.Chart:
    """Bars for what moved.

    Args:
        columns: `column`, `distance` (0-1), `verdict`, in order.
    """
    return (
        alt.Chart(alt.Data(values=list(columns)))
        .mark_bar(height=14, cornerRadiusEnd=3)
        .encode(
            x=alt.X("distance:Q", scale=alt.Scale(domain=[0, 1]), title="distance"),
            y=alt.Y("column:N", title=None, sort=None, axis=alt.Axis(labelOverlap=False, labelLimit=260)),
            color=alt.Color(
                "verdict:N",
                scale=alt.Scale(domain=["drift", "warning"], range=[ACCENT, GREY]),
                legend=alt.Legend(title=None, orient="bottom"),
            ),
            tooltip=["column:N", "verdict:N", alt.Tooltip("distance:Q", format=".2f")],
        )
        .properties(height=_ROW * len(columns) + 90)
    )


def before_and_now(genres: Sequence[Mapping[str, Any]]) -> alt.LayerChart:
    """Each genre's share in the reference and in the window, and the way from one to the other.

    Args:
        genres: `genre`, `reference`, `current` (0-1), in order.
    """
    rows = [
        {"genre": row["genre"], "when": when, "share": row[name]}
        for row in genres
        for when, name in (("before", "reference"), ("now", "current"))
    ]
    y = alt.Y("genre:N", title=None, sort=None, axis=alt.Axis(labelOverlap=False))
    axis = alt.Axis(format="%", title="share of the posters")
    ways = (
        alt.Chart(alt.Data(values=list(genres)))
        .mark_rule(color=GREY, strokeWidth=2)
        .encode(x=alt.X("reference:Q", axis=axis), x2="current:Q", y=y)
    )
    points = (
        alt.Chart(alt.Data(values=rows))
        .mark_point(filled=True, size=70, opacity=1)
        .encode(
            x=alt.X("share:Q", axis=axis),
            y=y,
            color=alt.Color(
                "when:N",
                scale=alt.Scale(domain=["before", "now"], range=[GREY, ACCENT]),
                legend=alt.Legend(title=None, orient="bottom"),
            ),
            tooltip=["genre:N", "when:N", alt.Tooltip("share:Q", format=".0%")],
        )
    )
    return (ways + points).properties(height=24 * len(genres) + 90)


def _time(activity: Mapping[str, Any]) -> alt.X:
    """All of the window, however little happened in it."""
    return alt.X("time:T", title=None, scale=alt.Scale(domain=[activity["since"], activity["until"]]))
