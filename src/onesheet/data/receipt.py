"""`fetch.json`: what was fetched, and the proof that it is still there."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from onesheet.data.labels import IMAGES_FOLDER, LABELS_FILE
from onesheet.data.progress import Meter, Progress, Report
from onesheet.data.sources.naming import is_picture
from onesheet.errors import FetchError

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

RECEIPT_FILE = "fetch.json"


@dataclass(frozen=True, slots=True)
class Contents:
    """The files of a data set, summed up.

    Attributes:
        files: Number of files, `train.csv` included.
        bytes: Their size.
        fingerprint: SHA-256 over the names and SHA-256s of all files, in hexadecimal; same data, same value.
    """

    files: int
    bytes: int
    fingerprint: str


@dataclass(frozen=True, slots=True)
class FetchReceipt:
    """What a fetch brought.

    Attributes:
        source: As it was given, without credentials.
        files: As in `Contents`, like `bytes` and `fingerprint`.
        rows: Rows of `train.csv`, repeated ones included.
        missing: Labelled films of which the source has no picture.
        already_there: Nothing was fetched, because all of it was there; not part of the file.
    """

    source: str
    files: int
    bytes: int
    fingerprint: str
    rows: int
    missing: int
    already_there: bool = False

    @property
    def contents(self) -> Contents:
        """What the data set has to hold to be the one that was fetched."""
        return Contents(self.files, self.bytes, self.fingerprint)

    def to_dict(self) -> dict[str, Any]:
        """The content of `fetch.json`."""
        values = asdict(self)
        del values["already_there"]
        return values


def read_receipt(folder: Path, name: str) -> FetchReceipt:
    """Read the receipt of a finished data set.

    Args:
        folder: Of the data set.
        name: How it may be called in an error.

    Raises:
        FetchError: It cannot be read, or is no receipt.
    """
    try:
        values = json.loads((folder / RECEIPT_FILE).read_bytes())
        return FetchReceipt(**values, already_there=True)
    except (OSError, ValueError, TypeError) as error:
        raise FetchError(f"{name} holds a {RECEIPT_FILE} that is no receipt of a finished fetch") from error


def dataset_files(folder: Path) -> list[str]:
    """The names of the files of a data set on disk, sorted; others beside them do not count."""
    pictures = [path.name for path in (folder / IMAGES_FOLDER).iterdir() if is_picture(path.name)]
    return sorted([LABELS_FILE, *(f"{IMAGES_FOLDER}/{picture}" for picture in pictures)])


def sum_up(folder: Path, names: Iterable[str], report: Report) -> Contents:
    """Read every file and sum up what it holds.

    Raises:
        OSError: A file is not there or cannot be read.
    """
    names = sorted(names)
    meter = Meter(report, Progress("verifying", total_files=len(names)))
    total, fingerprint = 0, hashlib.sha256()
    for name in names:
        content = (folder / name).read_bytes()
        fingerprint.update(f"{name}\0{hashlib.sha256(content).hexdigest()}\n".encode())
        total += len(content)
        meter.add(len(content))
    return Contents(len(names), total, fingerprint.hexdigest())
