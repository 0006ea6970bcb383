"""Shards: what is in them, how writing goes on after any end, and that streams show every film once."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import sys
import tarfile
from collections.abc import Callable, Iterator
from itertools import product
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
import webdataset
from typer.testing import CliRunner

from onesheet.cli import app
from onesheet.data import shard_store, shard_stream
from onesheet.data.manifest import MANIFEST_FILE, Manifest
from onesheet.data.prepare import prepare
from onesheet.data.shard_store import Shard, open_store
from onesheet.data.shard_stream import ShardStream, Share, StreamSampler
from onesheet.data.shards import INDEX_FILE, read_index, write_shards
from onesheet.data.split import SPLITS
from onesheet.errors import DataError
from onesheet.image import PreprocessSpec
from tests.processes import run_command

if TYPE_CHECKING:
    from gcp_storage_emulator.server import Server

SHARD_BYTES = 34_000
SPEC = PreprocessSpec(24, 16)
BUCKET = "gs://posters/some/shards"


@pytest.fixture
def manifest(make_source: Callable[..., Path], tmp_path: Path) -> Manifest:
    """77 films of training, 10 of validation, 10 for the test; 10 or so to a shard."""
    return prepare(make_source(films=97), tmp_path / "processed")


@pytest.fixture
def written(manifest: Manifest, tmp_path: Path) -> Path:
    write_shards(manifest, str(tmp_path / "shards"), SHARD_BYTES)
    return tmp_path / "shards"


def tree(folder: Path) -> dict[str, tuple[bytes, int]]:
    """Name to content and time of change."""
    files = (path for path in sorted(folder.rglob("*")) if path.is_file() and path.name != ".lock")
    return {path.relative_to(folder).as_posix(): (path.read_bytes(), path.stat().st_mtime_ns) for path in files}


def contents(folder: Path) -> dict[str, bytes]:
    return {name: content for name, (content, _) in tree(folder).items()}


def test_a_manifest_without_films_makes_no_shards(manifest: Manifest, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no posters in any split"):
        write_shards(dataclasses.replace(manifest, entries=()), str(tmp_path / "none"))
    assert not (tmp_path / "none").exists()


def test_what_went_in_comes_out(manifest: Manifest, written: Path) -> None:
    index = read_index(open_store(str(written)), manifest)
    assert set(contents(written)) == {INDEX_FILE, *(shard.name for part in index.splits.values() for shard in part)}
    for split in SPLITS:
        seen = []
        for number, shard in enumerate(index.splits[split]):
            content = (written / shard.name).read_bytes()
            assert shard.name == f"{split}/{number:06d}.tar"
            assert (len(content), hashlib.sha256(content).hexdigest()) == (shard.bytes, shard.sha256)
            assert SHARD_BYTES * 0.6 < shard.bytes <= SHARD_BYTES or shard == index.splits[split][-1]
            with tarfile.open(written / shard.name) as tar:
                names = tar.getnames()
                for film in (name.removesuffix(".json") for name in names if name.endswith(".json")):
                    entry = next(entry for entry in manifest.split(split).entries if entry.id == film)
                    assert tar.extractfile(f"{film}.jpg").read() == manifest.picture(entry).read_bytes()
                    about = json.load(tar.extractfile(f"{film}.json"))
                    assert about == {"genres": list(entry.genres), "sha256": entry.sha256}
                    seen.append(film)
            assert len(names) == 2 * shard.samples
        films = [entry.id for entry in manifest.split(split).entries]
        assert sorted(seen) == films
        assert seen != films
    assert len(index.splits["train"]) > 4


@pytest.mark.filterwarnings("ignore::ResourceWarning")  # WebDataset leaves the files open that it opens
def test_webdataset_itself_reads_them(manifest: Manifest, written: Path) -> None:
    files = sorted(str(path) for path in written.glob("train/*.tar"))
    films = list(webdataset.WebDataset(files, shardshuffle=False).decode("rgb8"))
    assert len(films) == manifest.counts()["train"]
    assert all(film["jpg"].shape == (24, 16, 3) and film["json"]["genres"] for film in films)


def test_the_same_manifest_gives_the_same_bytes(manifest: Manifest, written: Path, tmp_path: Path) -> None:
    write_shards(manifest, str(tmp_path / "again"), SHARD_BYTES)
    assert contents(tmp_path / "again") == contents(written)


@pytest.mark.skipif(sys.platform == "win32", reason="has no SIGKILL")
def test_goes_on_after_a_kill(manifest: Manifest, written: Path, tmp_path: Path) -> None:
    """Killed (-9) in the middle of the fourth shard: the three before it stay, and the end is the same."""
    script = """
