"""What the site does with pages that are read in the repository as well.

- Links out of docs/, which work where the repository is read, lead from the site to the repository.
- A line `<!-- include: FILE -->`, which shows nothing there, becomes the content of that file of the repository.
- No page asks GitHub, or anybody else, for anything when it is opened.
"""

from __future__ import annotations

import logging
import os.path
import re
from pathlib import Path
from typing import Any

_ROOT = Path(__file__).parents[1]
_LINK = re.compile(r"\[([^\]]+)\]\((\.\./[^)#\s]+)(#[^)\s]*)?\)")
_INCLUDE = re.compile(r"^<!-- include: (\S+) -->$", re.MULTILINE)

logger = logging.getLogger("mkdocs.hooks.links")


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:  # noqa: ARG001  MkDocs names them
    """Called by MkDocs for each page."""
    here = os.path.dirname(f"docs/{page.file.src_uri}")  # noqa: PTH120  an address, not a path

    def away(link: re.Match[str]) -> str:
        text, anchor = link[1], link[3] or ""
        path = os.path.normpath(f"{here}/{link[2]}")
        if path.startswith("docs/"):
            return link[0]
        there = _ROOT / path
        if not there.exists():
            logger.warning("%s links to %s, which is not there", page.file.src_uri, path)
        if not config.repo_url:
            return text
        return f"[{text}]({config.repo_url}/{'tree' if there.is_dir() else 'blob'}/main/{path}{anchor})"

    return _LINK.sub(away, _INCLUDE.sub(_included, markdown))


def _included(line: re.Match[str]) -> str:
    """A file below a page that has a title of its own: without the file's, and with headings as deep as they are."""
    _, _, text = (_ROOT / line[1]).read_text(encoding="utf-8").partition("\n")
    return text.strip()


def on_post_page(output: str, page: Any, config: Any) -> str:  # noqa: ARG001  MkDocs names them
    """Called by MkDocs for each finished page."""
    return _silent(output)


def on_post_template(output_content: str, template_name: str, config: Any) -> str:  # noqa: ARG001  MkDocs names them
    """Called by MkDocs for what is no page: the one that says that there is none."""
    return _silent(output_content)


def _silent(html: str) -> str:
    """Without the mark by which the theme's script asks GitHub for the repository's stars."""
    return html.replace(' data-md-component="source"', "")
