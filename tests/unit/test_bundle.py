"""A bundle is read whole and true from wherever it lies, or refused in one sentence; nothing of it is ever run."""

from __future__ import annotations

import contextlib
import gzip
import json
import os
import shutil
import sys
import tarfile
import tracemalloc
from pathlib import Path
from typing import TYPE_CHECKING, Any

import fsspec
import pytest
from fsspec.registry import _registry as loaded_file_systems
from pydantic import ValidationError

from onesheet import bundle as bundle_module
from onesheet.bundle import Bundle, load_bundle, write_bundle
from onesheet.errors import (
    BundleCorruptError,
    BundleError,
    BundleNotFoundError,
    BundleSchemaError,
    MissingExtraError,
)
from onesheet.refs import STARTER
from tests.processes import run_command

if TYPE_CHECKING:
    from collections.abc import Callable

FILES = {"MODEL_CARD.md", "model.onnx", "reference.parquet"}


@pytest.fixture
def copy(tiny_bundle: Path, tmp_path: Path) -> Path:
    """A bundle that a test may damage."""
    return shutil.copytree(tiny_bundle, tmp_path / "copy")


@pytest.fixture
def edit(copy: Path) -> Callable[..., Path]:
    """`edit(name="other")`: the copy with other fields in its bundle.json."""

    def edited(**fields: Any) -> Path:
        path = copy / "bundle.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))
        return copy

    return edited


def pack(folder: Path, archive: Path, prefix: str = "") -> Path:
    with tarfile.open(archive, "w:gz") as tar:
        for path in filter(Path.is_file, folder.iterdir()):
            member = tarfile.TarInfo(prefix + path.name)  # `tar.add` would make an absolute name relative
            member.size = path.stat().st_size
            with path.open("rb") as file:
                tar.addfile(member, file)
    return archive


# ---------------------------------------------------------------------------------------------- where it lies


def test_the_starter_is_the_default() -> None:
    starter = load_bundle()

    assert starter == load_bundle(STARTER)
    assert set(starter.files) >= FILES
    assert len(starter.metadata.genres) == 24
    assert "N/A" not in starter.metadata.genres


def test_a_folder_and_its_archive_are_the_same_bundle(tiny_bundle: Path) -> None:
    folder = load_bundle(tiny_bundle)

    assert set(folder.files) == FILES
    assert folder.model == (tiny_bundle / "model.onnx").read_bytes()
    assert folder == load_bundle(str(tiny_bundle))
    assert folder == load_bundle(tiny_bundle.with_name("tiny.tar.gz"))


@pytest.mark.parametrize("prefix", ["", "./", "some/where/", "/absolute/", "../../"])
def test_an_archive_may_name_its_folder_as_it_likes(tiny_bundle: Path, tmp_path: Path, prefix: str) -> None:
    inside = tmp_path / "inside"
    inside.mkdir()

    archive = pack(tiny_bundle, inside / "packed.tar.gz", prefix)

    assert load_bundle(archive) == load_bundle(tiny_bundle)
    assert sorted(tmp_path.rglob("*")) == [inside, archive]
    assert not Path("/absolute").exists()


def test_any_file_system_that_fsspec_knows(tiny_bundle: Path) -> None:
    memory = fsspec.filesystem("memory")
    memory.put(str(tiny_bundle), "/bundles/tiny", recursive=True)
    memory.put(str(tiny_bundle.with_name("tiny.tar.gz")), "/bundles/tiny.tar.gz")
    try:
        for ref in ("memory://bundles/tiny", "memory://bundles/tiny/", "memory://bundles/tiny.tar.gz"):
            assert load_bundle(ref) == load_bundle(tiny_bundle)
        for ref in ("memory://bundles/missing", "memory://bundles", "memory://nothing.tar.gz"):
            with pytest.raises(BundleNotFoundError):
                load_bundle(ref)
    finally:
        memory.rm("/bundles", recursive=True)


def test_a_remote_folder_that_is_far_too_large_is_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    class Giant:
        def find(self, path: str, **_: Any) -> dict[str, dict[str, int]]:
            return {f"{path}/{number}": {"size": 2**30} for number in range(3)}

        def cat_file(self, name: str) -> bytes:
            raise AssertionError("read")

    monkeypatch.setattr(fsspec, "url_to_fs", lambda ref: (Giant(), ref))

    with pytest.raises(BundleError, match="too large"):
        load_bundle("gs://giant/bundle")


