"""Whether what is asked still looks like what the model was judged on."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Final
from uuid import UUID

import streamlit as st

from onesheet.ui import charts, session

_RUNS: Final = 30
_SHOWN: Final = 12
_REFRESH_SECONDS: Final = 10
_REPORT_HEIGHT: Final = 900
_VERDICTS: Final[Mapping[str, str]] = {
    "ok": "Posters look as they did when the model was judged.",
    "warning": "Something has changed a little, or in a way that does no harm by itself.",
    "drift": "Posters no longer look as they did when the model was judged; its answers may be worse than its card.",
    "not enough data": "There were not enough posters to tell.",
}
_COLUMNS: Final[Mapping[str, str]] = {
    "embedding": "the pictures as the model sees them",
    "confidence": "the highest probability",
    "agreement": "agreement with what people say",
    "unusable": "answers that are no numbers",
    "other_versions": "predictions of other model versions",
}


def show() -> None:
    """Draw it."""
    st.header("Drift", anchor=False)
    _found()
    _report()


@st.cache_data(ttl=_REFRESH_SECONDS / 2, show_spinner=False)
def _history() -> dict[str, Any]:
    """One question for all who look at once."""
    return session.client().drift(_RUNS)


@st.cache_data(max_entries=2, show_spinner="Fetching the report …")
def _fetched(run_id: UUID | str) -> bytes:
    return session.client().drift_report(run_id)


@st.fragment(run_every=_REFRESH_SECONDS)
def _found() -> None:
    with session.told():
        found = _history()
        _draw_all_anew_after([run["id"] for run in found["runs"][:1]])
        if found["latest"] is None:
            st.caption("Nothing was compared yet. `onesheet watch` does it once a day, `onesheet drift` at once.")
            return
        _verdict(found["latest"])
        _columns(found["latest"]["watched"])
        _genres(found["latest"]["genres"])
        _earlier(found["runs"])


def _draw_all_anew_after(newest: list[str]) -> None:
    """The list of reports does not look for new ones: a report that somebody reads would be loaded again and again."""
    if st.session_state.setdefault("newest_drift_run", newest) != newest:
        st.session_state["newest_drift_run"] = newest
        st.rerun()


def _verdict(latest: dict[str, Any]) -> None:
    since, until = (_day(latest[moment]) for moment in ("since", "until"))
    shown = {"ok": st.success, "warning": st.warning, "drift": st.error}.get(latest["verdict"], st.info)
    shown(f"**{latest['verdict'].capitalize()}.** {_VERDICTS[latest['verdict']]}")
    st.markdown(
        f"{latest['summary']} {latest['n']:,} answers of {latest['model']['name']} {latest['model']['version']} "
        f"from {since} to {until}, beside the posters that it was judged on."
    )
    # A comparison of an earlier version has not looked for them.
    if latest.get("blind") and latest.get("other_models"):
        st.warning("Most predictions were made by another model version, and nothing is known of them.")


def _columns(watched: Sequence[Mapping[str, Any]]) -> None:
    moved = [column for column in watched if column["verdict"] != "ok"]
    if not moved:
        return
    moved.sort(key=lambda column: (column["verdict"] != "drift", -column["distance"]))
    rows = [{**column, "column": column_name(column["name"])} for column in moved]
    farthest = rows[:_SHOWN]
    described = ", ".join(f"{row['column']} {row['distance']:.2f}" for row in farthest)
    st.subheader("What moved, and how far", anchor=False)
    st.altair_chart(charts.distances(farthest), alt=f"Distances: {described}", width="stretch")
    st.caption(
        "Distance 0: as before; 1: no value in common. Of the pictures as the model sees them, how well a classifier "
        "tells them from those before; 0.5 would be by chance."
    )
    with st.expander("As a table" if len(rows) <= _SHOWN else f"All {len(rows)} as a table"):
        st.table(
            {
                "what": [row["column"] for row in rows],
                "verdict": [row["verdict"] for row in rows],
                "mean before": [_number(row["reference"]) for row in rows],
                "mean now": [_number(row["current"]) for row in rows],
                "distance": [f"{row['distance']:.2f}" for row in rows],
                "false discovery rate": [f"{row['q_value']:.1g}" for row in rows],
            }
        )


def _genres(genres: Sequence[Mapping[str, Any]]) -> None:
    if not genres:
        return
    rows = sorted(genres, key=lambda row: -max(row["reference"], row["current"]))
    described = ", ".join(f"{row['genre']} {row['reference']:.0%} and {row['current']:.0%}" for row in rows)
    st.subheader("Genres that were said, before and now", anchor=False)
    st.altair_chart(charts.before_and_now(rows), alt=f"Shares before and now: {described}", width="stretch")


def _earlier(runs: Sequence[Mapping[str, Any]]) -> None:
    with st.expander(f"The last {len(runs)} comparisons" if len(runs) > 1 else "The only comparison so far"):
        st.table(
            {
                "when": [_day(run["time"]) for run in runs],
                "verdict": [run["verdict"] for run in runs],
                "model": [f"{run['model']['name']} {run['model']['version']}" for run in runs],
                "posters": [f"{run['pictures']:,}" for run in runs],
                "what was found": [run["summary"] for run in runs],
            }
        )


@st.fragment
def _report() -> None:
    """With a histogram of everything; five megabytes, and therefore neither before it is asked for nor again."""
    with session.told():
        kept = {run["id"]: run for run in _history()["runs"] if run["has_report"]}
        if not kept:
            return
        st.subheader("Reports", anchor=False)
        chosen = st.selectbox(
            "Of which comparison",
            kept,
            format_func=lambda run_id: f"{_day(kept[run_id]['time'])}: {kept[run_id]['verdict']}",
        )
        if chosen is None or not st.toggle("Show the report"):
            return
        report = _fetched(chosen)
        st.iframe(_walled(report.decode()), height=_REPORT_HEIGHT, alt="The report")
        st.download_button("Download it", report, f"drift-{chosen}.html", "text/html")


def _walled(report: str) -> str:
    """A page in a page: Streamlit's frame lets scripts reach the page around it, the one within does not."""
    return (
        '<iframe title="The report" sandbox="allow-scripts allow-downloads" '
        f'style="border: 0; width: 100%; height: {_REPORT_HEIGHT - 20}px" srcdoc="{html.escape(report)}"></iframe>'
    )


def column_name(name: str) -> str:
    """How to call a column before people."""
    kind, _, genre = name.partition(":")
    return f"probability of {genre}" if kind == "probability" else _COLUMNS.get(name, name.replace("_", " "))


def _day(moment: str) -> str:
    return f"{datetime.fromisoformat(moment):%d %b %Y %H:%M}"


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.3g}"
