"""Paths as tables of other systems write them: Windows separators, `file://`, composed and decomposed letters."""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Iterator
from pathlib import Path, PureWindowsPath
from typing import Final
from urllib.parse import urlsplit
from urllib.request import url2pathname

from onesheet.errors import ImageNotFoundError
from onesheet.image import ImageLimits, read_bytes
from onesheet.scoring.rows import ABSENT, file_etag

_FILE_URI: Final = "file:"
_THIS_MACHINE: Final = ("", "localhost")


def is_file_uri(value: str) -> bool:
    """Whether a value of a table is a `file:` URI."""
    return value.lower().startswith(_FILE_URI)


def read_path(folder: Path, value: str, limits: ImageLimits) -> bytes:
    """Read the picture that a value of a table names.

    The file of exactly that name comes first. Then blanks around it are left out, backslashes are read as separators,
    and accented letters are taken as composed or decomposed, as file systems differ in that.

    Args:
        folder: That relative paths begin at.
        value: A path or a `file:` URI.
        limits: What is accepted as a poster.

    Raises:
        ImageError: As `read_bytes`.
    """
    for path in dict.fromkeys(_spellings(value)):
        try:
            return read_bytes(folder / path, limits)
        except ImageNotFoundError:
            continue
    if os.name != "nt" and PureWindowsPath(value.strip()).drive:
        raise ImageNotFoundError("no such file: this is a path of a Windows machine")
    raise ImageNotFoundError("no such file")


def path_etag(folder: Path, value: str) -> str:
    """Etag of the file that `read_path` reads."""
    try:
        etags = (file_etag(folder / path) for path in dict.fromkeys(_spellings(value)))
        return next((etag for etag in etags if etag != ABSENT), ABSENT)
    except ImageNotFoundError:
        return ABSENT


def _spellings(value: str) -> Iterator[str]:
    text = value.strip()
    paths = [_path_of_uri(text)] if is_file_uri(text) else [value, text, text.replace("\\", "/")]
    for path in paths:
        yield path
        yield unicodedata.normalize("NFC", path)
        yield unicodedata.normalize("NFD", path)


def _path_of_uri(uri: str) -> str:
    """The local path of a `file:` URI.

    Raises:
        ImageNotFoundError: It is none, or names a file of another machine.
    """
    try:
        parts = urlsplit(uri)
    except ValueError as error:
        raise ImageNotFoundError("not a valid file:// address") from error
    if parts.netloc.lower() not in _THIS_MACHINE:
        raise ImageNotFoundError("a file:// address of another machine")
    return url2pathname(parts.path)
