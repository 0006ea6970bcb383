"""What `fetch` promises, whatever the source; shown on folders."""

from __future__ import annotations

import csv
import errno
import hashlib
import json
import os
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from onesheet.data.fetch import fetch
from onesheet.data.progress import Progress
from onesheet.data.staging import Staging, exclusive
from onesheet.errors import FetchError, MissingExtraError

if TYPE_CHECKING:
    from collections.abc import Callable


def contents(folder: Path) -> dict[str, bytes]:
    """Every file below a folder, except the receipt."""
    paths = [path for path in folder.rglob("*") if path.is_file() and path.name != "fetch.json"]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}


def test_brings_every_file_and_a_receipt(source: Path, tmp_path: Path) -> None:
    out = tmp_path / "new" / "raw"
    receipt = fetch(str(source), out)
    assert contents(out) == contents(source)
    assert json.loads((out / "fetch.json").read_text()) == receipt.to_dict()
    assert receipt.to_dict() == {
        "source": str(source),
        "files": 41,
        "bytes": sum(map(len, contents(source).values())),
        "fingerprint": receipt.fingerprint,
        "rows": 40,
        "missing": 0,
    }
    assert not receipt.already_there
    assert [path.name for path in out.parent.iterdir()] == ["raw"], "no lock, no staging folder is left"


def test_fingerprint_is_over_names_and_contents(source: Path, tmp_path: Path) -> None:
    lines = [f"{name}\0{hashlib.sha256(data).hexdigest()}\n" for name, data in sorted(contents(source).items())]
    receipt = fetch(str(source), tmp_path / "raw")
    assert receipt.fingerprint == hashlib.sha256("".join(lines).encode()).hexdigest()


def test_copies_are_not_links(source: Path, tmp_path: Path) -> None:
    fetch(str(source), tmp_path / "raw")
    (tmp_path / "raw" / "train.csv").write_text("spoiled")
    assert (source / "train.csv").read_text().startswith("Id,")


def test_reports_every_file_of_every_step(source: Path, tmp_path: Path) -> None:
    seen: list[Progress] = []
    receipt = fetch(str(source), tmp_path / "raw", progress=seen.append)
    assert list(dict.fromkeys(progress.step for progress in seen)) == ["listing", "downloading", "verifying"]
    downloading = [progress for progress in seen if progress.step == "downloading"]
    # The labels come before the pictures are counted.
    assert [progress.done_files for progress in downloading] == list(range(1, 42))
    assert {progress.total_bytes for progress in downloading} == {receipt.bytes}
    assert downloading[-1].done_bytes == receipt.bytes


def test_finds_the_data_set_nearest_to_the_top(make_source: Callable[..., Path], tmp_path: Path) -> None:
    wanted = make_source(tmp_path / "big" / "data")
    make_source(tmp_path / "big" / "old" / "data", films=3)
    (tmp_path / "big" / "train.csv").write_text("without pictures beside it")
    fetch(str(tmp_path / "big"), tmp_path / "raw")
    assert contents(tmp_path / "raw") == contents(wanted)


@pytest.mark.skipif(sys.platform == "win32", reason="has no pipes in folders")
def test_follows_links_and_leaves_other_files_alone(source: Path, tmp_path: Path) -> None:
    linked = tmp_path / "linked"
    linked.mkdir()
    (linked / "Images").symlink_to(source / "Images")
    (linked / "train.csv").symlink_to(source / "train.csv")
    expected = contents(source)
    (source / "Images" / "notes.txt").write_text("not a picture")
    (source / "Images" / ".hidden.jpg").write_text("not shown")
    (source / "Images" / "gone.jpg").symlink_to("nowhere")
    os.mkfifo(source / "Images" / "pipe.jpg")
    (linked / ".cache").mkdir()
    shutil.copytree(source / "Images", linked / "Images.partial", symlinks=True, ignore=lambda *_: ["pipe.jpg"])
    fetch(str(linked), tmp_path / "raw")
    assert contents(tmp_path / "raw") == expected


def test_a_data_set_in_a_recycle_bin_is_left_there(source: Path, tmp_path: Path) -> None:
    nas, expected = tmp_path / "nas", contents(source)
    for bin_name in ("#recycle", "@eaDir", "lost+found", "$RECYCLE.BIN"):
        shutil.copytree(source, nas / bin_name)
        (nas / bin_name / "train.csv").write_text("thrown away")
    shutil.copytree(source, nas / "films/posters")
    fetch(str(nas), tmp_path / "raw")
    assert contents(tmp_path / "raw") == expected


