"""Label files as people have them, good and bad."""

from __future__ import annotations

import unicodedata
from pathlib import Path

import pytest

from onesheet.data.labels import read_labels
from onesheet.errors import DataError

HEADER = "Id,Genre,Comedy,Drama,N/A\n"


def _write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "train.csv"
    path.write_text(text)
    return path


def test_reads_genres_without_not_a_genre(tmp_path):
    labels = read_labels(_write(tmp_path, HEADER + "tt1,['Drama'],0,1,0\ntt2,['N/A'],0,0,1\n"))
    assert labels.genres == ("Comedy", "Drama")
    assert labels.by_id == {"tt1": ("Drama",), "tt2": ()}


def test_the_text_column_may_be_missing(tmp_path):
    labels = read_labels(_write(tmp_path, "\ufeffId,Comedy,Drama\ntt1,1,1\n"))
    assert labels.by_id == {"tt1": ("Comedy", "Drama")}


@pytest.mark.parametrize(
    "content",
    [
        "Id,Genre,Comédie,Drama,N/A\ntt1,x,0,1,0\ntt2,x,1,0,0\n".encode("latin-1"),
        "Id;Genre;Comédie;Drama;N/A\r\ntt1;['a', 'b'];0;1;0\r\ntt2;;1;0;0\r\n;;;;\r\n".encode("utf-8-sig"),
        "Id\tComédie\tDrama\ntt1\t0,0\t1,0\ntt2\t1,0\t0,0\n".encode("utf-16"),
        b",Id,Com\xc3\xa9die,Drama\n0,tt1,0.0,1.0\n1,tt2,1.0,0.0\n",
        b"Unnamed: 0,id, Com\xc3\xa9die , Drama\n0,tt1, False, True\n1, tt2 ,TRUE,false\n",
        b"Com\xc3\xa9die,Drama,imdbID\n0,1,tt1,\n\n1,0,tt2,\n\n",
        'poster,genre,Comédie,Drama\ntt1,"a\nb",0,1\ntt2,"",1,0\n'.encode(),
    ],
)
def test_tables_of_other_programs(tmp_path, content):
    path = tmp_path / "train.csv"
    path.write_bytes(content)
    labels = read_labels(path)
    assert labels.genres == ("Comédie", "Drama")
    assert labels.by_id == {"tt1": ("Drama",), "tt2": ("Comédie",)}


def test_ids_are_composed(tmp_path):
    labels = read_labels(_write(tmp_path, unicodedata.normalize("NFD", "Id,Drama\nAmélie,1\n") + "Amélie,1\n"))
    assert labels.by_id == {"Amélie": ("Drama",)}


@pytest.mark.parametrize("name", ["tt1.jpg", "tt1.JPEG", "tt1.webp", " tt1.png "])
def test_a_file_name_is_the_id_of_its_film(tmp_path, name):
    labels = read_labels(_write(tmp_path, f"file,Drama\n{name},1\ntt1,1\nMr. 2.5,1\n"))
    assert labels.by_id == {"tt1": ("Drama",), "Mr. 2.5": ("Drama",)}


def test_repeated_rows_count_once(tmp_path):
    labels = read_labels(_write(tmp_path, HEADER + "tt1,['Drama'],0,1,0\n" * 3))
    assert (labels.rows, labels.duplicates, labels.conflicts) == (3, 2, frozenset())


def test_rows_that_disagree_are_united_and_named(tmp_path):
    labels = read_labels(_write(tmp_path, HEADER + "tt1,['Drama'],0,1,0\ntt1,['Comedy'],1,0,0\n"))
    assert labels.by_id == {"tt1": ("Comedy", "Drama")}
    assert labels.conflicts == {"tt1"}


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "no column `Id`"),
        ("Name,Comedy\nx,1\n", "no column `Id`"),
        ("Id,Genre\ntt1,[]\n", "no genre columns"),
        ("Id,Genre,N/A\ntt1,['N/A'],1\n", "no genre columns"),
        (HEADER, "no rows"),
        (HEADER + "tt1,['Drama'],0\n", "line 2: has 3 fields where the header has 5"),
        (HEADER + "tt1,['Drama'],0,1,0,1\n", "line 2: has 6 fields where the header has 5"),
        (HEADER + "\ntt0,x,0,1,0\ntt1,['Drama'],0,yes,0\n", "line 4: column `Drama` needs 0 or 1 .*, got 'yes'"),
        (HEADER + "tt1,['Drama'],0,,0\n", "line 2: column `Drama` needs 0 or 1 .*, got ''"),
        (HEADER + "tt1,['Drama'],0,nan,0\n", "column `Drama` needs 0 or 1 .*, got 'nan'"),
        (HEADER + "tt1,['Drama'],0,2,0\n", "column `Drama` needs 0 or 1 .*, got '2'"),
        (HEADER + ",['Drama'],0,1,0\n", "line 2: column `Id` needs an id, .* got ''"),
        (HEADER + "../x,['Drama'],0,1,0\n", "line 2: column `Id` needs an id, .* got '../x'"),
        ("Path;Drama\nImages\\a.jpg;1\n", r"line 2: column `Path` needs an id, .* got 'Images\\\\a.jpg' .*semicolon"),
        ("Id,Title,Drama\ntt1,Toy Story,1\n", "line 2: column `Title` needs 0 or 1 .*, got 'Toy Story'"),
        ("Id;Drama\ntt1,1\n", "line 2: has 1 fields where the header has 2 .*delimiter semicolon"),
        ("Id,Drama,Drama\ntt1,1,1\n", "the column `Drama` twice"),
        ("Id,id,Drama\nt,tt1,1\n".replace("Id", "ID"), "the column `Id` twice"),
        (HEADER + "tt1,\"['Drama'\"x,0,1,0\n", "not a readable CSV"),
    ],
)
def test_nonsense_is_refused_with_the_reason(tmp_path, text, reason):
    with pytest.raises(DataError, match=reason):
        read_labels(_write(tmp_path, text))


def test_bytes_that_are_no_text(tmp_path):
    path = tmp_path / "train.csv"
    path.write_bytes(b"Id,Comedy\n\x00\x81,1\n")
    with pytest.raises(DataError, match="not a readable CSV"):
        read_labels(path)


def test_missing_file(tmp_path):
    with pytest.raises(DataError, match="no label file"):
        read_labels(tmp_path / "train.csv")