import os, signal, sys
from pathlib import Path
from onesheet.data import shards
from onesheet.data.manifest import read_manifest

pictures = int(sys.argv[4])
read = shards.read_bytes

def dying(path):
    global pictures
    pictures -= 1
    if not pictures:
        os.kill(os.getpid(), signal.SIGKILL)
    return read(path)

shards.read_bytes = dying
shards.write_shards(read_manifest(Path(sys.argv[1]), Path(sys.argv[2])), sys.argv[3], int(sys.argv[5]))
"""
    index = read_index(open_store(str(written)), manifest)
    pictures = sum(shard.samples + 1 for shard in index.splits["train"][:3]) + 2
    out = tmp_path / "killed"
    arguments = [tmp_path / "processed" / MANIFEST_FILE, manifest.root, out, pictures, SHARD_BYTES]
    done = run_command([sys.executable, "-c", script, *arguments])
    assert done.returncode == -9
    left = tree(out)
    kept = {f"train/{number:06d}.tar" for number in range(3)}
    assert set(left) == {INDEX_FILE, "train/000003.tar.partial", *kept}
    with pytest.raises(DataError, match="unfinished: run `onesheet data shard` again"):
        read_index(open_store(str(out)), manifest)

    counts = []
    write_shards(manifest, str(out), SHARD_BYTES, lambda *count: counts.append(count))
    assert contents(out) == contents(written)
    assert {name: left[name] for name in kept} == {name: tree(out)[name] for name in kept}
    assert counts[-1] == (97, 97)


def test_only_what_is_damaged_is_written_again(manifest: Manifest, written: Path) -> None:
    before = tree(written)
    damaged = written / "train/000001.tar"
    damaged.write_bytes(bytes([damaged.read_bytes()[0] ^ 1]) + damaged.read_bytes()[1:])
    (written / "test/000000.tar").unlink()
    write_shards(manifest, str(written), SHARD_BYTES)
    after = tree(written)
    assert {name: content for name, (content, _) in after.items()} == {
        name: content for name, (content, _) in before.items()
    }
    changed = {name for name in before if before[name] != after[name]}
    assert changed == {INDEX_FILE, "train/000001.tar", "test/000000.tar"}


@pytest.mark.parametrize("kind", ["manifest", "seed", "size", "foreign", "index", "version"])
def test_what_is_of_others_is_not_overwritten(manifest: Manifest, written: Path, kind: str) -> None:
    size, reason = SHARD_BYTES, "another manifest"
    if kind == "manifest":
        manifest = dataclasses.replace(manifest, entries=manifest.entries[1:])
    elif kind == "seed":
        manifest = dataclasses.replace(manifest, seed=8)
    elif kind == "size":
        size, reason = 2 * SHARD_BYTES, r"shards of 0\.034 MB"
    elif kind == "foreign":
        (written / INDEX_FILE).unlink()
        reason = "holds something"
    elif kind == "index":
        (written / INDEX_FILE).write_text('{"format": 1}')
        reason = "no index of shards"
    else:
        (written / INDEX_FILE).write_text('{"format": 2}')
        reason = "another version"
    before = tree(written)
    with pytest.raises(DataError, match=reason):
        write_shards(manifest, str(written), size)
    assert tree(written) == before


def test_two_at_once_do_not_mix(manifest: Manifest, tmp_path: Path) -> None:
    with (
        open_store(str(tmp_path / "shards")).scratch(),
        pytest.raises(DataError, match="another process is writing"),
    ):
        write_shards(manifest, str(tmp_path / "shards"), SHARD_BYTES)


@pytest.mark.parametrize(("kind", "reason"), [("changed", "not what it was"), ("gone", "no such file")])
def test_a_picture_that_has_changed_is_not_packed(manifest: Manifest, tmp_path: Path, kind: str, reason: str) -> None:
    picture = manifest.picture(manifest.split("train").entries[5])
    if kind == "gone":
        picture.unlink()
    else:
        picture.write_bytes(picture.read_bytes() + b"!")
    with pytest.raises(DataError, match=f"{picture.name}.*{reason}.*onesheet data prepare"):
        write_shards(manifest, str(tmp_path / "shards"), SHARD_BYTES)


def test_an_id_that_readers_would_take_apart_is_refused(manifest: Manifest, tmp_path: Path) -> None:
    first = dataclasses.replace(manifest.entries[0], id="tt1.2")
    manifest = dataclasses.replace(manifest, entries=(first, *manifest.entries[1:]))
    with pytest.raises(DataError, match=r"'tt1\.2' cannot be a name in a shard"):
        write_shards(manifest, str(tmp_path / "shards"), SHARD_BYTES)


def test_the_command(manifest: Manifest, tmp_path: Path) -> None:
    folders = ["--raw", str(manifest.root), "--processed", str(tmp_path / "processed")]
    done = CliRunner().invoke(app, ["data", "shard", "--out", str(tmp_path / "out"), "--shard-size", "1", *folders])
    assert done.exit_code == 0, done.output
    counts = manifest.counts()
    lines = done.stdout.splitlines()
    assert [line.partition(": ")[2].partition(",")[0] for line in lines] == [
        f"{counts[split]} films in 1 shards" for split in SPLITS
    ]
    assert read_index(open_store(str(tmp_path / "out")), manifest).shard_bytes == 1_000_000


# ------------------------------------------------------------------------------------------------ streams


@pytest.fixture
def rows(written: Path, manifest: Manifest, monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[list[int]]]:
    """`rows(split, epochs=…, …)`: the batches of an epoch, as rows of the split, as torch's loader would bring them.

    With `workers` they come from so many copies of the stream, in turns; the copies live on from epoch to epoch.
    """
    index = read_index(open_store(str(written)), manifest)

    def read(split: str, *, epochs: tuple[int, ...] = (0,), workers: int = 1, **share) -> list[list[int]]:
        films = manifest.split(split)
        number_of = np.arange(len(films.entries), dtype=np.float32)[:, None]
        part = Share(index.splits[split], **{"batch_size": 4, "shuffle": split == "train", **share})
        streams = [ShardStream(open_store(str(written)), part, films, SPEC, number_of) for _ in range(workers)]
        sampler, batches = StreamSampler(len(part.batches())), []
        for epoch in epochs:
            sampler.set_epoch(epoch)
            for turn, step in enumerate(sampler):
                worker = SimpleNamespace(id=turn % workers, num_workers=workers)
                monkeypatch.setattr(shard_stream, "get_worker_info", lambda worker=worker: worker)
                images, targets = streams[turn % workers][step]
                assert (len(images), images.dtype, images.shape[1:]) == (len(targets), torch.uint8, (24, 16, 3))
                for image, row in zip(images, targets[:, 0].int().tolist(), strict=True):
                    expected = manifest.load(films.entries[row], SPEC).pixels
                    assert np.array_equal(image, expected)
                batches.append(targets[:, 0].int().tolist())
        return batches

    return read


def flat(batches: list[list[int]]) -> list[int]:
    return [row for batch in batches for row in batch]


@pytest.mark.parametrize("shuffle", [True, False])
def test_however_films_fall_no_two_workers_have_one_and_processes_keep_step(shuffle) -> None:
    """Shards of many sizes, between as many processes and workers as may be: by plan, without reading."""
    for sizes, batch_size, world, workers in product([(1,), (7, 1, 4), (30, 2)], (1, 3, 40), (1, 2, 3, 5), (1, 2, 4)):
        row = [Shard(f"{number}", size, 0, "") for number, size in enumerate(sizes)]
        shares = [Share(tuple(row), batch_size, rank, world, shuffle) for rank in range(world)]
        films = [
            (shard.name, film)
            for share in shares
            for worker in range(workers)
            for shard, first, last in share.films(5, worker, workers)
            for film in range(first, last)
        ]
        batches = [share.batches() for share in shares]
        assert len(set(films)) == len(films) == sum(map(sum, batches))
        if shuffle:
            assert all(other == batches[0] for other in batches)
            assert len(films) > sum(sizes) - world - world * batch_size
        else:
            assert len(films) == sum(sizes)


@pytest.mark.parametrize("buffer", [1, 5, 1000])
def test_three_processes_with_two_workers_see_each_film_once(rows, manifest, monkeypatch, buffer) -> None:
    monkeypatch.setattr(shard_stream, "_SHUFFLED", buffer)
    films = manifest.counts()["train"]
    for epoch in range(3):
        shares = [rows("train", epochs=(epoch,), rank=rank, world=3, workers=2) for rank in range(3)]
        assert {tuple(map(len, share)) for share in shares} == {(4,) * (films // 3 // 4)}
        seen = [row for share in shares for row in flat(share)]
        assert len(set(seen)) == len(seen) == films // 3 // 4 * 4 * 3


@pytest.mark.parametrize("workers", [1, 2, 3])
@pytest.mark.parametrize("world", [1, 3, 4])
def test_validation_shows_each_film_once(rows, manifest, world, workers) -> None:
    shares = [rows("validation", rank=rank, world=world, workers=workers, epochs=(0,)) for rank in range(world)]
    assert sorted(row for share in shares for row in flat(share)) == list(range(manifest.counts()["validation"]))


def test_validation_is_in_the_order_of_the_shards(rows, written, manifest) -> None:
    films = []
    for path in sorted(written.glob("validation/*.tar")):
        with tarfile.open(path) as tar:
            films += [Path(name).stem for name in tar.getnames() if name.endswith(".jpg")]
    known = [entry.id for entry in manifest.split("validation").entries]
    assert [known[row] for row in flat(rows("validation", epochs=(0,)))] == films
    assert rows("validation", epochs=(0,)) == rows("validation", epochs=(7,))


def test_every_epoch_has_an_order_of_its_own_which_the_seed_decides(rows) -> None:
    orders = [flat(rows("train", epochs=(epoch,), seed=3)) for epoch in (0, 1, 2)]
    assert len({tuple(order) for order in orders}) == 3
    assert orders[2] == flat(rows("train", epochs=(2,), seed=3))  # also where it is the first of a resumed run
    assert flat(orders) == flat(rows("train", epochs=(0, 1, 2), seed=3))
    assert orders[0] != flat(rows("train", epochs=(0,), seed=4))
    with_workers = [flat(rows("train", epochs=epochs, seed=3, workers=2)) for epochs in ((0, 1), (0,), (1,))]
    assert with_workers[0] == with_workers[1] + with_workers[2]


def test_films_are_mixed_across_shards(rows, written, manifest) -> None:
    """A batch is of several shards, not only the shards in another order."""
    index = read_index(open_store(str(written)), manifest)
    shard_of = {}
    for shard in index.splits["train"]:
        with tarfile.open(written / shard.name) as tar:
            shard_of |= {Path(name).stem: shard.name for name in tar.getnames()}
    known = [entry.id for entry in manifest.split("train").entries]
    origins = [{shard_of[known[row]] for row in batch} for batch in rows("train", epochs=(0,), batch_size=8)]
    assert np.mean([len(origin) for origin in origins]) > 3


def test_other_films_are_left_over_in_each_epoch(manifest, tmp_path) -> None:
    """Also with a single shard."""
    index = write_shards(manifest, str(tmp_path / "one"), 10**9)
    assert len(index.splits["train"]) == 1
    total = index.splits["train"][0].samples
    missing = []
    for epoch in range(6):
        seen = set()
        for rank in range(3):
            share = Share(index.splits["train"], 16, rank, 3, shuffle=True)
            for _, first, last in share.films(epoch, 0, 1):
                seen |= set(range(first, last))
        assert len(seen) == 48
        missing.append(frozenset(range(total)) - seen)
    assert len(set(missing)) == 6


def test_a_split_smaller_than_a_batch_is_not_left_out(rows, manifest) -> None:
    assert len(flat(rows("train", batch_size=500))) == manifest.counts()["train"]


def test_more_processes_and_workers_than_films(rows, manifest) -> None:
    shares = [flat(rows("validation", rank=rank, world=16, workers=3)) for rank in range(16)]
    assert sorted(row for share in shares for row in share) == list(range(manifest.counts()["validation"]))


def broken(folder: Path, kind: str) -> None:
    shard = folder / "train/000002.tar"
    content = shard.read_bytes()
    with tarfile.open(shard) as tar:
        members = tar.getmembers()
    picture = members[4]
    cuts = {
        "in a picture": picture.offset_data + picture.size // 2,
        "in a header": picture.offset + 100,
        "between films": picture.offset,
        "between a film's members": members[5].offset,
        "at the end of the last film": members[-1].offset,
        "to nothing": 0,
    }
    if kind in cuts:
        shard.write_bytes(content[: cuts[kind]])
    elif kind == "a bit":
        at = picture.offset_data + picture.size // 2
        shard.write_bytes(content[:at] + bytes([content[at] ^ 4]) + content[at + 1 :])
    elif kind == "a header":
        shard.write_bytes(content[: picture.offset] + b"?" * 512 + content[picture.offset + 512 :])
    elif kind == "no tar":
        shard.write_bytes(b"no tar" * 5000)
    elif kind == "a film twice":
        shard.write_bytes(content[: members[2].offset] + content[: members[2].offset] + content[members[2].offset :])
    else:
        shard.unlink()


@pytest.mark.parametrize(
    "kind",
    [
        "in a picture",
        "in a header",
        "between films",
        "between a film's members",
        "to nothing",
        "a bit",
        "a header",
        "no tar",
        "a film twice",
        "missing",
    ],
)
def test_a_broken_shard_is_told_in_one_line(rows, written, kind) -> None:
    broken(written, kind)
    with pytest.raises(DataError, match=r"train/000002\.tar.*run `onesheet data shard` again") as error:
        rows("train")
    assert "\n" not in error.value.message


def test_a_picture_that_cannot_be_decoded_is_told_in_one_line(rows, manifest, written, tmp_path) -> None:
    """It was so before: its hash is right."""
    film = manifest.split("train").entries[3]
    manifest.picture(film).write_bytes(b"no picture")
    sha256 = hashlib.sha256(b"no picture").hexdigest()
    entries = tuple(dataclasses.replace(e, sha256=sha256) if e is film else e for e in manifest.entries)
    other = dataclasses.replace(manifest, entries=entries)
    index = write_shards(other, str(tmp_path / "other"), SHARD_BYTES)
    stream = ShardStream(
        open_store(str(tmp_path / "other")), Share(index.splits["train"], 500), other.split("train"), SPEC
    )
    with pytest.raises(DataError, match=rf"train/0000\d\d\.tar, film {film.id}: the file is not a JPEG"):
        stream[0, 0]


def test_no_shards_and_those_of_others_are_told(manifest: Manifest, written: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no shards at .*onesheet data shard"):
        read_index(open_store(str(tmp_path / "nowhere")), manifest)
    other = dataclasses.replace(manifest, entries=manifest.entries[1:])
    with pytest.raises(DataError, match="shards of another manifest"):
        read_index(open_store(str(written)), other)


# ------------------------------------------------------------------------------------------------- bucket


def test_a_bucket_has_the_same_shards(
    emulator: Server, manifest: Manifest, written: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Written, gone on with, refused and streamed as a folder is."""
    from onesheet.cloud.transfer import download

    sent: list[str] = []
    upload = shard_store.upload

    def failing(file: Path, address: str) -> None:
        sent.append(address.removeprefix(f"{BUCKET}/"))
        if len(sent) == 6:
            raise ConnectionAbortedError
        upload(file, address)

    monkeypatch.setattr(shard_store, "upload", failing)
    with pytest.raises(ConnectionAbortedError):
        write_shards(manifest, BUCKET, SHARD_BYTES)
    assert sent == [INDEX_FILE, "train/000000.tar", INDEX_FILE, "train/000001.tar", INDEX_FILE, "train/000002.tar"]
    write_shards(manifest, f"{BUCKET}/", SHARD_BYTES)
    assert "train/000001.tar" not in sent[6:]
    assert sent[6] == "train/000002.tar"
    download(BUCKET, tmp_path / "down")
    assert contents(tmp_path / "down") == contents(written)

    with pytest.raises(DataError, match="another manifest"):
        write_shards(dataclasses.replace(manifest, entries=manifest.entries[1:]), BUCKET, SHARD_BYTES)
    with pytest.raises(DataError, match="holds something"):
        write_shards(manifest, "gs://posters/some", SHARD_BYTES)
    with pytest.raises(DataError, match="no shards at gs://posters/none"):
        read_index(open_store("gs://posters/none"), manifest)


