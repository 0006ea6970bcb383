"""How a report's Markdown is read: HTML in it is text, and comments are not there."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Final

from markdown_it import MarkdownIt

if TYPE_CHECKING:
    from markdown_it.rules_block import StateBlock
    from markdown_it.token import Token

COMMENT: Final = "comment"


def markdown_reader() -> MarkdownIt:
    """A parser, and renderer, for text that nobody has to trust.

    HTML comes out as the text that it is; only a comment that starts a line is a token of its own, which renders as
    nothing.
    """
    reader = MarkdownIt("commonmark", {"html": False}).enable(["table", "strikethrough"])
    reader.block.ruler.before("html_block", COMMENT, _comment, {"alt": ["paragraph", "reference", "blockquote"]})
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


def _line(state: StateBlock, line: int) -> str:
    return state.src[state.bMarks[line] + state.tShift[line] : state.eMarks[line]]


def count_words(tokens: Sequence[Token]) -> int:
    """Words of running text, code within it, lists and tables; pictures, code blocks and addresses have none."""
    pieces = (piece for token in tokens if token.type == "inline" for piece in _text(token).split())
    return sum(any(letter.isalnum() for letter in piece) for piece in pieces)


def find_pictures(tokens: Sequence[Token]) -> Iterator[Token]:
    """Every `![what it shows](where it is)`."""
    for token in tokens:
        yield from (child for child in token.children or () if child.type == "image")


def plain(tokens: Sequence[Token]) -> str:
    """What is written, on one line and without marks."""
    return " ".join(" ".join(_text(token) for token in tokens if token.type == "inline").split())


def _text(inline: Token) -> str:
    breaks = ("softbreak", "hardbreak", "image")
    return "".join(" " if child.type in breaks else child.content for child in inline.children or ())
