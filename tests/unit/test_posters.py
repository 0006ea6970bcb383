"""Which file shows which film."""

from __future__ import annotations

import unicodedata

import pytest

from onesheet.data.posters import PosterFolder, PosterNames, is_picture_name
from onesheet.errors import DataError


@pytest.mark.parametrize("suffix", [".jpg", ".JPG", ".jpeg", ".jpe", ".jfif", ".png", ".PnG", ".webp", ".gif"])
def test_a_poster_may_have_any_suffix_of_a_format_that_is_read(suffix):
    assert PosterNames([f"tt1{suffix}", "tt2.txt"]).find("tt1") == [f"tt1{suffix}"]


@pytest.mark.parametrize("name", ["tt1", "tt1.txt", ".tt1.jpg", ".jpg", "tt1.jpg.part", "._tt1.jpg", "tt1.bmp"])
def test_what_is_no_poster(name):
    assert not is_picture_name(name)
    assert not PosterNames([name]).find("tt1")


def test_of_several_files_of_a_film_the_first_suffix_of_the_list_decides(tmp_path):
    for name in ("tt1.gif", "tt1.PNG", "tt1.jpeg", "tt1.JPG"):
        (tmp_path / name).touch()
    folder = PosterFolder(tmp_path)
    assert folder.find("tt1") == tmp_path / "tt1.JPG"
    assert folder.others("tt1") == ["tt1.jpeg", "tt1.PNG", "tt1.gif"]


@pytest.mark.parametrize("form", ["NFC", "NFD"])
@pytest.mark.parametrize("film", ["Amélie", "Ame\u0301lie"])
def test_accents_may_be_composed_or_not(form, film):
    name = unicodedata.normalize(form, "Amélie.jpg")
    assert PosterNames([name]).find(film) == [name]


def test_an_id_may_hold_dots():
    names = PosterNames(["a.b.jpg"])
    assert names.find("a.b") == ["a.b.jpg"]
    assert not names.find("a")


def test_folders_are_no_posters(tmp_path):
    (tmp_path / "tt1.jpg").mkdir()
    (tmp_path / "below").mkdir()
    (tmp_path / "below/tt2.jpg").touch()
    folder = PosterFolder(tmp_path)
    assert folder.missing(["tt1", "tt2"]) == ["tt1", "tt2"]
    assert folder.find("tt2") == tmp_path / "tt2.jpg"


def test_a_folder_that_is_not_there(tmp_path):
    with pytest.raises(DataError, match="the folder of the posters, cannot be listed: No such file"):
        PosterFolder(tmp_path / "none")
