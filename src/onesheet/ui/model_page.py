"""The model card: how good the model is for each genre, whether its probabilities mean what they say."""

from __future__ import annotations

import math
import re
from typing import Any, Final

import streamlit as st

from onesheet.ui import charts, session

# Two-sided 95 %.
_Z: Final = 1.959964


def show() -> None:
    """Draw the page."""
    st.title("The model")
    card = session.model()
    split = "test" if "test" in card["metrics"] else "validation"
    quality: dict[str, Any] = card["metrics"].get(split, {})
    _facts(card, quality)
    if per_genre := quality.get("per_genre"):
        _by_genre(per_genre, card["data"]["genre_counts"], quality["n"])
    if bins := quality.get("reliability"):
        _calibration(bins, quality["n"])
    st.header("In words", anchor=False)
    with st.expander("The whole model card: what it was trained on, and what it is not for"):
        # Its title is this page's.
        st.markdown(re.sub(r"\A# .*\n", "", session.client().card()))


def wilson(successes: float, trials: int) -> tuple[float, float]:
    """The 95 % interval of a share (Wilson, 1927); all of 0-1 where nothing was tried."""
    if not trials:
        return 0.0, 1.0
    share, z2 = successes / trials, _Z**2
    centre = (share + z2 / (2 * trials)) / (1 + z2 / trials)
    half = _Z / (1 + z2 / trials) * math.sqrt(share * (1 - share) / trials + z2 / (4 * trials**2))
    return max(0.0, centre - half), min(1.0, centre + half)


def _facts(card: dict[str, Any], quality: dict[str, Any]) -> None:
    st.markdown(
        f"**{card['name']} {card['version']}**, a {card['architecture']}, made on {card['created'][:10]} from "
        f"{card['data']['posters']['train']:,} posters."
    )
    figures = {
        "Mean average precision": quality.get("map_macro"),
        "AUROC, mean over genres": quality.get("auroc_macro"),
        "F1, mean over genres": quality.get("f1_macro"),
        "Calibration error": quality.get("ece"),
    }
    for column, (name, value) in zip(st.columns(len(figures)), figures.items(), strict=True):
        column.metric(name, "–" if value is None else f"{value:.3f}")
    baseline = card["metrics"].get("baselines", {}).get("frequencies", {}).get("map_macro")
    if baseline is not None:
        st.caption(f"A guess that never looks at the poster has a mean average precision of {baseline:.3f}.")


def _by_genre(per_genre: dict[str, Any], trained: dict[str, int], posters: int) -> None:
    st.header("Genre by genre", anchor=False)
    st.caption(
        f"On {posters} posters that the model never saw. The line is where the true value lies with 95 % confidence: "
        "long where there were few posters."
    )
    measure = st.segmented_control("Measure", ["precision", "recall"], default="precision") or "precision"
    st.caption(
        "Precision: of the posters that were said to be of this genre, how many are."
        if measure == "precision"
        else "Recall: of the posters of this genre, how many were said to be."
    )
    rows = []
    for genre, found in sorted(per_genre.items(), key=lambda item: -item[1]["positives"]):
        trials = found["predicted" if measure == "precision" else "positives"]
        low, high = wilson(found[measure] * trials, trials)
        rows.append({"genre": genre, "measure": measure, "value": found[measure], "low": low, "high": high})
    described = ", ".join(f"{row['genre']} {row['value']:.0%}" for row in rows)
    st.altair_chart(charts.quality(rows), alt=f"{measure.capitalize()} by genre: {described}", width="stretch")
    with st.expander("As a table"):
        st.table(
            {
                "genre": [row["genre"] for row in rows],
                measure: [f"{row['value']:.0%}" for row in rows],
                "95 % interval": [f"{row['low']:.0%} to {row['high']:.0%}" for row in rows],
                "posters of it": [per_genre[row["genre"]]["positives"] for row in rows],
                "in training": [trained.get(row["genre"], 0) for row in rows],
            }
        )


def _calibration(bins: list[dict[str, Any]], posters: int) -> None:
    st.header("Do the probabilities mean what they say?", anchor=False)
    st.caption(
        f"Of all answers near 30 %, about 30 % should be right: then the line lies on the diagonal. {posters} posters."
    )
    described = ", ".join(
        f"{found['probability']:.0%} said, {found['frequency']:.0%} true" for found in bins if found["count"]
    )
    st.altair_chart(charts.calibration(bins), alt=f"Calibration: {described}", width="stretch")
