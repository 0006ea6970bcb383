"""Posters by film id: which file of a folder shows which film."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Sequence
from os import scandir
from pathlib import Path, PurePosixPath

from onesheet.errors import DataError, reason
from onesheet.image import PICTURE_SUFFIXES

SUFFIX_RULE = f"a poster is named <Id> and one of {', '.join(PICTURE_SUFFIXES)}, and lies in no folder below"
_SHOWN_FILMS = 3


class PosterNames:
    """File names of posters, found by film id.

    A poster is named as its film's id and one of `PICTURE_SUFFIXES` in any case; its content tells its format.
    Accented letters are the same composed and decomposed.

    Args:
        names: File names without folders; those that are no pictures and hidden ones do not count.
    """

    def __init__(self, names: Iterable[str]) -> None:
        self._by_id: dict[str, list[str]] = {}
        for name in sorted(filter(is_picture_name, names), key=_preference):
            self._by_id.setdefault(film_of(unicodedata.normalize("NFC", name)), []).append(name)

    def find(self, film: str) -> Sequence[str]:
        """All files of a film. The first is its poster: that with the suffix that comes first in `PICTURE_SUFFIXES`."""
        return self._by_id.get(unicodedata.normalize("NFC", film), ())


class PosterFolder:
    """The posters that lie in a folder, listed once.

    Args:
        folder: Its folders below are not looked into.

    Raises:
        DataError: There is no such folder, or it cannot be listed.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        try:
            with scandir(folder) as entries:
                self._names = PosterNames(entry.name for entry in entries if not entry.is_dir())
        except OSError as error:
            raise DataError(f"{folder}, the folder of the posters, cannot be listed: {reason(error)}") from error

    def find(self, film: str) -> Path:
        """The poster of a film; a name that is not there if there is none."""
        names = self._names.find(film)
        return self._folder / (names[0] if names else f"{film}{PICTURE_SUFFIXES[0]}")

    def others(self, film: str) -> Sequence[str]:
        """Names of further files of the film, which are not its poster."""
        return self._names.find(film)[1:]

    def missing(self, films: Iterable[str]) -> list[str]:
        """The films without a poster."""
        return [film for film in films if not self._names.find(film)]


def is_picture_name(name: str) -> bool:
    """Whether a file name is that of a picture, and not hidden."""
    return name.lower().endswith(PICTURE_SUFFIXES) and not name.startswith(".")


def film_of(name: str) -> str:
    """The id of a film that may be written as the file name of its poster."""
    return PurePosixPath(name).stem if is_picture_name(name) else name


def name_some(films: Sequence[str]) -> str:
    """Name a few of many films."""
    more = len(films) - _SHOWN_FILMS
    return ", ".join(films[:_SHOWN_FILMS]) + (f" and {more:,} more" if more > 0 else "")


def _preference(name: str) -> tuple[int, str]:
    return PICTURE_SUFFIXES.index(PurePosixPath(name).suffix.lower()), name