def test_fetches_from_any_file_system_of_fsspec(source: Path, tmp_path: Path) -> None:
    import fsspec

    memory = fsspec.filesystem("memory")
    memory.put(str(source), "/fetch-test", recursive=True)
    fetch("memory://fetch-test", tmp_path / "raw")
    assert contents(tmp_path / "raw") == contents(source)
    fetch(f"file://{source}", tmp_path / "again")
    assert contents(tmp_path / "again") == contents(source)


# ------------------------------------------------------------------------------------------- interruptions


def test_goes_on_where_it_was_killed(source: Path, tmp_path: Path, kill_in_the_middle: Callable[..., None]) -> None:
    out, staged = tmp_path / "raw", tmp_path / "raw.partial"
    kill_in_the_middle(str(source), out, 23)
    assert not out.exists(), "nothing stands under the final name"
    before = {path.name: path.stat().st_ino for path in (staged / "Images").iterdir()}
    assert 20 <= len(before) < 40
    seen: list[Progress] = []
    fetch(str(source), out, progress=seen.append)
    assert contents(out) == contents(source)
    after = {path.name: path.stat().st_ino for path in (out / "Images").iterdir()}
    assert {name: after[name] for name in before} == before, "what was there was not written again"
    start = next(progress for progress in seen if progress.step == "downloading")
    assert start.done_files == 23
    assert start.done_bytes > 0


def test_mends_a_damaged_partial_file(source: Path, tmp_path: Path, kill_in_the_middle: Callable[..., None]) -> None:
    kill_in_the_middle(str(source), tmp_path / "raw", 30)
    staged = sorted((tmp_path / "raw.partial" / "Images").iterdir())
    staged[0].write_bytes(staged[0].read_bytes()[:-1])
    staged[1].unlink()
    (tmp_path / "raw.partial" / ".incoming").write_bytes(b"half a pic")
    (tmp_path / "raw.partial" / "Images" / "no_longer_listed.jpg").write_bytes(b"old")
    fetch(str(source), tmp_path / "raw")
    assert contents(tmp_path / "raw") == contents(source)


def test_begins_anew_for_another_source(
    source: Path,
    tmp_path: Path,
    make_source: Callable[..., Path],
    kill_in_the_middle: Callable[..., None],
) -> None:
    other = make_source(tmp_path / "other", seed=1)
    kill_in_the_middle(str(other), tmp_path / "raw", 20)
    fetch(str(source), tmp_path / "raw")
    assert contents(tmp_path / "raw") == contents(source)


def test_a_failure_keeps_what_is_there(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_pauses: None
) -> None:
    monkeypatch.setattr("onesheet.data.fetch.BATCH", 10)
    victim = source / "Images" / "tt0000025.jpg"
    listed = victim.read_bytes()

    def shrink(progress: Progress) -> None:
        victim.write_bytes(listed[:-1])

    with pytest.raises(FetchError, match=r"cannot read Images/tt0000025.jpg from .*size or hash"):
        fetch(str(source), tmp_path / "raw", progress=lambda p: shrink(p) if p.step == "downloading" else None)
    assert len(list((tmp_path / "raw.partial" / "Images").iterdir())) == 24
    victim.write_bytes(listed)
    fetch(str(source), tmp_path / "raw")
    assert contents(tmp_path / "raw") == contents(source)


