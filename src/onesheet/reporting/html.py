"""A report as one page that needs nothing but itself."""

from __future__ import annotations

import base64
import re
from pathlib import Path
from typing import TYPE_CHECKING, Final

from markupsafe import Markup

from onesheet.errors import ImageError, ReportError
from onesheet.files import write_whole
from onesheet.pages import render_page
from onesheet.reporting.markdown import markdown_reader
from onesheet.reporting.parse import Report
from onesheet.reporting.pictures import read_picture

if TYPE_CHECKING:
    from markdown_it.token import Token

# Of all pictures together, as often as they are shown.
MAX_PICTURE_BYTES: Final = 50 * 2**20

_LEADS_SOMEWHERE: Final = re.compile(r"https?://|mailto:", re.IGNORECASE)
_BOXES: Final = {"[ ] ": "☐ ", "[x] ": "☑ ", "[X] ": "☑ "}


def write_report(report: Report, folder: Path, out: Path) -> list[str]:
    """Write the report as HTML: pictures are in it, scripts and addresses of others' files are not.

    In place of a picture that cannot be shown, the page has a line that says why.

    Args:
        report: As it was parsed.
        folder: Of the report and its pictures.
        out: The page; never there half-written.

    Returns:
        The pictures that are not shown, each with the reason.

    Raises:
        ReportError: The pictures are too large together.
        OSError: The page cannot be written.
    """
    renderer = _Renderer(folder)
    page = render_page(__package__, {"markdown": renderer.render}, {"report": report})
    out.parent.mkdir(parents=True, exist_ok=True)
    write_whole(out, page)
    return list(dict.fromkeys(renderer.not_shown))


class _Renderer:
    """Markdown to HTML that may stand in the page as it is.

    Attributes:
        not_shown: Pictures that are not in it, each with the reason.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._reader = markdown_reader()
        self._bytes = 0
        self.not_shown: list[str] = []

    def render(self, text: str) -> Markup:
        """Markdown of others: HTML in it is text for the reader, and comes out escaped."""
        tokens = self._reader.parse(text)
        for token in tokens:
            for place, child in enumerate(token.children or ()):
                if child.type == "image":
                    self._put_in(child)
                elif child.type == "link_open" and not _LEADS_SOMEWHERE.match(str(child.attrs["href"])):
                    del child.attrs["href"]
                elif place == 0 and (box := _BOXES.get(child.content[:4])):
                    child.content = box + child.content[4:]
        return Markup(self._reader.renderer.render(tokens, self._reader.options, {}))  # noqa: S704

    def _put_in(self, image: Token) -> None:
        """Make the picture a part of the page, or else a line of text."""
        target = str(image.attrs["src"])
        try:
            kind, data = read_picture(target, self._folder)
        except ImageError as error:
            image.type, image.content = "text", f"[{image.content}: {target} cannot be shown: {error.message}]"
            self.not_shown.append(f"picture {target or '()'} is not shown: {error.message}")
            return
        self._bytes += len(data)
        if self._bytes > MAX_PICTURE_BYTES:
            raise ReportError(f"the pictures are larger than {MAX_PICTURE_BYTES // 2**20} MiB together")
        image.attrs["src"] = f"data:{kind};base64,{base64.b64encode(data).decode()}"
