"""Posters and what the API says of them, for one visitor: each is asked for once, however often the page is drawn."""

from __future__ import annotations

import csv
import hashlib
import io
import json
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from typing import Any, Final

from onesheet.errors import ApiError, ApiUnavailableError

# So that one visitor with many posters leaves room for the others.
_AT_ONCE: Final = 4
# A spreadsheet takes a cell that begins with one of these for a formula.
_FORMULA: Final = ("=", "+", "-", "@", "\t", "\r")


@dataclass(frozen=True, slots=True)
class Poster:
    """A picture that somebody brought, or the address of one.

    Attributes:
        name: Of the file, or the link itself.
        data: The encoded picture; None: a link, whose picture only the API sees.
    """

    name: str
    data: bytes | None

    @property
    def key(self) -> str:
        """The same for the same picture, whatever its name."""
        return hashlib.sha256(self.data if self.data is not None else self.name.encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class Answer:
    """What the API said of a poster, or why it said nothing.

    Attributes:
        prediction_id: Names the answer; None where the API could not keep it.
        probabilities: By genre, most probable first.
        model: Name and version.
        error: In words; the other fields are empty then.
    """

    prediction_id: str | None
    probabilities: Mapping[str, float]
    model: str
    error: str | None = None

    @classmethod
    def of(cls, content: Mapping[str, Any]) -> Answer:
        """From the JSON of `POST /predict` with all genres in `topk`."""
        probabilities = {score["label"]: score["probability"] for score in content["topk"]}
        model = content["model"]
        return cls(content["prediction_id"], probabilities, f"{model['name']} {model['version']}")

    def genres(self, thresholds: Mapping[str, float]) -> list[str]:
        """Those that reach their threshold, most probable first."""
        return [genre for genre, value in self.probabilities.items() if value >= thresholds.get(genre, 1.0)]


class Answers:
    """The answers of one visitor, by the key of the poster.

    Args:
        ask: Asks the API for one poster.
    """

    def __init__(self, ask: Callable[[Poster], Mapping[str, Any]]) -> None:
        self._ask = ask
        self._known: dict[str, Answer] = {}

    def of(self, posters: Sequence[Poster], on_answer: Callable[[int, int], None] | None = None) -> list[Answer]:
        """An answer for each poster, in order; those that are known already are not asked for again.

        What a poster is at fault for is known for good; while the API is away, the next call tries again.

        Args:
            posters: Any number.
            on_answer: Told how many of the new ones are done, and of how many.
        """
        new = {poster.key: poster for poster in posters if poster.key not in self._known}
        found: dict[str, Answer] = {}
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            asked = {pool.submit(self._ask, poster): key for key, poster in new.items()}
            for number, call in enumerate(as_completed(asked), 1):
                try:
                    found[asked[call]] = self._known[asked[call]] = Answer.of(call.result())
                except ApiUnavailableError as error:
                    found[asked[call]] = Answer(None, {}, "", error.message)
                except ApiError as error:
                    found[asked[call]] = self._known[asked[call]] = Answer(None, {}, "", error.message)
                if on_answer:
                    on_answer(number, len(new))
        return [found.get(poster.key) or self._known[poster.key] for poster in posters]


def sentence(genres: Sequence[str]) -> str:
    """`Comedy`, `Comedy and Romance`, `Comedy, Drama and Romance`."""
    *first, last = genres
    return f"{', '.join(first)} and {last}" if first else last


def as_csv(posters: Sequence[Poster], answers: Sequence[Answer], thresholds: Mapping[str, float]) -> str:
    """A line for each poster: its genres, and every probability."""
    names = sorted({genre for answer in answers for genre in answer.probabilities})
    out = io.StringIO()
    writer = csv.writer(out)
    writer.writerow(["file", "genres", "error", "model", *names])
    for poster, answer in zip(posters, answers, strict=True):
        values = [answer.probabilities.get(name, "") for name in names]
        name = f"'{poster.name}" if poster.name.startswith(_FORMULA) else poster.name
        writer.writerow([name, "; ".join(answer.genres(thresholds)), answer.error or "", answer.model, *values])
    return out.getvalue()


def as_json(posters: Sequence[Poster], answers: Sequence[Answer], thresholds: Mapping[str, float]) -> str:
    """The same as a list of objects."""
    rows = [
        {"file": poster.name, "error": answer.error}
        if answer.error
        else {
            "file": poster.name,
            "genres": answer.genres(thresholds),
            "probabilities": dict(answer.probabilities),
            "model": answer.model,
            "prediction_id": answer.prediction_id,
        }
        for poster, answer in zip(posters, answers, strict=True)
    ]
    return json.dumps(rows, ensure_ascii=False, indent=2)
