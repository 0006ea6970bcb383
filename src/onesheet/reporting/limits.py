"""How long an answer should be and how many pictures it should have, from the words of the question."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class Span:
    """A count that is asked for.

    Attributes:
        low: The least that is enough.
        high: The most that is welcome; None: there is no such thing.
    """

    low: int
    high: int | None

    def __contains__(self, count: int) -> bool:
        return self.low <= count and (self.high is None or count <= self.high)

    def __str__(self) -> str:
        if self.high is None:
            return f"at least {self.low}"
        return str(self.low) if self.low == self.high else f"{self.low} to {self.high}"


_NUMBERS: Final = {"a": 1, "an": 1, "one": 1, "two": 2, "three": 3, "four": 4, "five": 5, "six": 6}
_AT_LEAST: Final = r"at\s+least|no\s+(?:less|fewer)\s+than|(?:a\s+)?minimum(?:\s+of)?|min\.?"
_AT_MOST: Final = r"at\s+most|up\s+to|no\s+more\s+than|(?:a\s+)?max(?:imum)?(?:\s+of)?\.?"
_TO: Final = r"(?:-|–|—|to|or|and)"

_WORDS: Final = re.compile(
    rf"""\b(?P<low>\d{{1,5}})\s*{_TO}\s*(?P<high>\d{{1,5}})\s+words
    | \blength\b\W*(?P<bare_low>\d{{1,5}})\s*{_TO}\s*(?P<bare_high>\d{{1,5}})\b
    | \b(?:{_AT_LEAST})\s+(?P<least>\d{{1,5}})\s+words
    | (?:\b(?:{_AT_MOST})\s+|\blength\b\W*)(?P<most>\d{{1,5}})\s+words""",
    re.VERBOSE | re.IGNORECASE,
)

_NUMBER: Final = rf"\d{{1,2}}|{'|'.join(_NUMBERS)}"
_NOUN: Final = r"(?:\w+\s+)?(?:image|picture|screenshot|figure|diagram|photo)"
_ASKED: Final = r"(?:\b(?:add|attach|include|insert|provide|show|submit|upload)\b|\+|\bwords\s+(?:and|plus|with)\b)"
# The first that is found counts: a range says more than the number at its end.
_PICTURES: Final = [
    re.compile(pattern, re.IGNORECASE)
    for pattern in (
        rf"\b(?P<low>{_NUMBER})\s*{_TO}\s*(?P<high>{_NUMBER})\s+{_NOUN}s?\b",
        rf"\b(?:{_AT_LEAST})\s+(?P<least>{_NUMBER})\s+{_NOUN}s?\b",
        rf"\b(?P<least>{_NUMBER})(?:\s*\+|\s+or\s+more)\s+{_NOUN}s?\b",
        rf"\b(?:{_AT_MOST})\s+(?P<most>{_NUMBER})\s+{_NOUN}s?\b",
        rf"{_ASKED}\s*(?P<just>{_NUMBER})\s+{_NOUN}s?\b",
        rf"{_ASKED}\s+(?:\w+\s+)?(?P<some>{_NOUN}s)\b",
    )
]

# Its words are what somebody might answer, and ask for nothing.
_EXAMPLE: Final = re.compile(r"^[ \t*_]*example\b.*", re.IGNORECASE | re.MULTILINE | re.DOTALL)
_TARGET: Final = re.compile(r"\]\([^)\n]*\)")


def words_asked(question: str) -> Span | None:
    """The length that a question asks for, such as "Recommended answer length: 100-200 words".

    Args:
        question: Its Markdown, without the marks of a quotation.

    Returns:
        In words; None where any length will do.
    """
    found = _WORDS.search(_without_example(question)) or _WORDS.search(question)
    if found is None:
        return None
    return _span(found["low"] or found["bare_low"], found["high"] or found["bare_high"], found["least"], found["most"])


def pictures_asked(question: str) -> Span | None:
    """The pictures that a question asks for, such as "1 to 3 screenshots" or "insert an image".

    "One image" is one; "an image" or "images" are at least one.

    Returns:
        Their number; None where none is asked for.
    """
    text = _TARGET.sub("]", _without_example(question))
    found = next((found.groupdict() for pattern in _PICTURES if (found := pattern.search(text))), None)
    if found is None:
        return None
    just = found.get("just")
    if found.get("some") or (just or "").lower() in ("a", "an"):
        return Span(1, None)
    return _span(found.get("low", just), found.get("high", just), found.get("least"), found.get("most"))


def _span(low: str | None, high: str | None, least: str | None, most: str | None) -> Span:
    if least:
        return Span(_number(least), None)
    if most:
        return Span(0, _number(most))
    ends = sorted((_number(low or "0"), _number(high or "0")))
    return Span(ends[0], ends[1])


def _number(text: str) -> int:
    return _NUMBERS.get(text.lower()) or int(text)


def _without_example(question: str) -> str:
    return _EXAMPLE.sub("", question)
