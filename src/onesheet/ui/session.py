"""What the pages share: the API, the model, and whether both are there."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

import streamlit as st

from onesheet.console import read_settings
from onesheet.errors import ApiError
from onesheet.ui.address import find_api
from onesheet.ui.client import ApiClient

# How soon a page notices that the API has gone, or is back.
_WATCH_SECONDS: Final = 2.0


@st.cache_resource(show_spinner=False)
def client() -> ApiClient:
    """The API of the settings; one for all visitors."""
    settings = read_settings()
    key = settings.api_key.get_secret_value() if settings.api_key else None
    return ApiClient(find_api(settings.api_url), key)


@st.cache_data(ttl=30, show_spinner=False)
def model() -> dict[str, Any]:
    """The model that answers, as `GET /model` describes it.

    Raises:
        ApiError: As `ApiClient` does.
    """
    return client().model()


@st.cache_data(ttl=_WATCH_SECONDS / 2, show_spinner=False)
def trouble() -> str | None:
    """Why the API does not answer; None: it does."""
    try:
        client().check_ready()
    except ApiError as error:
        return error.message
    return None


@st.fragment(run_every=_WATCH_SECONDS)
def watch() -> None:
    """Say so while the API is away, and draw the page anew when it is back."""
    now = trouble()
    if now != st.session_state.get("trouble"):
        st.session_state["trouble"] = now
        if now is None:
            model.clear()
        st.rerun()
    if now:
        st.error(now, icon=":material/cloud_off:")


@contextmanager
def told() -> Iterator[None]:
    """Show an error of the API as a sentence, and go on with the rest of the page."""
    try:
        yield
    except ApiError as error:
        st.error(error.message)
