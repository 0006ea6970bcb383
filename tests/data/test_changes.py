"""What a new version of the data is held to, and what is told of it."""

from __future__ import annotations

import json
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from onesheet import cli
from onesheet.data.changes import changes_between, checks_of, write_change_report
from onesheet.data.prepare import prepare


@pytest.fixture(scope="module")
def manifest(made_up_posters, tmp_path_factory):
    return prepare(made_up_posters, tmp_path_factory.mktemp("processed"))


def with_entry(manifest, index: int, **changes):
    entries = list(manifest.entries)
    entries[index] = replace(entries[index], **changes)
    return replace(manifest, entries=tuple(entries))


def verdicts(manifest, former=None) -> dict[str, str]:
    return {check.name: check.verdict for check in checks_of(manifest, former) if check.verdict != "ok"}


def first(manifest, split: str) -> int:
    return next(i for i, entry in enumerate(manifest.entries) if entry.split == split)


def test_a_good_version_passes(manifest):
    assert verdicts(manifest) == {}
    assert verdicts(manifest, manifest) == {}


def test_a_picture_on_two_sides_is_a_leak(manifest):
    twin = manifest.entries[first(manifest, "train")]
    leaking = with_entry(manifest, first(manifest, "test"), phash=f"{int(twin.phash, 16) ^ 1:016x}")
    assert verdicts(leaking) == {"near-identical pictures on two sides": "failed"}


def test_a_training_film_must_not_judge_later(manifest):
    index = first(manifest, "train")
    assert verdicts(with_entry(manifest, index, split="test"), manifest) == {"training films that judge now": "failed"}
    assert verdicts(with_entry(manifest, first(manifest, "test"), split="train"), manifest) == {}


def test_genres_that_go_or_come_are_told(manifest):
    fewer = replace(manifest, genres=manifest.genres[:-1])
    assert verdicts(fewer, manifest) == {"genres": "failed"}
    assert verdicts(manifest, fewer) == {"genres": "warning"}


def test_a_genre_that_is_all_on_one_side_is_told(manifest):
    entries = tuple(
        replace(entry, genres=("Horror",) if entry.split == "test" else ("Drama",)) for entry in manifest.entries
    )
    assert verdicts(replace(manifest, entries=entries)) == {"genres spread evenly over the splits": "warning"}


def test_many_damaged_posters_and_rows_that_disagree_are_told(made_up_posters, tmp_path):
    raw = Path(shutil.copytree(made_up_posters, tmp_path / "raw"))
    for number in range(8):
        (raw / "Images" / f"tt{number:07d}.jpg").write_bytes(b"no picture")
    with (raw / "train.csv").open("a") as file:
        file.write("tt0000100,['Horror'],0,0,1,0,0\ntt0000100,['Romance'],0,0,0,1,0\n")
    found = {check.name: check for check in checks_of(prepare(raw, tmp_path / "out"), None)}
    assert found["films set aside"].verdict == "warning"
    assert found["films set aside"].found == "8 (3.3%): 8 not_an_image"
    assert found["rows that disagree"].found == "1: tt0000100"


def test_what_became_of_each_film(made_up_posters, tmp_path):
    raw, kept = Path(shutil.copytree(made_up_posters, tmp_path / "raw")), tmp_path / "splits.csv"
    former = prepare(raw, tmp_path / "former", keep_splits=kept)
    lines = (raw / "train.csv").read_text().splitlines()
    gone = lines.pop(1).split(",")[0]
    relabelled, lines[1] = lines[1].split(",")[0], f"{lines[1].split(',')[0]},['all'],1,1,1,1,0"
    lines.append("new|<b>,['Drama'],0,1,0,0,0")
    Image.effect_noise((60, 90), 80).convert("RGB").save(raw / "Images" / "new|<b>.jpg")
    Image.effect_noise((60, 90), 80).convert("RGB").save(raw / "Images" / "tt0000009.jpg")
    (raw / "train.csv").write_text("\n".join(lines) + "\n")
    now = prepare(raw, tmp_path / "now", keep_splits=kept)

    changes = changes_between(former, now)
    assert (changes.added, changes.removed, changes.replaced, changes.moved) == (
        ("new|<b>",),
        (gone,),
        ("tt0000009",),
        (),
    )
    assert changes.relabelled == (relabelled,)

    page, _ = write_change_report(now, former, tmp_path / "report")
    text = page.read_text()
    assert "| added | 1: new\\|&lt;b> |" in text
    assert "| Drama |" in text
    assert "+" in text
    figures = [line.split("(")[1].rstrip(")") for line in text.splitlines() if line.startswith("![")]
    assert figures == ["before-and-now.png", "genres-by-split.png", "co-occurrence.png", "labels-per-poster.png"]
    for figure in figures:
        with Image.open(page.parent / figure) as picture:
            assert picture.width > 400
    numbers = json.loads((page.parent / "report.json").read_text())
    assert numbers["changes"]["removed"] == [gone]


def test_the_command_fails_where_a_check_does(made_up_posters, tmp_path, monkeypatch, capsys):
    def run(*arguments: str) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["onesheet", "data", "report", "--raw", str(made_up_posters), *arguments])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        said = capsys.readouterr()
        return int(ended.value.code or 0), said.out + said.err

    for seed in (1, 2):
        prepare(made_up_posters, tmp_path / str(seed), seed=seed)
    options = ("--processed", str(tmp_path / "2"), "--out", str(tmp_path / "report"))
    assert run(*options)[0] == 0
    code, said = run(*options, "--former", str(tmp_path / "1" / "manifest.parquet"))
    assert code == 1
    assert "failed: training films that judge now" in said
    code, said = run(*options, "--former", str(tmp_path / "nothing.parquet"))
    assert (code, "no manifest at" in said) == (1, True)
