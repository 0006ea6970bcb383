"""The manifest: one row for each film, with its poster's facts, genres and split."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, fields, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from onesheet.errors import DataError, ImageError
from onesheet.files import whole
from onesheet.image import Picture, PreprocessSpec, load_picture
from onesheet.parquet import read_table

if TYPE_CHECKING:
    from numpy.typing import NDArray

MANIFEST_FILE: Final = "manifest.parquet"
_METADATA_KEY: Final = b"onesheet"


@dataclass(frozen=True, slots=True)
class Entry:
    """A film of the manifest.

    Attributes:
        id: Film id.
        path: Its picture, relative to the folder of the raw data, with forward slashes.
        genres: Its genres, in the manifest's order.
        split: `train`, `validation` or `test`; None when the film is in quarantine.
        group: Smallest id among the films with a near-identical picture.
        sha256: Of the encoded picture.
        phash: 64-bit perceptual hash, hexadecimal.
        width: In pixels.
        height: In pixels.
        mode: Pillow's colour mode.
        problems: What is wrong or remarkable; the reason, when the film is in quarantine.
    """

    id: str
    path: str
    genres: tuple[str, ...]
    split: str | None
    group: str | None
    sha256: str | None
    phash: str | None
    width: int | None
    height: int | None
    mode: str | None
    problems: tuple[str, ...]


@dataclass(frozen=True)
class Manifest:
    """All films, in the order of their ids.

    Attributes:
        entries: One for each film, also those in quarantine.
        genres: Every genre, in the order of the label columns.
        seed: Of the split.
        root: Folder that the paths are relative to.
    """

    entries: tuple[Entry, ...]
    genres: tuple[str, ...]
    seed: int
    root: Path

    @cached_property
    def fingerprint(self) -> str:
        """sha256 over what training sees: ids, pictures, genres and splits; independent of where they lie."""
        rows = [[e.id, e.sha256, e.genres, e.split] for e in self.entries]
        document = json.dumps([self.genres, rows], separators=(",", ":"))
        return hashlib.sha256(document.encode()).hexdigest()

    def split(self, name: str) -> Manifest:
        """The films of one split."""
        return replace(self, entries=tuple(entry for entry in self.entries if entry.split == name))

    def counts(self) -> dict[str, int]:
        """Number of films in each split, quarantine included."""
        names = [entry.split or "quarantine" for entry in self.entries]
        return {name: names.count(name) for name in ("train", "validation", "test", "quarantine")}

    def targets(self) -> NDArray[np.bool_]:
        """Which film has which genre: bool `[N, G]`."""
        return np.array([[genre in entry.genres for genre in self.genres] for entry in self.entries], dtype=bool)

    def picture(self, entry: Entry) -> Path:
        """Where the picture of an entry lies."""
        return self.root / entry.path

    def load(self, entry: Entry, spec: PreprocessSpec) -> Picture:
        """Read the picture of an entry, as serving would.

        Raises:
            DataError: It is not there any more, or has been damaged since it was inspected.
        """
        try:
            return load_picture(self.picture(entry), spec)
        except ImageError as error:
            raise DataError(f"{self.picture(entry)}: {error.message}: run `onesheet data prepare` again") from error


def write_manifest(manifest: Manifest, path: Path) -> None:
    """Write the manifest as Parquet; the same manifest always gives the same bytes."""
    about = {"genres": manifest.genres, "seed": manifest.seed}
    schema = _schema().with_metadata({_METADATA_KEY: json.dumps(about).encode()})
    table = pa.Table.from_pylist([asdict(entry) for entry in manifest.entries], schema=schema)
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole(path) as scratch:
        pq.write_table(table, scratch, compression="zstd")


def read_manifest(path: Path, root: Path) -> Manifest:
    """Read a manifest.

    Args:
        path: The Parquet file.
        root: Folder of the raw data, which the manifest's paths are relative to.

    Raises:
        DataError: There is no manifest, or it is not one of ours.
    """
    if not path.is_file():
        raise DataError(f"no manifest at {path}: run `onesheet data prepare` first")
    try:
        table = read_table(path)
        about = json.loads((table.schema.metadata or {})[_METADATA_KEY])
    except (pa.ArrowException, OSError, KeyError, ValueError) as error:
        raise DataError(f"{path} is no manifest of onesheet: run `onesheet data prepare` again") from error
    if set(table.column_names) != {field.name for field in fields(Entry)}:
        raise DataError(f"{path} is a manifest of another version: run `onesheet data prepare` again")
    rows = table.to_pylist()
    entries = tuple(
        Entry(**{**row, "genres": tuple(row["genres"]), "problems": tuple(row["problems"])}) for row in rows
    )
    return Manifest(entries, tuple(about["genres"]), about["seed"], root)


def _schema() -> pa.Schema:
    text, texts, number = pa.string(), pa.list_(pa.string()), pa.int32()
    kinds = {"genres": texts, "problems": texts, "width": number, "height": number}
    return pa.schema([(field.name, kinds.get(field.name, text)) for field in fields(Entry)])