class CloudRefusalError(Exception):
    """Not an OSError, as those of gcsfs."""


@pytest.mark.parametrize("error", [CloudRefusalError("403"), OSError("unreachable"), TimeoutError("slow")])
def test_errors_of_the_network_are_one_sentence(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    class Broken:
        def find(self, path: str, **_: Any) -> dict[str, dict[str, int]]:
            raise error

    monkeypatch.setattr(fsspec, "url_to_fs", lambda ref: (Broken(), ref))

    with pytest.raises(BundleNotFoundError, match=f"cannot read gs://bucket/bundle: {error}"):
        load_bundle("gs://bucket/bundle")


@pytest.mark.parametrize("missing", ["fsspec", "gcsfs"])
def test_without_the_extra_the_address_says_what_to_install(monkeypatch: pytest.MonkeyPatch, missing: str) -> None:
    monkeypatch.setitem(sys.modules, missing, None)  # importing it now fails
    monkeypatch.delitem(loaded_file_systems, "gs", raising=False)

    with pytest.raises(MissingExtraError, match=r"pip install 'onesheet\[gcs\]'"):
        load_bundle("gs://bucket/bundle")


@pytest.mark.parametrize(
    "ref", ["nowhere", "no/where", "champions", "\0", "x" * 5000, "nowhere://bucket/x", "/dev/null"]
)
def test_a_reference_that_leads_nowhere(ref: str) -> None:
    with pytest.raises(BundleNotFoundError):
        load_bundle(ref)


def test_a_folder_that_is_no_bundle(tmp_path: Path) -> None:
    (tmp_path / "holiday.jpg").touch()

    with pytest.raises(BundleNotFoundError, match=r"holds no bundle\.json"):
        load_bundle(tmp_path)


def test_what_else_lies_in_the_folder_does_not_matter(copy: Path, tiny_bundle: Path) -> None:
    (copy / "notes.txt").write_text("mine")
    (copy / "folder").mkdir()
    (copy / ".DS_Store").touch()

    assert load_bundle(copy) == load_bundle(tiny_bundle)
    assert load_bundle(pack(copy, copy.with_suffix(".tar.gz"))) == load_bundle(tiny_bundle)


# -------------------------------------------------------------------------------------------------- damaged


@pytest.mark.parametrize("position", [0, 50, -1])
@pytest.mark.parametrize("name", sorted(FILES))
def test_a_flipped_bit_is_found(copy: Path, name: str, position: int) -> None:
    content = bytearray((copy / name).read_bytes())
    content[min(position, len(content) - 1)] ^= 1
    (copy / name).write_bytes(content)

    for ref in (copy, pack(copy, copy.with_suffix(".tar.gz"))):
        with pytest.raises(BundleCorruptError, match=f"{name} differs from the hash in bundle.json"):
            load_bundle(ref)


@pytest.mark.parametrize("name", sorted(FILES))
def test_a_missing_file_is_named(copy: Path, name: str) -> None:
    (copy / name).unlink()

    with pytest.raises(BundleCorruptError, match=f"{name} is missing from the bundle"):
        load_bundle(copy)


@pytest.mark.parametrize(
    "document",
    [
        b"",
        b"\xff\xfe\x00",
        b"{",
        b"[]",
        b'"text"',
        b"1",
        b"null",
        b"{}",
        b"[" * 100_000,
        b'{"schema_version": ' + b"9" * 10_000 + b"}",
    ],
)
def test_a_document_that_is_not_the_one(copy: Path, document: bytes) -> None:
    (copy / "bundle.json").write_bytes(document)

    with pytest.raises(BundleCorruptError, match=r"bundle\.json is not readable"):
        load_bundle(copy)


@pytest.mark.parametrize(
    ("version", "advice"),
    [(2, "upgrade onesheet"), (10**12, "upgrade onesheet"), (0, "export it again"), (-1, "export it again")]
    + [(odd, "export it again") for odd in ("1", "two\nlines", None, [1], {"a": 1}, 1.5)],
)
def test_a_schema_of_another_time(edit: Callable[..., Path], version: object, advice: str) -> None:
    with pytest.raises(BundleSchemaError, match=f"this onesheet reads schema 1: {advice}") as refused:
        load_bundle(edit(schema_version=version, genres="unknown by then"))
    assert "\n" not in refused.value.message


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"name": ""}, "name"),
        ({"created": "yesterday"}, "created"),
        ({"genres": []}, "genres"),
        ({"genres": ["Drama", "Drama"]}, "genres repeat"),
        ({"genres": ["Drama", "Crime"]}, "genre"),
        ({"thresholds": {"Comedy": 0.5}}, "thresholds do not match the genres"),
        ({"thresholds": dict.fromkeys(["Comedy", "Drama", "Horror", "Romance"], float("nan"))}, "thresholds"),
        ({"thresholds": dict.fromkeys(["Comedy", "Drama", "Horror", "Romance"], 1.5)}, "thresholds"),
        ({"preprocess": {"height": 32}}, "preprocess.width"),
        ({"preprocess": {"height": 32, "width": 24, "interpolation": "guess"}}, "preprocess.interpolation"),
        *(
            ({"preprocess": {"height": 32, "width": 24, "reducing_gap": gap}}, "reducing_gap")
            for gap in (0, 0.5, -2, float("nan"), float("inf"))
        ),
        ({"calibration": {"method": "platt", "scale": [1], "shift": [0]}}, "calibration does not match"),
        ({"calibration": {"method": "magic", "scale": [1] * 4, "shift": [0] * 4}}, "calibration.method"),
        ({"files": {"model.onnx": "0" * 64}}, "files without a hash: MODEL_CARD.md, reference.parquet"),
        ({"data": {"fingerprint": "0", "seed": 1, "posters": {}, "genre_counts": {}}}, "training posters"),
    ],
)
def test_fields_that_contradict_each_other(edit: Callable[..., Path], fields: dict[str, Any], message: str) -> None:
    with pytest.raises(BundleCorruptError, match=r"bundle\.json: ") as refused:
        load_bundle(edit(**fields))
    assert message in refused.value.message
    assert "\n" not in refused.value.message


