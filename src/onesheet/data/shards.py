"""Shards: the films of a manifest as tar files that training streams, for sets that outgrow a disk.

The format is WebDataset's: plain tar files, in which each film is two members, its encoded picture and a JSON file with
its genres and the picture's hash. Beside them lies an index, without which nothing here reads a shard.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from tarfile import RECORDSIZE
from typing import Final

from webdataset import TarWriter

from onesheet.data.manifest import Entry, Manifest
from onesheet.data.shard_store import Shard, ShardStore, open_store
from onesheet.data.split import SPLITS
from onesheet.errors import DataError, ImageError
from onesheet.image import read_bytes

INDEX_FILE: Final = "index.json"
SHARD_BYTES: Final = 100_000_000
"""A request for each shard is then little beside its transfer, and a shard that was not finished little to lose."""

_FORMAT: Final = 1
_TAR_BLOCK: Final = 512
# Two empty blocks, and what fills up the last record.
_TAR_END: Final = 2 * _TAR_BLOCK + RECORDSIZE
# WebDataset takes what follows the first dot for the kind of a member, and tar has room for 100 letters.
_MEMBER: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,79}")

OnFilm = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class ShardIndex:
    """What lies beside shards.

    Attributes:
        fingerprint: Of the manifest.
        genres: Every genre, in the manifest's order.
        seed: Of the order in which films were dealt; the manifest's.
        shard_bytes: Size that shards were filled up to.
        complete: All shards are written.
        splits: The shards of `train`, `validation` and `test`, in order.
    """

    fingerprint: str
    genres: tuple[str, ...]
    seed: int
    shard_bytes: int
    complete: bool
    splits: dict[str, tuple[Shard, ...]]

    def to_json(self) -> str:
        """As it lies there."""
        return json.dumps({"format": _FORMAT, **asdict(self)}, indent=1) + "\n"

    @classmethod
    def from_json(cls, content: bytes, address: str) -> ShardIndex:
        """Read what `to_json` has made.

        Raises:
            DataError: It is no index, or one of another version.
        """
        try:
            values = json.loads(content)
            version = values.pop("format")
            if version == _FORMAT:
                splits = {
                    split: tuple(Shard(**shard) for shard in shards) for split, shards in values["splits"].items()
                }
                return cls(**{**values, "genres": tuple(values["genres"]), "splits": splits})
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise DataError(f"{address}/{INDEX_FILE} is no index of shards") from error
        raise DataError(f"{address} holds shards of another version of onesheet: write them to another place")


def read_index(store: ShardStore, manifest: Manifest) -> ShardIndex:
    """The index of shards that hold a manifest's films.

    Raises:
        DataError: There is none, or it is damaged, unfinished, or of another manifest.
    """
    content = store.read(INDEX_FILE)
    if content is None:
        raise DataError(f"no shards at {store}: write them with `onesheet data shard`")
    index = ShardIndex.from_json(content, str(store))
    if index.fingerprint != manifest.fingerprint:
        raise DataError(f"{store} holds shards of another manifest: write this one's to another place")
    if not index.complete:
        raise DataError(f"the shards at {store} are unfinished: run `onesheet data shard` again to go on")
    return index


def write_shards(
    manifest: Manifest, address: str, shard_bytes: int = SHARD_BYTES, on_film: OnFilm | None = None
) -> ShardIndex:
    """Write the films of a manifest, all splits, as shards.

    What is written is a pure function of the manifest and the size: films are dealt in the order of a hash of seed and
    id, which is random, and the same in every version of every library. Hence whatever ends it, the next call keeps the
    shards that are there as the index tells, writes the others, and ends with the same bytes.

    Args:
        manifest: The films; their pictures are read from where it says.
        address: A folder, or gs://BUCKET/PREFIX. Of a bucket's shards one at a time lies on this disk.
        shard_bytes: A shard ends before the film that would make it larger.
        on_film: Called with (done, total).

    Raises:
        DataError: There are no films, something else is there, a picture is not as the manifest says, or a film's id
            cannot name a file.
        MissingExtraError: Google's client is not installed.
        TransferError: The bucket refuses.
    """
    total = sum(count for split, count in manifest.counts().items() if split in SPLITS)
    if not total:
        raise DataError("the manifest has no posters in any split: run `onesheet data prepare` again")
    store = open_store(address)
    found = _found(store, manifest, shard_bytes)
    written = {shard.name: shard for shards in (found.splits if found else {}).values() for shard in shards}
    done = 0

    with store.scratch() as scratch:

        def save(*, complete: bool) -> ShardIndex:
            names = {split: sorted(name for name in written if name.startswith(f"{split}/")) for split in SPLITS}
            splits = {split: tuple(written[name] for name in names[split]) for split in SPLITS}
            index = ShardIndex(manifest.fingerprint, manifest.genres, manifest.seed, shard_bytes, complete, splits)
            file = scratch / f"{INDEX_FILE}.partial"
            file.write_text(index.to_json())
            store.put(file, INDEX_FILE)
            return index

        if not found:
            save(complete=False)  # whoever finds a shard here from now on knows whose it is
        for split in SPLITS:
            films = _dealt(manifest.split(split))
            number = 0
            while films:
                name = f"{split}/{number:06d}.tar"
                if name not in written or not store.holds(written[name]):
                    file = scratch / f"{name}.partial"
                    written[name] = _write_shard(file, name, manifest, films, shard_bytes)
                    store.put(file, name)
                    save(complete=False)
                films = films[written[name].samples :]
                done, number = done + written[name].samples, number + 1
                if on_film:
                    on_film(done, total)
        return save(complete=True)


def _found(store: ShardStore, manifest: Manifest, shard_bytes: int) -> ShardIndex | None:
    """The index to go on with.

    Raises:
        DataError: What is there is not what would be written.
    """
    content = store.read(INDEX_FILE)
    if content is None:
        if not store.empty():
            raise DataError(f"{store} holds something, and no index of shards: name another place")
        return None
    index = ShardIndex.from_json(content, str(store))
    if (index.fingerprint, index.seed) != (manifest.fingerprint, manifest.seed):
        raise DataError(f"{store} holds shards of another manifest: name another place")
    if index.shard_bytes != shard_bytes:
        raise DataError(f"{store} holds shards of {index.shard_bytes / 1e6:g} MB: say so, or name another place")
    return index


def _dealt(films: Manifest) -> Sequence[Entry]:
    return sorted(films.entries, key=lambda entry: hashlib.sha256(f"{films.seed} {entry.id}".encode()).digest())


def _write_shard(file: Path, name: str, manifest: Manifest, films: Sequence[Entry], limit: int) -> Shard:
    """Fill a shard with the first of some films."""
    file.parent.mkdir(parents=True, exist_ok=True)
    samples, size = 0, _TAR_END
    # Without times, and without encoding: the same films always give the same bytes.
    with file.open("wb") as stream, TarWriter(stream, encoder=False, mtime=0) as tar:
        for entry in films:
            sample = _sample(manifest, entry)
            size += sum(_in_tar(content) for content in sample.values())
            if samples and size > limit:
                break
            tar.write({"__key__": entry.id, **sample})
            samples += 1
    with file.open("rb") as written:
        return Shard(name, samples, file.stat().st_size, hashlib.file_digest(written, "sha256").hexdigest())


def _sample(manifest: Manifest, entry: Entry) -> dict[str, bytes]:
    """The members of a film, by kind."""
    if not _MEMBER.fullmatch(entry.id):
        raise DataError(f"the film id {entry.id!r} cannot be a name in a shard: letters, digits, - and _ can")
    try:
        picture = read_bytes(manifest.picture(entry))
    except ImageError as error:
        raise DataError(f"{entry.path}: {error.message}: run `onesheet data prepare` again") from error
    if hashlib.sha256(picture).hexdigest() != entry.sha256:
        raise DataError(f"{entry.path} is not what it was: run `onesheet data prepare` again")
    about = json.dumps({"genres": entry.genres, "sha256": entry.sha256})
    return {Path(entry.path).suffix.removeprefix(".").lower(): picture, "json": about.encode()}


def _in_tar(content: bytes) -> int:
    """Bytes that a member takes: a header, and whole blocks."""
    return _TAR_BLOCK + -(-len(content) // _TAR_BLOCK) * _TAR_BLOCK
