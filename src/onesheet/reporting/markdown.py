"""How a report's Markdown is read: pictures in HTML are pictures, other HTML is text, and comments are not there."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from html.parser import HTMLParser
from typing import TYPE_CHECKING, Final

from markdown_it import MarkdownIt
from markdown_it.token import Token

if TYPE_CHECKING:
    from markdown_it.rules_block import StateBlock
    from markdown_it.rules_inline import StateInline

COMMENT: Final = "comment"

# A tag, with quoted values that may hold a `>`. What only places pictures has no meaning of its own in the page.
_TAG: Final = re.compile(r"""<(/?)(img|p|div|center|figure|picture)\b((?:"[^"]*"|'[^']*'|[^"'<>])*+)>""", re.IGNORECASE)
_TAG_LETTERS: Final = 2000
_WIDTH: Final = re.compile(r"[1-9]\d{0,3}%?")


def markdown_reader() -> MarkdownIt:
    """A parser, and renderer, for text that nobody has to trust.

    HTML comes out as the text that it is, with two exceptions: an `<img>` is a picture like any other, without the tags
    that place it, and a comment that starts a line is a token of its own, which renders as nothing.
    """
    reader = MarkdownIt("commonmark", {"html": False}).enable(["table", "strikethrough"])
    reader.block.ruler.before("html_block", COMMENT, _comment, {"alt": ["paragraph", "reference", "blockquote"]})
    reader.inline.ruler.before("html_inline", "picture", _picture)
    reader.add_render_rule(COMMENT, lambda *_: "")
    return reader


def _comment(state: StateBlock, start: int, end: int, silent: bool) -> bool:
    """From a line that starts with `<!--` to the one with `-->`, or to the end of what holds it."""
    if state.is_code_block(start) or not _line(state, start).startswith("<!--"):
        return False
    if silent:
        return True
    last = start
    while "-->" not in _line(state, last) and last + 1 < end:
        last += 1
    token = state.push(COMMENT, "", 0)
    token.map = [start, last + 1]
    token.content = "\n".join(_line(state, line) for line in range(start, last + 1))
    state.line = last + 1
    return True


def _picture(state: StateInline, silent: bool) -> bool:
    """`<img src="where" alt="what it shows" width="49%">`; and the tags around it, which are left out."""
    found = _TAG.match(state.src, state.pos, min(state.posMax, state.pos + _TAG_LETTERS))
    if found is None:
        return False
    if not silent and found[2].lower() == "img" and not found[1]:
        attributes = _attributes(found[0])
        alt = attributes.get("alt", "")
        token = state.push("image", "img", 0)
        token.content, token.children = alt, [Token("text", "", 0, content=alt)]
        token.attrs = {"src": attributes.get("src", ""), "alt": ""}
        if _WIDTH.fullmatch(attributes.get("width", "")):
            token.attrs["width"] = attributes["width"]
    state.pos = found.end()
    return True


def _attributes(tag: str) -> dict[str, str]:
    parser = _Attributes()
    parser.feed(tag)
    return parser.found


class _Attributes(HTMLParser):
    """Those of the one tag that it is fed; without what has no value."""

    def __init__(self) -> None:
        super().__init__()
        self.found: dict[str, str] = {}

    def handle_starttag(self, _tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found = {name: value for name, value in attrs if value is not None}


def _line(state: StateBlock, line: int) -> str:
    return state.src[state.bMarks[line] + state.tShift[line] : state.eMarks[line]]


def count_words(tokens: Sequence[Token]) -> int:
    """Words of running text, code within it, lists and tables; pictures, code blocks and addresses have none."""
    pieces = (piece for token in tokens if token.type == "inline" for piece in _text(token).split())
    return sum(any(letter.isalnum() for letter in piece) for piece in pieces)


def find_pictures(tokens: Sequence[Token]) -> Iterator[Token]:
    """Every `![what it shows](where it is)` and `<img>`."""
    for token in tokens:
        yield from (child for child in token.children or () if child.type == "image")


def plain(tokens: Sequence[Token]) -> str:
    """What is written, on one line and without marks."""
    return " ".join(" ".join(_text(token) for token in tokens if token.type == "inline").split())


def _text(inline: Token) -> str:
    breaks = ("softbreak", "hardbreak", "image")
    return "".join(" " if child.type in breaks else child.content for child in inline.children or ())
