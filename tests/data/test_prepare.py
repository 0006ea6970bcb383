"""From raw posters to a manifest: nothing leaks, nothing is lost, and it is the same every time."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image, ImageEnhance

from onesheet.data.manifest import Manifest, read_manifest
from onesheet.data.prepare import prepare
from onesheet.errors import DataError
from onesheet.image import PreprocessSpec

GENRES = ("Comedy", "Drama", "Horror", "Romance")


@pytest.fixture
def raw(made_up_posters: Path, tmp_path: Path) -> Path:
    """A copy that a test may spoil."""
    return Path(shutil.copytree(made_up_posters, tmp_path / "raw"))


def _append(raw: Path, film: str, genre: str, *, not_a_genre: int = 0) -> Path:
    flags = ",".join(str(int(name == genre)) for name in GENRES)
    with (raw / "train.csv").open("a") as file:
        file.write(f"{film},['{genre}'],{flags},{not_a_genre}\n")
    return raw / "Images" / f"{film}.jpg"


def _entry(manifest: Manifest, film: str):
    return next(entry for entry in manifest.entries if entry.id == film)


def test_facts_of_a_poster(made_up_posters, tmp_path):
    manifest = prepare(made_up_posters, tmp_path)
    entry = manifest.entries[0]
    assert (entry.id, entry.path, entry.width, entry.height, entry.mode) == (
        "tt0000000",
        "Images/tt0000000.jpg",
        60,
        90,
        "RGB",
    )
    assert len(entry.sha256) == 64
    assert len(entry.phash) == 16
    assert entry.problems == ()
    assert manifest.picture(entry).is_file()


def test_two_runs_are_byte_identical(made_up_posters, tmp_path):
    prepare(made_up_posters, tmp_path / "a")
    prepare(made_up_posters, tmp_path / "b")
    assert (tmp_path / "a/manifest.parquet").read_bytes() == (tmp_path / "b/manifest.parquet").read_bytes()


def test_neither_the_folder_nor_the_order_of_rows_matters(made_up_posters, raw, tmp_path):
    header, *rows = (raw / "train.csv").read_text().splitlines()
    (raw / "train.csv").write_text("\n".join([header, *reversed(rows)]) + "\n")
    prepare(made_up_posters, tmp_path / "a")
    prepare(raw, tmp_path / "b")
    assert (tmp_path / "a/manifest.parquet").read_bytes() == (tmp_path / "b/manifest.parquet").read_bytes()


def test_another_seed_gives_another_split_and_fingerprint(made_up_posters, tmp_path):
    one, two = (prepare(made_up_posters, tmp_path / str(seed), seed) for seed in (1, 2))
    assert one.fingerprint != two.fingerprint
    assert [entry.sha256 for entry in one.entries] == [entry.sha256 for entry in two.entries]


def test_the_manifest_reads_back_as_it_was(made_up_posters, tmp_path):
    manifest = prepare(made_up_posters, tmp_path)
    again = read_manifest(tmp_path / "manifest.parquet", made_up_posters)
    assert again == manifest
    assert again.fingerprint == manifest.fingerprint


def test_a_near_copy_of_another_film_stays_on_its_side(raw, tmp_path):
    """Brightened, shrunk and compressed anew, under another id with another genre: still the same picture."""
    for number in range(0, 240, 8):
        with Image.open(raw / f"Images/tt{number:07d}.jpg") as poster:
            copy = ImageEnhance.Brightness(poster).enhance(1.1).resize((48, 72))
        copy.save(_append(raw, f"xx{number:07d}", "Horror"), quality=70)
    manifest = prepare(raw, tmp_path / "out")
    for number in range(0, 240, 8):
        original, copy = _entry(manifest, f"tt{number:07d}"), _entry(manifest, f"xx{number:07d}")
        assert original.split == copy.split
        assert copy.group == original.group
        assert any("near-identical" in problem for problem in copy.problems)


def test_what_cannot_be_used_goes_to_quarantine_with_the_reason(raw, tmp_path):
    _append(raw, "zz1", "Drama").write_text("not a picture")
    _append(raw, "zz2", "Drama").write_bytes((raw / "Images/tt0000001.jpg").read_bytes()[:700])
    _append(raw, "zz3", "Drama").touch()
    _append(raw, "zz4", "Drama")
    shutil.copy(raw / "Images/tt0000001.jpg", _append(raw, "zz5", "N/A", not_a_genre=1))
    manifest = prepare(raw, tmp_path / "out")
    reasons = {entry.id: entry.problems[0] for entry in manifest.entries if entry.split is None}
    assert {film: reason.partition(":")[0] for film, reason in reasons.items()} == {
        "zz1": "not_an_image",
        "zz2": "corrupt_image",
        "zz3": "empty_image",
        "zz4": "not_found",
        "zz5": "no genre",
    }
    assert manifest.counts()["quarantine"] == 5
    assert sum(manifest.counts().values()) == 245


def test_repeated_rows_become_one_film(raw, tmp_path):
    rows = (raw / "train.csv").read_text()
    (raw / "train.csv").write_text(rows + rows.splitlines()[1] + "\n")
    assert len(prepare(raw, tmp_path / "out").entries) == 240


def test_progress_is_told(made_up_posters, tmp_path):
    steps: list[tuple[int, int]] = []
    prepare(made_up_posters, tmp_path, on_poster=lambda done, total: steps.append((done, total)))
    assert steps == [(done, 240) for done in range(1, 241)]


def test_nothing_usable_is_an_error_and_writes_nothing(raw, tmp_path):
    shutil.rmtree(raw / "Images")
    with pytest.raises(DataError, match="the folder of the posters, cannot be listed"):
        prepare(raw, tmp_path / "out")
    (raw / "Images").mkdir()
    with pytest.raises(DataError, match="no poster is usable"):
        prepare(raw, tmp_path / "out", allow_missing=True)
    assert not (tmp_path / "out").exists()


def test_posters_of_any_suffix_are_found(raw, made_up_posters, tmp_path):
    suffixes = (".jpg", ".JPG", ".jpeg", ".JPEG", ".jpe", ".jfif", ".png", ".webp", ".gif")
    for number, path in enumerate(sorted((raw / "Images").iterdir())):
        path.rename(path.with_suffix(suffixes[number % len(suffixes)]))
    manifest = prepare(raw, tmp_path / "out")
    assert manifest.counts()["quarantine"] == 0
    assert manifest.fingerprint == prepare(made_up_posters, tmp_path / "as jpg").fingerprint


def test_a_second_file_of_a_film_is_noted_and_not_used(raw, tmp_path):
    shutil.copy(raw / "Images/tt0000001.jpg", raw / "Images/tt0000000.png")
    entry = _entry(prepare(raw, tmp_path / "out"), "tt0000000")
    assert (entry.path, entry.problems) == (
        "Images/tt0000000.jpg",
        ("tt0000000.png has the same id; not used",),
    )


@pytest.mark.parametrize("spoil", [Path.unlink, lambda path: path.write_bytes(b"GIF89a")])
def test_most_posters_missing_or_damaged_is_an_error_unless_it_is_allowed(raw, tmp_path, spoil):
    paths = sorted((raw / "Images").iterdir())
    for path in paths[:120]:
        spoil(path)
    assert prepare(raw, tmp_path / "half").counts()["quarantine"] == 120
    spoil(paths[120])
    told = r"121 of 240 labelled films have no poster in .* that can be read \(tt0000000, tt0000001, tt0000002 and 118"
    with pytest.raises(DataError, match=told):
        prepare(raw, tmp_path / "most")
    assert not (tmp_path / "most").exists()
    assert prepare(raw, tmp_path / "allowed", allow_missing=True).counts()["quarantine"] == 121


def test_a_poster_that_has_vanished_since_is_named(raw, tmp_path):
    manifest = prepare(raw, tmp_path / "out")
    (raw / "Images/tt0000007.jpg").unlink()
    with pytest.raises(DataError, match=r"tt0000007\.jpg: no such file: run `onesheet data prepare` again"):
        manifest.load(_entry(manifest, "tt0000007"), PreprocessSpec(32, 24))


@pytest.mark.parametrize("content", [b"", b"junk", None])
def test_a_file_that_is_no_manifest(tmp_path, content):
    path = tmp_path / "manifest.parquet"
    if content is None:
        pq.write_table(pa.table({"x": [1]}), path)
    else:
        path.write_bytes(content)
    with pytest.raises(DataError, match="no manifest of onesheet"):
        read_manifest(path, tmp_path)


def test_a_missing_manifest_names_the_command(tmp_path):
    with pytest.raises(DataError, match="onesheet data prepare"):
        read_manifest(tmp_path / "manifest.parquet", tmp_path)


@pytest.mark.posters
@pytest.mark.slow
def test_real_posters_do_not_leak(posters, tmp_path):
    """No film and no near-identical picture on two sides, every genre on all sides, on all the real posters."""
    manifest = prepare(posters, tmp_path)
    assert len(manifest.entries) == 6531
    assert "N/A" not in manifest.genres
    assert len(manifest.genres) == 24
    side = {entry.id: entry.split for entry in manifest.entries}
    assert len(side) == len(manifest.entries)
    usable = [entry for entry in manifest.entries if entry.split]
    hashes = np.array([int(entry.phash, 16) for entry in usable], dtype=np.uint64)
    splits = np.array([entry.split for entry in usable])
    for split in ("validation", "test"):
        inside, outside = hashes[splits == split], hashes[splits != split]
        assert np.bitwise_count(inside[:, None] ^ outside[None, :]).min() > 8
    shares = {split: manifest.split(split).targets().mean(axis=0) for split in ("train", "validation", "test")}
    frequent = shares["train"] > 0.01
    assert frequent.sum() == 20
    for split in ("validation", "test"):
        assert np.allclose(shares[split][frequent], shares["train"][frequent], rtol=0.05, atol=0.001)


def test_films_keep_their_split_when_others_come_and_go(raw, tmp_path):
    kept = tmp_path / "splits.csv"
    before = prepare(raw, tmp_path / "before", keep_splits=kept)
    assert prepare(raw, tmp_path / "again", keep_splits=kept).fingerprint == before.fingerprint

    gone = before.entries[0]
    lines = [line for line in (raw / "train.csv").read_text().splitlines() if not line.startswith(gone.id)]
    (raw / "train.csv").write_text("\n".join(lines) + "\n")
    random = np.random.default_rng(9)
    for number in range(60):
        picture = random.integers(0, 255, (9, 6, 3), np.uint8)
        path = _append(raw, f"new{number}", GENRES[number % 4])
        Image.fromarray(picture).resize((60, 90), Image.Resampling.BICUBIC).save(path, quality=90)
    after = prepare(raw, tmp_path / "after", keep_splits=kept)

    was = {entry.id: entry.split for entry in before.entries}
    assert all(entry.split == was[entry.id] for entry in after.entries if entry.id in was)
    assert {entry.split for entry in after.entries if entry.id.startswith("new")} == {"train", "validation", "test"}
    assert len(kept.read_text().splitlines()) == 1 + 240 + 60  # the film that is gone would come back where it was
    assert prepare(raw, tmp_path / "anew").split("test").entries != after.split("test").entries


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("film,side\ntt1,train\n", "its first line is not `Id,Split`"),
        ("Id,Split\ntt1,train\ntt2,exam\n", "line 3: needs a film id and one of train, validation, test"),
        ('Id,Split\ntt1,"train\n', "is not a readable CSV file"),
        ("", "its first line is not"),
    ],
)
def test_a_damaged_file_of_splits_is_refused_before_the_posters_are_looked_at(raw, tmp_path, text, said):
    kept = tmp_path / "splits.csv"
    kept.write_text(text)
    with pytest.raises(DataError, match=re.escape(said)):
        prepare(raw, tmp_path / "out", keep_splits=kept)
    assert kept.read_text() == text
    assert not (tmp_path / "out").exists()
