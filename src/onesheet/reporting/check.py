"""Whether each answer of a report is what its question asks for."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from onesheet.errors import ImageError
from onesheet.reporting.limits import Span
from onesheet.reporting.parse import Question, Report
from onesheet.reporting.pictures import read_picture


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that is not as it was asked for.

    Attributes:
        question: Its number; None where the whole report is meant.
        kind: For programs: `questions`, `unanswered`, `declared`, `words`, `pictures`, `picture` or `alt`.
        message: For people, without the number.
        count: What was counted, if anything was.
        asked: The range that it should be in.
    """

    question: int | None
    kind: str
    message: str
    count: int | None = None
    asked: Span | None = None

    def __str__(self) -> str:
        return self.message if self.question is None else f"question {self.question}: {self.message}"

    def to_dict(self) -> dict[str, Any]:
        """The same for JSON."""
        return asdict(self)


def check_report(report: Report, folder: Path) -> list[Finding]:
    """Everything that should be otherwise, question by question.

    Args:
        report: As it was parsed.
        folder: It lies there, and so do its pictures.
    """
    findings = list(_check_numbers(report))
    pictures: dict[str, str | None] = {}
    for question in report.questions:
        findings += _check_answer(question)
        findings += _check_pictures(question, folder, pictures)
    return findings


def _check_numbers(report: Report) -> Iterator[Finding]:
    numbers = [question.number for question in report.questions]
    if not numbers:
        yield Finding(None, "questions", 'there is no heading such as "### Question 1"')
    for number, times in Counter(numbers).items():
        if times > 1:
            yield Finding(number, "questions", f"is there {times} times")
    for number in report.hidden:
        yield Finding(
            number,
            "questions",
            "its heading is not read as one: it is in a code block or comment that is not closed, or lacks a space",
        )
    for before, after in pairwise(sorted({*numbers, *report.hidden})):
        if after > before + 1:
            missing = (
                f"question {before + 1} is" if after == before + 2 else f"questions {before + 1} to {after - 1} are"
            )
            yield Finding(None, "questions", f"{missing} missing")


def _check_answer(question: Question) -> Iterator[Finding]:
    asked = question.words_asked
    if question.placeholder:
        yield Finding(question.number, "unanswered", "has no answer yet: the template's own line is still there")
    elif question.declared_empty is not None:
        if not question.empty:
            yield Finding(question.number, "declared", "is declared empty, and has an answer")
    elif question.empty and not (asked and 0 in asked):
        yield Finding(question.number, "unanswered", "has no answer")
    else:
        yield from _check_count(question.number, "words", "word", question.words, asked)
        yield from _check_count(question.number, "pictures", "picture", len(question.pictures), question.pictures_asked)


def _check_count(number: int, kind: str, noun: str, count: int, asked: Span | None) -> Iterable[Finding]:
    if asked is None or count in asked:
        return ()
    verb = "is" if (asked.high or asked.low) == 1 else "are"
    message = f"{count} {noun}{'' if count == 1 else 's'}, and {asked} {verb} asked for"
    return (Finding(number, kind, message, count, asked),)


def _check_pictures(question: Question, folder: Path, known: dict[str, str | None]) -> Iterator[Finding]:
    """What is wrong with the files; `known` spares those that were looked at already."""
    for picture in question.pictures:
        if picture.target not in known:
            known[picture.target] = _what_is_wrong(picture.target, folder)
        if wrong := known[picture.target]:
            yield Finding(question.number, "picture", f"picture {picture.target or '()'} {wrong}")
        if not picture.alt.strip():
            yield Finding(
                question.number, "alt", f"picture {picture.target or '()'} has no words that say what it shows"
            )


def _what_is_wrong(target: str, folder: Path) -> str | None:
    try:
        read_picture(target, folder)
    except ImageError as error:
        return f"cannot be shown: {error.message}"
    return None