# ------------------------------------------------------------------------------------------ hostile archives


def entry(name: str, size: int = 0, kind: bytes = tarfile.REGTYPE, target: str = "") -> bytes:
    """The header of a member, true or not."""
    member = tarfile.TarInfo(name)
    member.size, member.type, member.linkname = size, kind, target
    return member.tobuf(tarfile.GNU_FORMAT)


def gzipped(path: Path, *parts: bytes, zeros: int = 0) -> Path:
    with gzip.open(path, "wb", compresslevel=1) as file:
        for part in parts:
            file.write(part)
        for _ in range(zeros):
            file.write(bytes(2**20))
    return path


@pytest.fixture
def small_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    """A bundle holds at most 1 MiB and 8 files."""
    monkeypatch.setattr(bundle_module, "_MAX_BYTES", 2**20)
    monkeypatch.setattr(bundle_module, "_MAX_FILES", 8)


def test_links_and_devices_in_an_archive_are_passed_over(copy: Path, tiny_bundle: Path, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_bytes((copy / "MODEL_CARD.md").read_bytes())
    (copy / "MODEL_CARD.md").unlink()
    for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE):
        archive = tmp_path / "linked.tar.gz"
        with tarfile.open(archive, "w:gz") as tar:
            for path in copy.iterdir():
                tar.add(path, path.name)
            tar.addfile(tarfile.TarInfo.frombuf(entry("MODEL_CARD.md", 0, kind, str(secret)), "utf-8", ""))
            tar.addfile(tarfile.TarInfo.frombuf(entry("pipe", 0, tarfile.FIFOTYPE), "utf-8", ""))

        with pytest.raises(BundleCorruptError, match=r"MODEL_CARD\.md is missing"):
            load_bundle(archive)


@pytest.mark.usefixtures("small_limits")
@pytest.mark.parametrize(
    ("parts", "zeros"),
    [
        pytest.param([entry("bundle.json", 2**40)], 0, id="a size that is not there"),
        pytest.param([entry("bundle.json", 2 * 2**20)], 3, id="a large file"),
        pytest.param([entry(f"{number}") for number in range(9)], 0, id="many files"),
        pytest.param([entry(f"{number}", 0, tarfile.DIRTYPE) for number in range(9)], 0, id="many folders"),
        pytest.param([entry(f"{number}", 0, tarfile.SYMTYPE, "x") for number in range(9)], 0, id="many links"),
        pytest.param([entry("x", 2**33, tarfile.XHDTYPE)], 64, id="an endless extended header"),
        pytest.param([entry("x", 2**33, tarfile.GNUTYPE_LONGNAME)], 64, id="an endless name"),
    ],
)
def test_an_archive_that_is_too_large_is_refused_before_it_is_unpacked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, parts: list[bytes], zeros: int
) -> None:
    archive = gzipped(tmp_path / "bomb.tar.gz", *parts, zeros=zeros)
    unpacked = 0
    read = gzip.GzipFile.read

    def counted(self: gzip.GzipFile, size: int | None = -1) -> bytes:
        nonlocal unpacked
        data = read(self, size)
        unpacked += len(data)
        return data

    monkeypatch.setattr(gzip.GzipFile, "read", counted)

    with pytest.raises(BundleError, match="too large for a bundle: more than 8 files or 1 MiB"):
        load_bundle(archive)
    assert unpacked <= 2**20


