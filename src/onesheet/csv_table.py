"""CSV files as people have them: encoding, delimiter and header are found by fixed rules."""

from __future__ import annotations

import codecs
import csv
import re
import unicodedata
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final, TextIO

from onesheet.errors import DataError, reason

_DELIMITERS: Final = {",": "comma", ";": "semicolon", "\t": "tab", "|": "pipe"}
_BYTE_ORDER_MARKS: Final = {codecs.BOM_UTF8: "utf-8-sig", codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16"}
_ENCODINGS: Final = {"utf-8": "UTF-8", "utf-8-sig": "UTF-8", "utf-16": "UTF-16", "cp1252": "Windows-1252"}
# Excel writes the delimiter into a line of its own before the header.
_EXCEL_DELIMITER: Final = re.compile(r"sep=(.)\s*")
_CHUNK_BYTES: Final = 2**20
_MAX_LINE: Final = 2**20
_MAX_SHOWN_COLUMNS: Final = 12
_MAX_SHOWN_TEXT: Final = 60


class CsvTable:
    """A CSV file with a header.

    The encoding is that of the byte order mark; without one UTF-8, or Windows-1252 (which includes Latin-1) if the file
    is not UTF-8. The delimiter is the one of comma, semicolon, tab and pipe under which the header has the column that
    is looked for, or else the most columns. Blanks around names are no part of them.

    Args:
        path: The file.
        names: Names of the column that is looked for, preferred ones first; case, blanks and underscores do not count.

    Attributes:
        path: The file.
        columns: Names of the columns, in the order of the file, in NFC.
        index: Position of the column that was looked for.

    Raises:
        DataError: The file cannot be read, is not a CSV file, or has no such column or two of them.
    """

    def __init__(self, path: Path, names: Sequence[str]) -> None:
        self.path = path
        self._encoding = _find_encoding(path)
        self._delimiter, self._header_line, self.columns = self._read_header(names)
        self.index = self._require_column(names)

    def __str__(self) -> str:
        """How the file was read, for errors: encoding, delimiter and columns."""
        shown = ", ".join(f"`{_clip(name)}`" for name in self.columns[:_MAX_SHOWN_COLUMNS])
        more = len(self.columns) - _MAX_SHOWN_COLUMNS
        delimiter = _DELIMITERS.get(self._delimiter, repr(self._delimiter))
        return (
            f"{_ENCODINGS[self._encoding]}, delimiter {delimiter}, "
            f"columns {shown or 'none'}{f' and {more} more' if more > 0 else ''}"
        )

    def records(self) -> Iterator[tuple[int, list[str]]]:
        """Yield each record below the header: the line that it starts in, from 1, and its fields. Empty lines are none.

        Raises:
            DataError: The file breaks the rules of CSV, or cannot be read any more.
        """
        try:
            for line, fields in self._parse(self._delimiter):
                if line > self._header_line:
                    yield line, fields
        except csv.Error as error:
            raise DataError(f"{self.path.name} is not a readable CSV file: {error} ({self})") from error

    def error(self, line: int, message: str) -> DataError:
        """An error about a record: with the file, the line, and how the file was read."""
        return DataError(f"{self.path.name}, line {line}: {message} (read as {self})")

    def field_error(self, line: int, column: int, value: str, message: str) -> DataError:
        """An error about a field, with its column and value too."""
        return self.error(line, f"column `{_clip(self.columns[column])}` {message}, got {_clip(value)!r}")

    def _read_header(self, names: Sequence[str]) -> tuple[str, int, tuple[str, ...]]:
        """The delimiter, the line of the header, and the names in it."""
        headers: dict[str, tuple[int, tuple[str, ...]]] = {}
        failure: csv.Error | None = None
        for delimiter in self._candidates():
            try:
                found = ((line, fields) for line, fields in self._parse(delimiter) if any(map(str.strip, fields)))
                line, fields = next(found, (0, []))
                headers[delimiter] = line, tuple(map(_clean, fields))
            except csv.Error as error:
                failure = error
        if not headers:
            raise DataError(f"{self.path.name} is not a readable CSV file: {failure}") from failure
        chosen = max(headers, key=lambda delimiter: _rank(headers[delimiter][1], names))
        return chosen, *headers[chosen]

    def _candidates(self) -> Sequence[str]:
        with self._open() as file:
            declared = _EXCEL_DELIMITER.fullmatch(file.readline(_MAX_LINE))
        return declared[1] if declared else tuple(_DELIMITERS)

    def _require_column(self, names: Sequence[str]) -> int:
        try:
            index = find_column(self.columns, names)
        except ValueError as error:
            raise DataError(f"{self.path.name} has {error} (read as {self})") from error
        if index is None:
            raise DataError(f"{self.path.name} has no column `{'` or `'.join(names[:2])}` (read as {self})")
        return index

    def _parse(self, delimiter: str) -> Iterator[tuple[int, list[str]]]:
        """Each record that is not empty, with the line that it starts in.

        Raises:
            csv.Error: With the line at fault.
        """
        try:
            with self._open() as file:
                reader = csv.reader(_lines(file), delimiter=delimiter, skipinitialspace=True, strict=True)
                line = 1
                try:
                    for fields in reader:
                        if fields and not (line == 1 and _EXCEL_DELIMITER.fullmatch(delimiter.join(fields))):
                            yield line, fields
                        line = reader.line_num + 1
                except csv.Error as error:
                    raise csv.Error(f"line {line}: {error}") from error
        except OSError as error:
            raise DataError(f"{self.path.name} cannot be read: {reason(error)}") from error

    def _open(self) -> TextIO:
        return self.path.open(encoding=self._encoding, newline="")


def find_column(columns: Sequence[str], names: Sequence[str]) -> int | None:
    """Find the first of some names among columns; case, blanks and underscores do not count.

    Raises:
        ValueError: Two columns have that name.
    """
    for name in names:
        alike = [i for i, column in enumerate(columns) if _key(column) == _key(name)]
        exact = [i for i in alike if columns[i] == name]
        found = exact or alike
        if len(found) > 1:
            raise ValueError(f"the column `{name}` twice")
        if found:
            return found[0]
    return None


def _clean(name: str) -> str:
    return unicodedata.normalize("NFC", name.strip(" \t\xa0\ufeff"))


def _key(name: str) -> str:
    return re.sub(r"[\W_]+", "", unicodedata.normalize("NFC", name).casefold())


def _rank(columns: Sequence[str], names: Sequence[str]) -> tuple[bool, int]:
    keys = {_key(name) for name in names}
    return any(_key(column) in keys for column in columns), len(columns)


def _find_encoding(path: Path) -> str:
    """The first encoding that the whole file can be decoded with.

    Raises:
        DataError: There is none, or the file cannot be read.
    """
    try:
        with path.open("rb") as file:
            head = file.read(4)
        marked = [name for mark, name in _BYTE_ORDER_MARKS.items() if head.startswith(mark)]
        for encoding in marked or ("utf-8", "cp1252"):
            if _decodes(path, encoding):
                return encoding
    except OSError as error:
        raise DataError(f"{path.name} cannot be read: {reason(error)}") from error
    raise DataError(
        f"{path.name} is not a readable CSV file: it is not text in UTF-8, UTF-16 with a byte order mark, "
        "or Windows-1252 (Latin-1); save it as UTF-8"
    )


def _decodes(path: Path, encoding: str) -> bool:
    decoder = codecs.getincrementaldecoder(encoding)()
    try:
        with path.open("rb") as file:
            while chunk := file.read(_CHUNK_BYTES):
                if "\0" in decoder.decode(chunk):
                    return False
        decoder.decode(b"", final=True)
    except UnicodeError:
        return False
    return True


def _lines(file: TextIO) -> Iterator[str]:
    """Lines of a file that may be anything: none has to fit into memory.

    Raises:
        csv.Error: A line is too long.
    """
    while line := file.readline(_MAX_LINE):
        if len(line) == _MAX_LINE:
            raise csv.Error(f"there is a line of {_MAX_LINE:,} letters or more")
        yield line


def _clip(text: str) -> str:
    return text if len(text) <= _MAX_SHOWN_TEXT else f"{text[:_MAX_SHOWN_TEXT]}…"
