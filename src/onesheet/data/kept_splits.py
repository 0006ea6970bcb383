"""Which film is on which side, for good: a CSV file that is kept in git beside the code.

Without it a split is a function of the data and the seed alone, and every new poster deals all films anew: what was a
test poster yesterday is trained on today, and an older model is flattered when both are compared. With it a film that
was once a test poster stays one.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping
from pathlib import Path
from typing import Final
from unicodedata import normalize

from onesheet.data.split import SPLITS
from onesheet.errors import DataError
from onesheet.files import whole

_HEADER: Final = ["Id", "Split"]


def read_kept_splits(path: Path) -> dict[str, str]:
    """Film id to its split; empty where there is no such file yet.

    Raises:
        DataError: It is something else.
    """
    try:
        with path.open(newline="", encoding="utf-8") as file:
            header, *rows = list(csv.reader(file, strict=True)) or [[]]
    except FileNotFoundError:
        return {}
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path} is not a readable CSV file: {error}") from error
    if header != _HEADER:
        raise DataError(f"{path} holds no splits: its first line is not `{','.join(_HEADER)}`")
    for line, row in enumerate(rows, start=2):
        if len(row) != len(_HEADER) or row[1] not in SPLITS:
            raise DataError(f"{path}, line {line}: needs a film id and one of {', '.join(SPLITS)}")
    return {normalize("NFC", film): split for film, split in rows}


def write_kept_splits(path: Path, splits: Mapping[str, str]) -> None:
    """Write all of it or nothing, in the order of the ids, so that a new film is one more line of a diff."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole(path) as scratch, scratch.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(_HEADER)
        writer.writerows(sorted(splits.items()))
