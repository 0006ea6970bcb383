"""Raw posters to a manifest: look at every picture, set the bad ones aside, split the good ones."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import imagehash
import numpy as np

from onesheet.data.kept_splits import read_kept_splits, write_kept_splits
from onesheet.data.labels import IMAGES_FOLDER, LABELS_FILE, Labels, read_labels
from onesheet.data.manifest import MANIFEST_FILE, Entry, Manifest, write_manifest
from onesheet.data.posters import SUFFIX_RULE, PosterFolder, name_some
from onesheet.data.split import SPLITS, group_near_identical, stratified_split
from onesheet.errors import DataError, ImageError
from onesheet.image import decode, read_bytes, to_rgb
from onesheet.predictor import map_batches, usable_cores

DEFAULT_SEED = 42


def prepare(
    raw: Path,
    out: Path,
    seed: int = DEFAULT_SEED,
    on_poster: Callable[[int, int], None] | None = None,
    keep_splits: Path | None = None,
    *,
    allow_missing: bool = False,
) -> Manifest:
    """Build the manifest of a folder of raw posters; a pure function of the data, the seed and the splits kept.

    Args:
        raw: Folder with `train.csv` and `Images/`; never changed.
        out: Folder for `manifest.parquet`.
        seed: Of the split.
        on_poster: Called with (done, total) as posters are inspected.
        keep_splits: File of the films that are in a split already and stay there; new films are added to it.
        allow_missing: Go on where more than half of the labelled films have no poster that can be read.

    Raises:
        DataError: The labels cannot be read, no poster is usable, or most are missing or damaged.
    """
    labels = read_labels(raw / LABELS_FILE)
    kept = read_kept_splits(keep_splits) if keep_splits else {}
    entries = _inspect_all(raw, labels, on_poster)
    if not allow_missing:
        _check_most_are_read(entries, raw / IMAGES_FOLDER)
    entries = _assign_splits(entries, labels.genres, seed, kept)
    manifest = Manifest(tuple(entries), labels.genres, seed, raw)
    write_manifest(manifest, out / MANIFEST_FILE)
    if keep_splits:
        write_kept_splits(keep_splits, kept | {entry.id: entry.split for entry in entries if entry.split})
    return manifest


def _inspect_all(raw: Path, labels: Labels, on_poster: Callable[[int, int], None] | None) -> list[Entry]:
    films = sorted(labels.by_id)
    posters = PosterFolder(raw / IMAGES_FOLDER)
    entries: list[Entry] = []
    for entry in map_batches(
        lambda batch: [_inspect(raw, posters, film, labels) for film in batch], films, usable_cores()
    ):
        entries.append(entry)
        if on_poster:
            on_poster(len(entries), len(films))
    return entries


def _inspect(raw: Path, posters: PosterFolder, film: str, labels: Labels) -> Entry:
    """Decode a poster completely and note its facts, or why it cannot be used."""
    path = posters.find(film)
    problems = ["rows disagree on the genres; united"] if film in labels.conflicts else []
    problems += [f"{other} has the same id; not used" for other in posters.others(film)]
    entry = Entry(
        id=film,
        path=path.relative_to(raw).as_posix(),
        genres=labels.by_id[film],
        split=None,
        group=None,
        sha256=None,
        phash=None,
        width=None,
        height=None,
        mode=None,
        problems=(*problems, "no genre") if not labels.by_id[film] else tuple(problems),
    )
    try:
        data = read_bytes(path)
        entry = replace(entry, sha256=hashlib.sha256(data).hexdigest())
        image = decode(data)
    except ImageError as error:
        return replace(entry, problems=(*entry.problems, f"{error.code}: {error.message}"))
    return replace(
        entry,
        phash=str(imagehash.phash(to_rgb(image))),
        width=image.width,
        height=image.height,
        mode=image.mode,
    )


def _check_most_are_read(entries: list[Entry], images: Path) -> None:
    unread = [entry for entry in entries if entry.phash is None]
    if 2 * len(unread) > len(entries):
        example = unread[0]
        raise DataError(
            f"{len(unread):,} of {len(entries):,} labelled films have no poster in {images} that can be read "
            f"({name_some([entry.id for entry in unread])}; of the first, {example.problems[-1]}): {SUFFIX_RULE}; "
            "--allow-missing goes on without them"
        )


def _assign_splits(entries: list[Entry], genres: tuple[str, ...], seed: int, kept: Mapping[str, str]) -> list[Entry]:
    usable = [entry for entry in entries if entry.phash is not None and entry.genres]
    if not usable:
        raise DataError("no poster is usable: every one is unreadable or without a genre")
    hashes = np.array([int(entry.phash or "", 16) for entry in usable], dtype=np.uint64)
    groups = group_near_identical(hashes)
    targets = np.array([[genre in entry.genres for genre in genres] for entry in usable])
    stays = np.array([SPLITS.index(kept[entry.id]) if entry.id in kept else -1 for entry in usable])
    splits = stratified_split(targets, groups, seed, kept=stays)
    assigned = {
        entry.id: replace(
            entry,
            split=SPLITS[split],
            group=usable[group].id,
            problems=entry.problems if usable[group] is entry else (*entry.problems, _near(usable[group])),
        )
        for entry, split, group in zip(usable, splits, groups, strict=True)
    }
    return [assigned.get(entry.id, entry) for entry in entries]


def _near(original: Entry) -> str:
    return f"near-identical to {original.id}; kept on the same side"
