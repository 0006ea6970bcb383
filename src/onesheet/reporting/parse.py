"""From the Markdown of a report to its questions, what each asks for, and what was answered."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

from onesheet.errors import InvalidRequestError, ReportError, reason
from onesheet.reporting.limits import Span, pictures_asked, words_asked
from onesheet.reporting.markdown import COMMENT, count_words, find_pictures, markdown_reader, plain

if TYPE_CHECKING:
    from markdown_it import MarkdownIt
    from markdown_it.token import Token

MAX_BYTES: Final = 2 * 2**20

_QUESTION: Final = re.compile(r"question\s+(\d{1,4})\b", re.IGNORECASE)
_QUESTION_LINE: Final = re.compile(r"^[ \t]*#{1,6}[ \t]*question[ \t]+(\d{1,4})\b", re.IGNORECASE | re.MULTILINE)
_QUOTED: Final = re.compile(r"^ {0,3}> ?")
_ANSWER: Final = re.compile(r"^\s*(?:\*\*|__)?answer\s*:\s*(?:\*\*|__)?", re.IGNORECASE)
_PLACEHOLDER: Final = re.compile(r"-{2,3}\s*question\s+\d+\s+fill\s+here\s*-{2,3}", re.IGNORECASE)
_DECLARED: Final = re.compile(r"<!--\s*declared\s+empty\s*:(.*?)-->", re.IGNORECASE | re.DOTALL)


@dataclass(frozen=True, slots=True)
class PictureLink:
    """A picture as an answer names it: what it shows, and where it is."""

    alt: str
    target: str


@dataclass(frozen=True, slots=True)
class Question:
    """A question, and what was answered.

    Attributes:
        number: As its heading has it.
        prompt: The question, as Markdown without the marks of a quotation.
        answer: As Markdown.
        title: The first paragraph of the question, plain and on one line.
        words: Words of the answer that count.
        pictures: Those of the answer.
        words_asked: The length that the question asks for, if it does.
        pictures_asked: The number of pictures that it asks for, if it does.
        declared_empty: Why there is no answer, where `<!-- declared empty: why -->` says so.
        placeholder: The template's "--- question 7 fill here ---" still stands there.
        empty: There is nothing but comments.
    """

    number: int
    prompt: str
    answer: str
    title: str
    words: int
    pictures: tuple[PictureLink, ...]
    words_asked: Span | None
    pictures_asked: Span | None
    declared_empty: str | None
    placeholder: bool
    empty: bool


@dataclass(frozen=True, slots=True)
class Section:
    """A part of the report under a heading of its own.

    Attributes:
        title: The heading; empty for what stands above the first.
        text: What stands before its questions, as Markdown.
        questions: In their order; there may be none.
    """

    title: str
    text: str
    questions: tuple[Question, ...]


@dataclass(frozen=True, slots=True)
class Report:
    """A whole report.

    Attributes:
        title: Its first heading.
        sections: In their order.
        hidden: Numbers of questions whose headings stand where none is read: in a code block or comment that was
            never closed, or without a space after the `#`.
    """

    title: str
    sections: tuple[Section, ...]
    hidden: tuple[int, ...]

    @property
    def questions(self) -> tuple[Question, ...]:
        """Of all sections, in their order."""
        return tuple(question for section in self.sections for question in section.questions)


@dataclass(frozen=True, slots=True)
class _Part:
    """A heading, the lines below it, and the number of the question that it is, if it is one."""

    title: str
    number: int | None
    lines: list[str]


def read_report(path: Path) -> Report:
    """Read and parse a report.

    Raises:
        InvalidRequestError: There is no such file.
        ReportError: It is too large, no text, or cannot be read.
    """
    if not path.is_file():
        raise InvalidRequestError(f"{path}: no such file")
    try:
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ReportError(f"{path}: not a text in UTF-8") from error
    except OSError as error:
        raise ReportError(f"{path}: cannot be read: {reason(error)}") from error
    if len(content) > MAX_BYTES:
        raise ReportError(f"{path}: larger than {MAX_BYTES // 2**20} MiB")
    return parse_report(text)


def parse_report(text: str) -> Report:
    """The questions of a report in the form of the course's template, by the template's own words."""
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    reader = markdown_reader()
    first, *parts = _parts(reader.parse(text), text.split("\n"))
    title = ""
    sections = [Section("", _joined(first.lines), ())]
    for part in parts:
        if part.number is not None:
            question = _question(part.number, part.lines, reader)
            sections[-1] = replace(sections[-1], questions=(*sections[-1].questions, question))
        elif title:
            sections.append(Section(part.title, _joined(part.lines), ()))
        else:
            title = part.title
            sections.append(Section("", _joined(part.lines), ()))
    read = {part.number for part in parts}
    hidden = dict.fromkeys(number for found in _QUESTION_LINE.findall(text) if (number := int(found)) not in read)
    return Report(title, tuple(section for section in sections if section != Section("", "", ())), tuple(hidden))


def _parts(tokens: Sequence[Token], lines: list[str]) -> list[_Part]:
    """What stands above the first heading, then the report at its headings: of the whole, sections, and questions.

    All other headings belong to the text that they stand in.
    """
    parts = [_Part("", None, [])]
    start = 0
    for place, token in enumerate(tokens):
        # An answer's last line above a rule of dashes is a heading for Markdown, too, and for nobody else.
        if token.type != "heading_open" or token.level or not token.markup.startswith("#") or token.map is None:
            continue
        title = plain(tokens[place + 1 : place + 2])
        question = _QUESTION.match(title)
        if question or token.tag in ("h1", "h2"):
            parts[-1].lines.extend(lines[start : token.map[0]])
            parts.append(_Part(title, int(question[1]) if question else None, []))
            start = token.map[1]
    parts[-1].lines.extend(lines[start:])
    return parts


def _question(number: int, lines: list[str], reader: MarkdownIt) -> Question:
    prompt, answer = _split(lines)
    tokens = reader.parse(answer)
    comments = [found[1] for token in tokens if token.type == COMMENT and (found := _DECLARED.match(token.content))]
    return Question(
        number=number,
        prompt=prompt,
        answer=answer,
        title=_title(prompt, reader),
        words=count_words(tokens),
        pictures=tuple(PictureLink(image.content, str(image.attrs["src"])) for image in find_pictures(tokens)),
        words_asked=words_asked(prompt),
        pictures_asked=pictures_asked(prompt),
        declared_empty=next((" ".join(why.split()) for why in comments if why.strip()), None),
        placeholder=bool(_PLACEHOLDER.search(answer)),
        empty=all(token.type == COMMENT for token in tokens),
    )


def _split(lines: list[str]) -> tuple[str, str]:
    """The quoted lines of the question, and all lines below "Answer:", which may be quoted as well."""
    prompt: list[str] = []
    for place, line in enumerate(lines):
        said = _QUOTED.sub("", line)
        if found := _ANSWER.match(said):
            return _joined(prompt), _joined([said[found.end() :], *lines[place + 1 :]])
        if line.strip() and said == line:
            return _joined(prompt), _joined(lines[place:])
        prompt.append(said)
    return _joined(prompt), ""


def _title(prompt: str, reader: MarkdownIt) -> str:
    """The first paragraph of a question."""
    tokens = reader.parse(prompt)
    return plain([token for token in tokens if token.type == "inline"][:1])


def _joined(lines: list[str]) -> str:
    return "\n".join(lines).strip("\n")
