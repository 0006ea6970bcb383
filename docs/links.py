"""Links out of docs/, which work where the repository is read, lead from the site to the repository."""

from __future__ import annotations

import logging
import re
from pathlib import Path
from typing import Any

_ROOT = Path(__file__).parents[1]
_OUT = re.compile(r"\[([^\]]+)\]\(\.\./([^)#\s]+)(#[^)\s]*)?\)")

logger = logging.getLogger("mkdocs.hooks.links")


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:  # noqa: ARG001  MkDocs names them
    """Called by MkDocs for each page."""

    def away(link: re.Match[str]) -> str:
        text, path, anchor = link[1], link[2], link[3] or ""
        there = _ROOT / path
        if not there.exists():
            logger.warning("%s links to %s, which is not there", page.file.src_uri, path)
        if not config.repo_url:
            return text
        return f"[{text}]({config.repo_url}/{'tree' if there.is_dir() else 'blob'}/main/{path}{anchor})"

    return _OUT.sub(away, markdown)
