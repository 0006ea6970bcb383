"""Drop a poster, see the genres and why."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import streamlit as st

from onesheet.errors import ImageError
from onesheet.ui import charts, intake, session
from onesheet.ui.answers import Answer, Answers, Poster, as_csv, as_json, sentence
from onesheet.ui.heatmap import for_screen, overlay

if TYPE_CHECKING:
    from PIL import Image


def show() -> None:
    """Draw the page."""
    st.title("What kind of film is it?")
    posters = intake.choose()
    model = session.model()
    if not posters:
        st.caption(f"The model knows {len(model['genres'])} genres. Bring a poster, or try one of the samples.")
        return
    answers = _ask(posters, len(model["genres"]))
    thresholds, count = _choices(model)
    if len(posters) > 1:
        _show_all(posters, answers, thresholds)
    place = _pick(posters)
    if error := answers[place].error:
        st.error(f"{posters[place].name}: {error}")
    else:
        _show_one(posters[place], answers[place], thresholds, count, model["genres"])
    _offer_downloads(posters, answers, thresholds)


def _ask(posters: Sequence[Poster], genres: int) -> list[Answer]:
    """The answers to all posters, with progress where there are many."""

    def ask(poster: Poster) -> dict[str, Any]:
        client = session.client()
        if poster.data is None:
            return client.predict_link(poster.name, genres)
        return client.predict(poster.name, poster.data, genres)

    if "answers" not in st.session_state:
        st.session_state["answers"] = Answers(ask)
    known: Answers = st.session_state["answers"]
    if len(posters) == 1:
        with st.spinner("Looking at the poster"):
            return known.of(posters)
    bar = st.progress(0.0, "Looking at the posters")

    def advance(done: int, total: int) -> None:
        bar.progress(done / total, f"{done} of {total} posters")

    found = known.of(posters, advance)
    bar.empty()
    return found


def _choices(model: Mapping[str, Any]) -> tuple[dict[str, float], int]:
    """Thresholds by genre, and how many genres to show; neither asks the API again."""
    own: dict[str, float] = model["thresholds"]
    left, middle, right = st.columns([2, 3, 3], vertical_alignment="bottom")
    by_model = left.toggle(
        "Each genre's own threshold", value=True, help="As the model was tuned. Off: one threshold for all genres."
    )
    given = middle.slider("Threshold for all genres", 0, 100, 30, format="%d%%", disabled=by_model)
    count = right.slider("Genres to show", 3, len(own), min(8, len(own)))
    return (own if by_model else dict.fromkeys(own, given / 100)), count


def _pick(posters: Sequence[Poster]) -> int:
    if len(posters) == 1:
        return 0
    return int(st.selectbox("Poster", range(len(posters)), format_func=lambda place: posters[place].name))


def _show_one(
    poster: Poster, answer: Answer, thresholds: Mapping[str, float], count: int, genres: Sequence[str]
) -> None:
    said = answer.genres(thresholds)
    left, right = st.columns([2, 3], gap="large")
    with right:
        _headline(answer, said)
        names = list(answer.probabilities)[:count]
        described = ", ".join(f"{name} {answer.probabilities[name]:.0%}" for name in names)
        st.altair_chart(
            charts.genres(answer.probabilities, thresholds, count), alt=f"Probabilities: {described}", width="stretch"
        )
        st.caption("The orange mark is the probability from which a genre counts as said.")
        with st.expander("As a table"):
            st.table(
                {
                    "genre": names,
                    "probability": [f"{answer.probabilities[name]:.1%}" for name in names],
                    "threshold": [f"{thresholds[name]:.1%}" for name in names],
                }
            )
        _ask_back(answer, said, genres)
    with left:
        picture = _picture(poster)
        if picture is None:
            st.info("The API fetched this picture; the page does not.")
        else:
            _explain(poster, picture, answer)
    if poster.data is not None:
        _similar(poster)
    st.caption(f"Answered by the model {answer.model}.")


def _headline(answer: Answer, said: Sequence[str]) -> None:
    if said:
        st.header(sentence(said), anchor=False)
    else:
        best, value = next(iter(answer.probabilities.items()))
        st.header(f"Hard to say: {best}, perhaps", anchor=False)
        st.caption(f"No genre reaches its threshold; {best} comes first with {value:.0%}.")


def _picture(poster: Poster) -> Image.Image | None:
    if poster.data is None:
        return None
    pictures: dict[str, Image.Image] = st.session_state.setdefault("pictures", {})
    if poster.key not in pictures:
        try:
            pictures[poster.key] = for_screen(poster.data)
        except ImageError:
            return None
    return pictures[poster.key]


def _explain(poster: Poster, picture: Image.Image, answer: Answer) -> None:
    """The poster, and on demand what in it spoke for a genre."""
    known: dict[str, list[dict[str, Any]]] = st.session_state.setdefault("explanations", {})
    shown, button = st.empty(), st.empty()
    if poster.key not in known:
        shown.image(picture, alt=f"The poster {poster.name}", width="stretch")
        if not button.button("Why?", icon=":material/visibility:", width="stretch", key="why"):
            return
        with session.told(), st.spinner("Covering one part after the other"):
            known[poster.key] = session.client().explain(poster.data or b"")
            button.empty()
        if poster.key not in known:
            return
    effects = {found["label"]: found["effects"] for found in known[poster.key]}
    genre = st.selectbox("What spoke for", list(answer.probabilities), key=f"genre-{poster.key}")
    strength = st.slider("How strong the colours are", 0, 100, 60, format="%d%%", key="strength")
    shown.image(
        overlay(picture, effects[genre], strength / 100),
        alt=f"The poster {poster.name}; orange: parts that spoke for {genre}, blue: parts that spoke against it",
        width="stretch",
    )
    st.caption(f"Orange spoke for {genre}, blue against it: the answer changes when the part is covered.")


def _similar(poster: Poster) -> None:
    """The posters of the model's own data that it sees as most alike."""
    known: dict[str, list[dict[str, Any]]] = st.session_state.setdefault("similar", {})
    with st.expander("Posters that the model sees as similar", icon=":material/compare:"):
        if poster.key not in known:
            if not st.button("Look for them", key="look-for-similar"):
                return
            with session.told():
                known[poster.key] = session.client().similar(poster.data or b"", 6)
        if found := known.get(poster.key):
            st.table(
                {
                    "film": [one["title"] or one["id"] for one in found],
                    "genres": [", ".join(one["genres"]) for one in found],
                    "distance": [f"{one['distance']:.3f}" for one in found],
                }
            )
            st.caption("Their true genres. Distance 0: the model sees no difference. No pictures of theirs are kept.")