def test_a_bucket_is_streamed_in_pieces(
    emulator: Server, manifest: Manifest, written: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from google.cloud.storage import Blob, Client

    from onesheet.cloud.transfer import upload

    upload(written, BUCKET)
    pieces: list[int] = []
    fetch = Blob.download_as_bytes

    def counting(blob, **options) -> bytes:
        content = fetch(blob, **options)
        pieces.append(len(content))
        return content

    monkeypatch.setattr(Blob, "download_as_bytes", counting)
    monkeypatch.setattr(shard_store, "_CHUNK_BYTES", 4096)

    def batches(address: str) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        store, films = open_store(address), manifest.split("train")
        share = Share(read_index(store, manifest).splits["train"], 7, shuffle=True)
        stream = ShardStream(store, share, films, SPEC)
        return (stream[2, number] for number in range(len(share.batches())))

    for one, other in zip(batches(str(written)), batches(BUCKET), strict=True):
        assert torch.equal(one[0], other[0])
        assert torch.equal(one[1], other[1])
    index, *streamed = pieces
    assert index == (written / INDEX_FILE).stat().st_size
    assert max(streamed) < 12_000  # tar asks for its records of 10 KiB
    assert len(streamed) > 10

    client = Client(project=None)
    client.bucket("posters").blob("some/shards/train/000003.tar").delete()
    client.close()
    with pytest.raises(DataError, match=r"train/000003\.tar is not there: run `onesheet data shard` again"):
        list(batches(BUCKET))
