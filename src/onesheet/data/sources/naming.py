"""Names that come from outside: what may be shown, and what may be written."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from onesheet.data.labels import IMAGES_FOLDER, LABELS_FILE
from onesheet.data.posters import is_picture_name
from onesheet.errors import FetchError

if TYPE_CHECKING:
    from collections.abc import Iterable

STAGING_SUFFIX = ".partial"

# An allow-list: no separators of any system, no control characters, no broken text, not hidden.
_CHARACTER = r"[^/\\:\x00-\x1f\x7f\ud800-\udfff]"
_SAFE = re.compile(rf"(?!\.){_CHARACTER}+")
_USER = re.compile(r"(?<=://)[^/\s]*@")
_QUERY = re.compile(r"(?<=://)([^?#\s]*)[?#][^\s'\"]*")


def public_name(text: str) -> str:
    """The text without the user, password and query of the addresses in it."""
    return _QUERY.sub(r"\1", _USER.sub("", text))


def is_picture(name: str) -> bool:
    """Whether a bare file name is one that we take from `Images/`."""
    return _SAFE.fullmatch(name) is not None and is_picture_name(name)


def dataset_names(paths: Iterable[str], source: str) -> dict[str, str]:
    """Find the data set in a source: the `train.csv` nearest to the top that has pictures beside it.

    Args:
        paths: Of all files, separated by `/`, relative to the source; not trusted.
        source: How the source may be called in an error.

    Returns:
        Name in the data set (`train.csv` or `Images/<file>`, always safe) → the path it stands for.

    Raises:
        FetchError: There is no `train.csv`, or no `Images/` beside any.
    """
    labels: set[str] = set()
    pictures: dict[str, dict[str, str]] = {}
    for path in paths:
        folder, _, name = path.rpartition("/")
        if name == LABELS_FILE:
            labels.add(folder)
        home, _, parent = folder.rpartition("/")
        if parent == IMAGES_FOLDER and is_picture(name):
            pictures.setdefault(home, {})[f"{IMAGES_FOLDER}/{name}"] = path
    root = _nearest_root(labels, set(pictures), source)
    return {LABELS_FILE: f"{root}/{LABELS_FILE}".lstrip("/"), **pictures[root]}


def _nearest_root(labels: set[str], pictures: set[str], source: str) -> str:
    if not labels:
        raise FetchError(f"{source} holds no {LABELS_FILE}")
    roots = labels & pictures
    if not roots:
        raise FetchError(f"{source} holds {LABELS_FILE} but no pictures in {IMAGES_FOLDER}/ beside it")
    return min(roots, key=lambda folder: (folder.count("/") if folder else -1, folder))