def test_an_archive_that_unpacks_to_far_more_than_its_size_is_refused_long_before_the_limit(tmp_path: Path) -> None:
    archive = gzipped(tmp_path / "bomb.tar.gz", entry("bundle.json", 900 * 2**20), zeros=70)
    tracemalloc.start()
    try:
        with pytest.raises(BundleError, match="the archive unpacks to more than 64 MiB, 20 times its own size"):
            load_bundle(archive)
        assert tracemalloc.get_traced_memory()[1] < 2**20
    finally:
        tracemalloc.stop()


def test_an_archive_of_many_members_is_unpacked_as_far_as_its_size_makes_likely(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bundle_module, "_ANY_RATIO_BYTES", 2**20)
    members = [part for number in range(8) for part in (entry(f"{number}", 2**19), bytes(2**19))]
    with pytest.raises(BundleError, match="more than 1 MiB, 20 times its own size"):
        load_bundle(gzipped(tmp_path / "bomb.tar.gz", *members))


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes with names here")
def test_a_pipe_in_the_place_of_a_file_is_not_waited_for(copy: Path) -> None:
    for name in ("model.onnx", "bundle.json"):
        (copy / name).unlink()
        os.mkfifo(copy / name)
        with pytest.raises(BundleError, match=name):
            load_bundle(copy)


