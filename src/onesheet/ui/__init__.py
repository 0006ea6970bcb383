"""The web page: Streamlit, over the HTTP API."""