def _ask_back(answer: Answer, said: Sequence[str], genres: Sequence[str]) -> None:
    """Right or wrong? What people say is kept beside the answer."""
    if answer.prediction_id is None:
        return
    thanked: set[str] = st.session_state.setdefault("thanked", set())
    with st.expander("Right or wrong?", icon=":material/rate_review:"), st.form(f"feedback-{answer.prediction_id}"):
        true = st.pills("The true genres", list(genres), default=list(said), selection_mode="multi")
        if st.form_submit_button("Send", icon=":material/send:"):
            with session.told():
                session.client().send_feedback(answer.prediction_id, true)
                thanked.add(answer.prediction_id)
        if answer.prediction_id in thanked:
            st.success("Thank you. It is kept beside the answer, and counts when the model is judged.")


def _show_all(posters: Sequence[Poster], answers: Sequence[Answer], thresholds: Mapping[str, float]) -> None:
    failed = sum(answer.error is not None for answer in answers)
    st.markdown(f"**{len(posters) - failed} posters answered**" + (f", {failed} could not be read" if failed else ""))
    st.table(
        {
            "file": [poster.name for poster in posters],
            "genres": [
                answer.error or sentence(answer.genres(thresholds) or ["(none reaches its threshold)"])
                for answer in answers
            ],
        }
    )


def _offer_downloads(posters: Sequence[Poster], answers: Sequence[Answer], thresholds: Mapping[str, float]) -> None:
    left, right, _ = st.columns([1, 1, 4])
    for column, kind, content in (
        (left, "csv", as_csv(posters, answers, thresholds)),
        (right, "json", as_json(posters, answers, thresholds)),
    ):
        column.download_button(
            kind.upper(),
            content,
            f"genres.{kind}",
            icon=":material/download:",
            on_click="ignore",
            help=f"All answers as {kind.upper()}",
        )
