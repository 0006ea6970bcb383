"""The page as Streamlit runs it: `onesheet ui` does, with the right look."""

from __future__ import annotations

import streamlit as st

from onesheet.errors import ApiError
from onesheet.ui import model_page, monitoring_page, predict_page, session

st.set_page_config(page_title="onesheet: genres of film posters", page_icon=":material/movie:", layout="wide")

page = st.navigation(
    [
        st.Page(predict_page.show, title="Posters", icon=":material/image_search:", url_path="posters", default=True),
        st.Page(model_page.show, title="Model", icon=":material/fact_check:", url_path="model"),
        st.Page(monitoring_page.show, title="Monitoring", icon=":material/monitoring:", url_path="monitoring"),
    ],
    position="top",
)

session.watch()
try:
    page.run()
except ApiError as error:
    # While the API is away, `watch` says so already.
    if not session.trouble():
        st.error(error.message)
