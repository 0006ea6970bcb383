"""Read, write and verify a bundle: the one thing that crosses from training to the rest of the house.

A bundle is a folder, or a `.tar.gz` of it, that holds `bundle.json` and the files that it lists with their sha256.
It is data only, never a pickle, and small enough to be held in memory, so all kinds of reference read alike: a
mapping of file names to bytes.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import math
import tarfile
import tempfile
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, BinaryIO, Final, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from onesheet.errors import (
    BundleCorruptError,
    BundleError,
    BundleNotFoundError,
    BundleSchemaError,
    MissingExtraError,
)
from onesheet.image import PreprocessSpec
from onesheet.refs import STARTER, is_registered

if TYPE_CHECKING:
    from numpy.typing import NDArray

SCHEMA_VERSION: Final = 1
METADATA_FILE: Final = "bundle.json"
MODEL_FILE: Final = "model.onnx"
INT8_FILE: Final = "model.int8.onnx"
REFERENCE_FILE: Final = "reference.parquet"
CARD_FILE: Final = "MODEL_CARD.md"
REQUIRED_FILES: Final = (MODEL_FILE, REFERENCE_FILE, CARD_FILE)

# A large network in fp32 and int8 is half of it.
_MAX_BYTES: Final = 2**30
_MAX_FILES: Final = 64
# Weights hardly get smaller by compression. What does, much more than small files of text, is not unpacked.
_MAX_RATIO: Final = 20
_ANY_RATIO_BYTES: Final = 64 * 2**20

Probability = Annotated[float, Field(ge=0, le=1)]
Precision = Literal["fp32", "int8"]


class DataSummary(BaseModel):
    """What the model was trained on."""

    model_config = ConfigDict(frozen=True)

    fingerprint: str = Field(description="sha256 over the manifest's rows: ids, pictures, genres and splits.")
    seed: int = Field(description="Seed of the split.")
    posters: dict[str, int] = Field(description="Number of posters in each split.")
    genre_counts: dict[str, int] = Field(description="Number of training posters with each genre.")

    def frequencies(self, genres: Sequence[str]) -> NDArray[np.float64]:
        """Share of training posters with each of `genres`, 0-1."""
        return np.array([self.genre_counts[genre] for genre in genres]) / self.posters["train"]


class Calibration(BaseModel):
    """How logits become probabilities: sigmoid(scale * logit + shift), per genre, inside the graph."""

    model_config = ConfigDict(frozen=True)

    method: Literal["none", "platt"]
    scale: tuple[float, ...]
    shift: tuple[float, ...]


class BundleMetadata(BaseModel):
    """The content of `bundle.json`."""

    model_config = ConfigDict(frozen=True)

    schema_version: Literal[1]
    name: str = Field(min_length=1)
    version: str = Field(min_length=1)
    created: datetime
    git_commit: str | None
    architecture: str = Field(description="timm name of the backbone.")
    data: DataSummary
    genres: tuple[str, ...] = Field(min_length=1)
    preprocess: PreprocessSpec
    threshold_aim: str = Field("macro-F1", description="What the thresholds were chosen for.")
    thresholds: dict[str, Probability]
    calibration: Calibration
    metrics: dict[str, Any] = Field(description="By split; each figure with its number of posters.")
    files: dict[str, str] = Field(description="sha256 of every other file.")

    @model_validator(mode="after")
    def _is_consistent(self) -> BundleMetadata:
        if len(set(self.genres)) != len(self.genres):
            raise ValueError("genres repeat")
        if "train" not in self.data.posters or set(self.data.genre_counts) != set(self.genres):
            raise ValueError("data does not describe the training posters of every genre")
        if set(self.thresholds) != set(self.genres):
            raise ValueError("thresholds do not match the genres")
        if not len(self.genres) == len(self.calibration.scale) == len(self.calibration.shift):
            raise ValueError("calibration does not match the genres")
        if not 1 <= self.preprocess.reducing_gap < math.inf:
            raise ValueError("reducing_gap of preprocess is not a number from 1 on")
        missing = set(REQUIRED_FILES) - set(self.files)
        if missing:
            raise ValueError(f"files without a hash: {', '.join(sorted(missing))}")
        return self

    def summary(self) -> dict[str, Any]:
        """The model card as JSON: everything but the hashes."""
        return self.model_dump(mode="json", exclude={"files"})


@dataclass(frozen=True, slots=True)
class Bundle:
    """A verified bundle in memory.

    Attributes:
        metadata: The parsed `bundle.json`.
        files: Name to content, every file that `metadata.files` lists.
    """

    metadata: BundleMetadata
    files: Mapping[str, bytes]

    @property
    def model(self) -> bytes:
        """The ONNX graph."""
        return self.files[MODEL_FILE]

    def graph(self, precision: Precision) -> bytes:
        """The ONNX graph in a precision.

        Raises:
            BundleError: This bundle holds no int8 graph.
        """
        if precision == "fp32":
            return self.model
        if INT8_FILE not in self.files:
            raise BundleError(f"{self.metadata.name} {self.metadata.version} holds no {INT8_FILE}; use fp32")
        return self.files[INT8_FILE]


def load_bundle(ref: str | Path = STARTER) -> Bundle:
    """Read and verify a bundle.

    Args:
        ref: A folder, a `.tar.gz`, `starter`, an address such as `gs://bucket/folder` (needs the `gcs` extra), or of
            the registry that the settings name (needs the `registry` extra) `champion`, `challenger`, or
            `registry:` with the number of a version or another alias.

    Raises:
        BundleNotFoundError: Nothing is there.
        RegistryError: The registry cannot be used, or has no such version.
        BundleSchemaError: It was written for another version of onesheet.
        BundleCorruptError: A file is missing, or differs from its recorded hash.
    """
    if is_registered(str(ref)):
        from onesheet.registry import load_registered

        return load_registered(str(ref))
    files = _read_files(str(ref))
    if METADATA_FILE not in files:
        raise BundleNotFoundError(f"{ref} holds no {METADATA_FILE}")
    metadata = _parse_metadata(files[METADATA_FILE])
    listed: dict[str, bytes] = {}
    for name, expected in metadata.files.items():
        if name not in files:
            raise BundleCorruptError(f"{name} is missing from the bundle")
        if hashlib.sha256(files[name]).hexdigest() != expected:
            raise BundleCorruptError(f"{name} differs from the hash in {METADATA_FILE}; get the bundle again")
        listed[name] = files[name]
    return Bundle(metadata, listed)


def write_bundle(
    metadata: Mapping[str, Any],
    files: Mapping[str, bytes],
    out: Path,
    accept: Callable[[Bundle], None] | None = None,
) -> Bundle:
    """Write a bundle as the folder `out` and as `out` + `.tar.gz`; neither is ever there half-written.

    Args:
        metadata: The fields of `BundleMetadata` but `schema_version` and `files`, which are filled in here.
        files: Content of every other file, by name.
        out: Folder to create; an older bundle there is replaced.
        accept: Raises where the bundle does not work; then nothing is written.

    Returns:
        The bundle as `load_bundle` reads it back.

    Raises:
        BundleError: There is something else at `out`; or whatever `accept` raises.
    """
    hashes = {name: hashlib.sha256(content).hexdigest() for name, content in sorted(files.items())}
    document = BundleMetadata.model_validate(
        {**metadata, "schema_version": SCHEMA_VERSION, "files": hashes}
    ).model_dump_json(indent=2)
    contents = {METADATA_FILE: document.encode() + b"\n", **files}
    out.parent.mkdir(parents=True, exist_ok=True)
    if out.is_file() or (out.is_dir() and not (out / METADATA_FILE).is_file() and any(out.iterdir())):
        raise BundleError(f"{out} is in use and is no bundle; name another folder")
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}-") as scratch:
        folder, archive = Path(scratch, "bundle"), Path(scratch, "bundle.tar.gz")
        folder.mkdir()
        for name, content in contents.items():
            (folder / name).write_bytes(content)
        with tarfile.open(archive, "w:gz") as tar:
            tar.add(folder, arcname=out.name)
        bundle = load_bundle(folder)
        if accept is not None:
            accept(bundle)
        if out.exists():
            out.rename(Path(scratch, "replaced"))
        folder.rename(out)
        archive.replace(out.with_name(out.name + ".tar.gz"))
    return bundle


def _parse_metadata(document: bytes) -> BundleMetadata:
    try:
        fields = json.loads(document)
        version = fields["schema_version"]
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise BundleCorruptError(f"{METADATA_FILE} is not readable") from error
    if version != SCHEMA_VERSION:
        advice = "upgrade onesheet" if isinstance(version, int) and version > SCHEMA_VERSION else "export it again"
        raise BundleSchemaError(
            f"the bundle has schema {version!r}, this onesheet reads schema {SCHEMA_VERSION}: {advice}"
        )
    try:
        return BundleMetadata.model_validate(fields)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "content"
        raise BundleCorruptError(f"{METADATA_FILE}: {where}: {first['msg']}") from error


def _read_files(ref: str) -> dict[str, bytes]:
    if ref == STARTER:
        with resources.as_file(resources.files("onesheet") / "starter") as folder:
            return _read_folder(folder)
    if "://" in ref:
        return _read_remote(ref)
    path = Path(ref)
    try:
        if path.is_dir():
            return _read_folder(path)
        if path.is_file():
            with path.open("rb") as file:
                return _read_archive(path.name, file)
    except (OSError, ValueError) as error:
        raise BundleNotFoundError(f"cannot read {ref}: {getattr(error, 'strerror', None) or error}") from error
    raise BundleNotFoundError(f"no bundle at {ref}: name a folder, a .tar.gz or `starter`")


def _read_folder(folder: Path) -> dict[str, bytes]:
    paths = sorted(path for path in folder.iterdir() if path.is_file())
    _check_size(len(paths), sum(path.stat().st_size for path in paths))
    return {path.name: path.read_bytes() for path in paths}


def _read_archive(name: str, file: BinaryIO) -> dict[str, bytes]:
    files: dict[str, bytes] = {}
    total = 0
    try:
        with tarfile.open(fileobj=_BoundedGzip(file), mode="r:") as tar:
            for count, member in enumerate(tar, start=1):
                total += member.size
                _check_size(count, total)
                content = tar.extractfile(member) if member.isfile() else None
                if content:
                    files[Path(member.name).name] = content.read()
    except (tarfile.TarError, OSError, EOFError, ValueError, RecursionError, zlib.error) as error:
        raise BundleCorruptError(f"{name} is not a readable .tar.gz") from error
    return files


class _BoundedGzip(gzip.GzipFile):
    """Unpacks no more than a bundle may hold, and than its packed size makes likely: a few kilobytes can be terabytes.

    Args:
        packed: The archive; seekable.
    """

    def __init__(self, packed: BinaryIO) -> None:
        size = packed.seek(0, io.SEEK_END)
        packed.seek(0)
        self._likely = max(_ANY_RATIO_BYTES, _MAX_RATIO * size)
        super().__init__(fileobj=packed)

    def read(self, size: int | None = -1) -> bytes:
        if size is None or size < 0:
            raise tarfile.ReadError("a member of negative size")
        end = self.tell() + size
        _check_size(0, end)
        if end > self._likely:
            raise BundleError(
                f"too large for a bundle: the archive unpacks to more than {self._likely // 2**20} MiB, "
                f"{_MAX_RATIO} times its own size"
            )
        return super().read(size)


def _read_remote(ref: str) -> dict[str, bytes]:
    try:
        import fsspec

        filesystem, path = fsspec.url_to_fs(ref)
    except ImportError as error:
        raise MissingExtraError("bundles on gs:// need an extra: pip install 'onesheet[gcs]'") from error
    except ValueError as error:
        raise BundleNotFoundError(f"cannot read {ref}: {error}") from error
    try:
        found = filesystem.find(path, maxdepth=1, detail=True)
        _check_size(len(found), sum(int(entry["size"]) for entry in found.values()))
        contents = {str(name): bytes(filesystem.cat_file(name, end=entry["size"])) for name, entry in found.items()}
    except BundleError:
        raise
    except Exception as error:  # each file system has errors of its own
        raise BundleNotFoundError(f"cannot read {ref}: {error}") from error
    if len(contents) == 1 and path.endswith(".tar.gz"):
        return _read_archive(path.rsplit("/", 1)[-1], io.BytesIO(*contents.values()))
    return {name.rsplit("/", 1)[-1]: content for name, content in contents.items()}


def _check_size(files: int, total_bytes: int) -> None:
    if files > _MAX_FILES or total_bytes > _MAX_BYTES:
        raise BundleError(f"too large for a bundle: more than {_MAX_FILES} files or {_MAX_BYTES // 2**20} MiB")
