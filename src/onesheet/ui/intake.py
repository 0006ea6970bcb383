"""The ways in which posters come to the page."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Final

import streamlit as st

from onesheet.ui.answers import Poster
from onesheet.ui.samples import SAMPLES, encoded

if TYPE_CHECKING:
    from streamlit.runtime.uploaded_file_manager import UploadedFile

_KINDS: Final = ("jpg", "jpeg", "png", "webp", "gif")
_ACROSS: Final = 6


def choose() -> list[Poster]:
    """Let the visitor bring posters; those that are to be looked at now."""
    names = list(_WAYS)
    way = st.segmented_control("Where the posters come from", names, default=names[0], label_visibility="collapsed")
    return _WAYS[way or names[0]]()


def _files() -> list[Poster]:
    files = st.file_uploader(
        "Drop posters here, one or many", type=list(_KINDS), accept_multiple_files=True, key="files"
    )
    return [_poster(file) for file in files]


def _pasted() -> list[Poster]:
    """What was pasted stays until it is cleared; a line of text is taken for a link."""
    kept: list[Poster] = st.session_state.setdefault("pasted", [])
    given = st.chat_input(
        "Paste pictures or a link to one, then press Enter", accept_file="multiple", file_type=list(_KINDS)
    )
    if given:
        kept.extend(_poster(file) for file in given.files)
        kept.extend(Poster(link, None) for link in given.text.split())
    if kept and st.button("Clear", icon=":material/delete_sweep:"):
        kept.clear()
        st.rerun()
    return list(kept)


def _photograph() -> list[Poster]:
    photo = st.camera_input("Photograph a poster")
    return [_poster(photo)] if photo else []


def _samples() -> list[Poster]:
    """Posters of our own making, to try it with."""
    st.caption("Films that do not exist, drawn for this page. Take one.")
    for column, sample in zip(st.columns(_ACROSS), SAMPLES, strict=True):
        column.image(encoded(sample), alt=sample.description)
        if column.button(sample.title, key=f"sample-{sample.name}", width="stretch"):
            st.session_state["sample"] = sample.name
    return [
        Poster(f"{sample.name}.jpg", encoded(sample))
        for sample in SAMPLES
        if sample.name == st.session_state.get("sample")
    ]


def _poster(file: UploadedFile) -> Poster:
    return Poster(file.name, file.getvalue())


_WAYS: Final[Mapping[str, Callable[[], list[Poster]]]] = {
    "Files": _files,
    "Samples": _samples,
    "Paste or link": _pasted,
    "Camera": _photograph,
}