def test_full_disk_is_told_in_one_line(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write = Staging.write

    def full_after_ten(staging: Staging, name: str, content: bytes) -> None:
        if name == "Images/tt0000010.jpg":
            raise OSError(errno.ENOSPC, "No space left on device", str(staging.path))
        write(staging, name, content)

    with monkeypatch.context() as patch:
        patch.setattr(Staging, "write", full_after_ten)
        with pytest.raises(FetchError, match=r"^the disk is full; .* kept in .*raw\.partial: make room"):
            fetch(str(source), tmp_path / "raw")
    assert len(list((tmp_path / "raw.partial" / "Images").iterdir())) == 9
    assert fetch(str(source), tmp_path / "raw").files == 41


def test_a_folder_that_cannot_be_written_is_told(source: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(FetchError, match=r"cannot write .*raw: "):
        fetch(str(source), tmp_path / "file" / "raw")


def test_what_the_disk_spoils_is_not_published(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write = Staging.write
    monkeypatch.setattr(
        Staging,
        "write",
        lambda staging, name, content: write(staging, name, content[: -1 if name.endswith("7.jpg") else None]),
    )
    with pytest.raises(FetchError, match=r"4 files of .* arrived damaged, Images/tt0000007.jpg first"):
        fetch(str(source), tmp_path / "raw")
    assert not (tmp_path / "raw").exists()


# --------------------------------------------------------------------------------- what is there already


def test_finished_fetch_is_verified_and_left_alone(source: Path, tmp_path: Path) -> None:
    first = fetch(str(source), tmp_path / "raw")
    shutil.rmtree(source)
    (tmp_path / "raw" / "Images" / "Thumbs.db").write_bytes(b"a file manager was here")
    seen: list[Progress] = []
    second = fetch(str(source), tmp_path / "raw", progress=seen.append)
    assert second.already_there
    assert second.to_dict() == first.to_dict()
    assert {progress.step for progress in seen} == {"verifying"}


@pytest.mark.parametrize("change", ["flip", "remove", "add", "remove all"])
def test_changed_data_set_is_told(source: Path, tmp_path: Path, change: str) -> None:
    fetch(str(source), tmp_path / "raw")
    picture = tmp_path / "raw" / "Images" / "tt0000001.jpg"
    if change == "flip":
        picture.write_bytes(picture.read_bytes()[:-1] + b"x")
    elif change == "remove":
        picture.unlink()
    elif change == "add":
        picture.with_name("tt9.jpg").write_bytes(b"")
    else:
        shutil.rmtree(picture.parent)
    with pytest.raises(FetchError, match=r"raw has changed since it was fetched: use --force"):
        fetch(str(source), tmp_path / "raw")
    fetch(str(source), tmp_path / "raw", force=True)
    assert contents(tmp_path / "raw") == contents(source)


def test_another_source_needs_force(source: Path, tmp_path: Path, make_source: Callable[..., Path]) -> None:
    other = make_source(tmp_path / "other", seed=1)
    fetch(str(source), tmp_path / "raw")
    with pytest.raises(FetchError, match=r"raw already holds the posters of .*source: --force"):
        fetch(str(other), tmp_path / "raw")
    assert not fetch(str(other), tmp_path / "raw", force=True).already_there
    assert contents(tmp_path / "raw") == contents(other)
    assert {path.name for path in tmp_path.iterdir()} == {"source", "other", "raw"}, "the old one is gone"


def test_failing_force_loses_nothing(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fetch(str(source), tmp_path / "raw")
    rename = Path.rename

    def refuse_final(path: Path, target: Path) -> Path:
        if path.name == "raw.partial":
            raise OSError(errno.EBUSY, "Device or resource busy")
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", refuse_final)
    with pytest.raises(FetchError, match=r"cannot write .*raw: Device or resource busy"):
        fetch(str(source), tmp_path / "raw", force=True)
    assert fetch(str(source), tmp_path / "raw").already_there


@pytest.mark.parametrize("force", [False, True])
def test_foreign_folder_is_refused(source: Path, tmp_path: Path, force: bool) -> None:
    foreign = tmp_path / "raw" / "thesis.txt"
    foreign.parent.mkdir()
    foreign.write_text("years of work")
    with pytest.raises(FetchError, match="raw exists and was not made by a fetch"):
        fetch(str(source), tmp_path / "raw", force=force)
    assert foreign.read_text() == "years of work"


def test_foreign_staging_folder_and_file_are_refused(source: Path, tmp_path: Path) -> None:
    foreign = tmp_path / "raw.partial" / "thesis.txt"
    foreign.parent.mkdir()
    foreign.write_text("years of work")
    with pytest.raises(FetchError, match=r"raw\.partial is in the way"):
        fetch(str(source), tmp_path / "raw")
    with pytest.raises(FetchError, match="is a file: name a folder"):
        fetch(str(source), foreign)
    assert foreign.read_text() == "years of work"


@pytest.mark.parametrize("text", ["[]", "{}", "not json", '{"source": "x"}'])
def test_false_receipt_is_told(source: Path, tmp_path: Path, text: str) -> None:
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw" / "fetch.json").write_text(text)
    with pytest.raises(FetchError, match=r"holds a fetch\.json that is no receipt"):
        fetch(str(source), tmp_path / "raw")


def test_empty_folder_is_used(source: Path, tmp_path: Path) -> None:
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw.partial").mkdir()
    assert fetch(str(source), tmp_path / "raw").files == 41


def test_linked_folder_keeps_its_place(source: Path, tmp_path: Path) -> None:
    disk = tmp_path / "big_disk" / "posters"
    disk.mkdir(parents=True)
    (tmp_path / "raw").symlink_to(disk)
    fetch(str(source), tmp_path / "raw")
    assert (tmp_path / "raw").is_symlink()
    assert contents(disk) == contents(source)


def test_second_fetch_at_once_is_told(source: Path, tmp_path: Path) -> None:
    def fetch_again(progress: Progress) -> None:
        with pytest.raises(FetchError, match=r"another fetch into .*raw is running"):
            fetch(str(source), tmp_path / "raw")

    assert fetch(str(source), tmp_path / "raw", progress=fetch_again).files == 41


def test_lock_of_a_dead_process_does_not_block(source: Path, tmp_path: Path) -> None:
    (tmp_path / "raw.lock").write_text("")
    assert fetch(str(source), tmp_path / "raw").files == 41
    if sys.platform != "win32":  # which removes nothing that is open
        assert not (tmp_path / "raw.lock").exists()


@pytest.mark.skipif(sys.platform == "win32", reason="removes nothing that is open")
def test_lock_file_removed_under_our_hands_is_no_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fcntl.flock", lambda *_: (tmp_path / "raw.lock").unlink())
    with pytest.raises(FetchError, match="another fetch"), exclusive(tmp_path / "raw", "raw"):
        pytest.fail("two would hold it")


# ---------------------------------------------------------------------------------------------- bad sources


def test_few_missing_pictures_are_counted(make_source: Callable[..., Path], tmp_path: Path) -> None:
    receipt = fetch(str(make_source(lacking=2)), tmp_path / "raw")
    assert (receipt.missing, receipt.rows, receipt.files) == (2, 40, 39)


def test_many_missing_pictures_are_an_error(make_source: Callable[..., Path], tmp_path: Path) -> None:
    seen: list[Progress] = []
    with pytest.raises(FetchError, match="not look like the whole data set: 3 of 40 labelled films"):
        fetch(str(make_source(lacking=3)), tmp_path / "raw", progress=seen.append)
    assert [progress.step for progress in seen] == ["listing"], "told before any picture is fetched"


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ("", "no column `Id`"),
        ("Title,Drama\ntt1,1\n", "no column `Id`"),
        ("Id,Genre\ntt1,['Drama']\n", "no genre columns"),
        ("Id,Drama\n", "no rows"),
        ("Id\0\x81", "not a readable CSV"),
    ],
)
def test_labels_that_are_none(source: Path, tmp_path: Path, labels: str, message: str) -> None:
    (source / "train.csv").write_bytes(labels.encode("latin-1"))
    with pytest.raises(FetchError, match=f"is no data set of posters: .*{message}"):
        fetch(str(source), tmp_path / "raw")


def test_sources_that_are_none(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    out = tmp_path / "raw"
    for name, message in {
        "nowhere": "no folder named nowhere",
        "source/train.csv": "no folder named source/train.csv",
        " ": "the source is empty",
        "carrier-pigeon://x": "cannot open carrier-pigeon://x: Protocol not known",
        "source/Images": "holds no train.csv",
        "memory://empty": "cannot list memory://empty|holds no train.csv",
    }.items():
        with pytest.raises(FetchError, match=message):
            fetch(name, out)
    shutil.rmtree(source / "Images")
    with pytest.raises(FetchError, match=r"holds train\.csv but no pictures in Images/ beside it"):
        fetch("source", out)
    assert {path.name for path in tmp_path.iterdir()} == {"source"}, "nothing is left of a wrong name"


def test_missing_extra_says_what_to_install(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for module, name, extra in [
        ("fsspec", str(source), "data"),
        ("gcsfs", "gs://bucket", "gcs"),
        ("kagglehub", "kaggle:a/b", "kaggle"),
    ]:
        with monkeypatch.context() as patch:
            patch.setitem(__import__("sys").modules, module, None)
            with pytest.raises(MissingExtraError, match=f"`uv sync --extra {extra}`"):
                fetch(name, tmp_path / "raw")


@pytest.mark.posters
def test_posters(posters: Path, tmp_path: Path) -> None:
    """A source of the first 300 real rows, behind links."""
    part = tmp_path / "part"
    (part / "Images").mkdir(parents=True)
    with (posters / "train.csv").open(newline="") as file:
        rows = [row for _, row in zip(range(301), csv.reader(file), strict=False)]
    with (part / "train.csv").open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    for film in {row[0] for row in rows[1:]}:
        (part / "Images" / f"{film}.jpg").symlink_to(posters / "Images" / f"{film}.jpg")
    receipt = fetch(str(part), tmp_path / "raw")
    assert (receipt.rows, receipt.missing) == (300, 0)
    assert contents(tmp_path / "raw") == contents(part)