@pytest.mark.usefixtures("small_limits")
def test_a_folder_that_is_too_large_is_refused_before_it_is_read(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with (copy / "huge").open("wb") as file:
        file.truncate(2**40)
    with pytest.raises(BundleError, match="too large"):
        load_bundle(copy)

    (copy / "huge").unlink()
    for number in range(9):
        (copy / f"{number}").touch()
    with pytest.raises(BundleError, match="too large"):
        load_bundle(copy)


EXTENDED_HEADER = entry("x", 12, tarfile.XHDTYPE) + b"12 a=bcdefg\n".ljust(512, b"\0")
SPARSE_HEADER = entry("x", 26, tarfile.XHDTYPE) + b"26 GNU.sparse.map=a,b,c,d\n".ljust(512, b"\0")
DAMAGED = {
    "nothing": b"",
    "a text": b"not gzip",
    "the first bytes": b"\x1f\x8b\x08\x00",
    "an archive of nothing": gzip.compress(b""),
    "not tar": gzip.compress(b"not tar" * 100),
    "a file cut off": gzip.compress(entry("bundle.json", 100) + b"cut off"),
    "gzip cut off": gzip.compress(entry("bundle.json", 100))[:-12],
    "a file of negative size": gzip.compress(entry("x", -(2**20)) + bytes(10_000)),
    "a header of negative size": gzip.compress(entry("x", -(2**20), tarfile.XHDTYPE) + bytes(10_000)),
    "a header of headers": gzip.compress(EXTENDED_HEADER * 5000),
    "a map that is none": gzip.compress(SPARSE_HEADER + entry("y")),
}


@pytest.mark.parametrize("content", DAMAGED.values(), ids=list(DAMAGED))
def test_an_archive_that_is_damaged(tmp_path: Path, content: bytes) -> None:
    archive = tmp_path / "damaged.tar.gz"
    archive.write_bytes(content)

    with pytest.raises((BundleCorruptError, BundleNotFoundError)) as refused:
        load_bundle(archive)
    assert "damaged.tar.gz" in refused.value.message


def test_a_truncated_archive(tiny_bundle: Path, tmp_path: Path) -> None:
    whole = tiny_bundle.with_name("tiny.tar.gz").read_bytes()
    for length in range(0, len(whole) - 8, len(whole) // 40):
        archive = tmp_path / "cut.tar.gz"
        archive.write_bytes(whole[:length])

        if length < 0.9 * len(whole):
            with pytest.raises(BundleCorruptError):
                load_bundle(archive)
        else:  # what is cut off may be no more than the zeros that end every archive
            with contextlib.suppress(BundleCorruptError):
                assert load_bundle(archive) == load_bundle(tiny_bundle)


# -------------------------------------------------------------------------------------------------- written


@pytest.fixture
def parts(tiny_bundle: Path) -> tuple[dict[str, Any], dict[str, bytes]]:
    """What `write_bundle` is given."""
    bundle = load_bundle(tiny_bundle)
    return bundle.metadata.model_dump(exclude={"schema_version", "files"}), dict(bundle.files)


def write(parts: tuple[dict[str, Any], dict[str, bytes]], out: Path, **fields: Any) -> Bundle:
    metadata, files = parts
    return write_bundle({**metadata, **fields}, files, out)


def test_what_is_written_is_what_is_read(parts: Any, tmp_path: Path) -> None:
    written = write(parts, tmp_path / "new" / "bundle", version="2")

    assert written.metadata.version == "2"
    assert written == load_bundle(tmp_path / "new" / "bundle") == load_bundle(tmp_path / "new" / "bundle.tar.gz")
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == ["bundle", "bundle.tar.gz"]


def test_a_new_bundle_takes_the_place_of_an_old_one(parts: Any, tmp_path: Path) -> None:
    write(parts, tmp_path / "bundle", version="1")
    (tmp_path / "bundle" / "left over").touch()

    write(parts, tmp_path / "bundle", version="2")

    assert load_bundle(tmp_path / "bundle").metadata.version == "2"
    assert load_bundle(tmp_path / "bundle.tar.gz").metadata.version == "2"
    assert not (tmp_path / "bundle" / "left over").exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bundle", "bundle.tar.gz"]


def test_the_old_one_stays_when_the_new_one_fails(parts: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(parts, tmp_path / "bundle", version="1")

    def full_disk(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(tarfile.TarFile, "add", full_disk)
        with pytest.raises(OSError, match="No space left"):
            write(parts, tmp_path / "bundle", version="2")
    with pytest.raises(ValidationError):
        write(parts, tmp_path / "bundle", version="")

    assert load_bundle(tmp_path / "bundle").metadata.version == "1"
    assert load_bundle(tmp_path / "bundle.tar.gz").metadata.version == "1"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bundle", "bundle.tar.gz"]


def test_nothing_of_others_is_replaced(parts: Any, tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "holiday.jpg").touch()
    (tmp_path / "file").write_text("mine")

    for name in ("photos", "file"):
        with pytest.raises(BundleError, match="is in use and is no bundle; name another folder"):
            write(parts, tmp_path / name)

    assert sorted(path.name for path in tmp_path.rglob("*")) == ["file", "holiday.jpg", "photos"]
    assert (tmp_path / "file").read_text() == "mine"


def test_an_empty_folder_may_be_filled(parts: Any, tmp_path: Path) -> None:
    (tmp_path / "bundle").mkdir()

    write(parts, tmp_path / "bundle", version="3")

    assert load_bundle(tmp_path / "bundle").metadata.version == "3"


# ------------------------------------------------------------------------------------------------ described


def test_the_summary_is_the_model_card_without_the_hashes(tiny_bundle: Path) -> None:
    summary = load_bundle(tiny_bundle).metadata.summary()

    assert json.loads(json.dumps(summary)) == summary
    assert (summary["name"], summary["version"], summary["created"]) == ("tiny", "1.2.3", "2026-01-02T00:00:00Z")
    assert summary["genres"] == ["Comedy", "Drama", "Horror", "Romance"]
    assert "files" not in summary


def test_the_frequencies_follow_the_order_asked_for(tiny_bundle: Path) -> None:
    data = load_bundle(tiny_bundle).metadata.data
    counted = data.model_copy(update={"genre_counts": {"Comedy": 2, "Drama": 6}})

    assert counted.frequencies(["Drama", "Comedy"]).tolist() == [0.75, 0.25]


def test_loading_a_bundle_runs_nothing_and_needs_little() -> None:
    code = "import sys; from onesheet.bundle import load_bundle; load_bundle(); print('onnxruntime' in sys.modules)"
    done = run_command([sys.executable, "-c", code], check=True)

    assert (done.stdout, done.stderr) == ("False\n", "")
