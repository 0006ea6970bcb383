"""Streamlit's own command line, with what the page needs loaded before the first visitor comes."""

import sys

from streamlit.web.cli import main

import onesheet.ui.charts  # noqa: F401

sys.exit(main(prog_name="streamlit"))
