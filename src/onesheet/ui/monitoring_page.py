"""What has been asked and answered, and what people said of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import streamlit as st

from onesheet.ui import charts, drift_view, session

_WINDOWS: Final[Mapping[str, float]] = {"hour": 1, "day": 24, "week": 7 * 24, "month": 30 * 24}
_BUCKETS: Final = 30
_REFRESH_SECONDS: Final = 10


def show() -> None:
    """Draw the page."""
    st.title("Monitoring")
    window = st.segmented_control("The last", list(_WINDOWS), default="day") or "day"
    _figures(_WINDOWS[window])
    drift_view.show()


@st.cache_data(ttl=_REFRESH_SECONDS / 2, show_spinner=False)
def _activity(hours: float) -> dict[str, Any]:
    """One question for all who look at once."""
    return session.client().activity(hours, _BUCKETS)


@st.fragment(run_every=_REFRESH_SECONDS)
def _figures(hours: float) -> None:
    with session.told():
        found = _activity(hours)
        _headline(found)
        if found["answers"]:
            _charts(found)
        else:
            st.info("Nothing was asked in this time.")
        _feedback(found["feedback"])


def _headline(found: dict[str, Any]) -> None:
    buckets = [bucket for bucket in found["buckets"] if bucket["answers"]]
    answers = sum(bucket["answers"] for bucket in buckets) or 1
    confidence = sum(bucket["confidence"] * bucket["answers"] for bucket in buckets) / answers
    agreement = found["feedback"]["agreement"]
    figures = {
        "Answers": f"{found['answers']:,}",
        "Slowest twentieth, at worst": f"{max(bucket['p95_ms'] for bucket in buckets):.0f} ms" if buckets else "–",
        "Mean confidence": f"{confidence:.0%}" if buckets else "–",
        "Agreement of feedback": "–" if agreement is None else f"{agreement:.0%}",
    }
    for column, (name, value) in zip(st.columns(len(figures)), figures.items(), strict=True):
        column.metric(name, value)
    if found["sampled"] < found["answers"]:
        st.caption(f"Estimated from {found['sampled']:,} answers taken at random; the number of answers is exact.")


def _charts(found: dict[str, Any]) -> None:
    left, right = st.columns(2, gap="large")
    with left:
        st.subheader("Traffic", anchor=False)
        st.altair_chart(
            charts.over_time(found, {"answers": "answers"}, "answers"),
            alt=f"Answers over time, {found['answers']} in all",
            width="stretch",
        )
        st.subheader("Confidence", anchor=False)
        st.altair_chart(
            charts.over_time(found, {"confidence": "mean of the highest probability"}, "probability"),
            alt="Mean of the highest probability over time",
            width="stretch",
        )
    with right:
        st.subheader("Latency", anchor=False)
        st.altair_chart(
            charts.over_time(found, {"p50_ms": "half are faster", "p95_ms": "19 of 20 are faster"}, "milliseconds"),
            alt="Median and 95th percentile of the latency over time",
            width="stretch",
        )
        st.subheader("Genres", anchor=False)
        st.altair_chart(charts.genre_mix(found), alt="How often each genre was said over time", width="stretch")
    st.caption("Models: " + ", ".join(f"{name} ({answers:,})" for name, answers in found["models"].items()))


def _feedback(feedback: dict[str, Any]) -> None:
    st.header("What people say", anchor=False)
    if not feedback["count"]:
        st.caption("Nobody has said yet whether an answer was right. On the page of posters, anybody can.")
        return
    st.markdown(
        f"{feedback['count']} answers were judged. Of the genres that were said {_share(feedback['precision'])} were "
        f"confirmed; of the true ones {_share(feedback['recall'])} had been said."
    )
    rows = sorted(feedback["per_genre"].items(), key=lambda item: -item[1]["true"])
    st.table(
        {
            "genre": [genre for genre, _ in rows],
            "said": [row["predicted"] for _, row in rows],
            "confirmed": [row["confirmed"] for _, row in rows],
            "true": [row["true"] for _, row in rows],
        }
    )


def _share(value: float | None) -> str:
    return "none" if value is None else f"{value:.0%}"
