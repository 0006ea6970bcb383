"""Label files as people have them, good and bad."""

from __future__ import annotations

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
        (HEADER + "tt1,['Drama'],0\n", "line 2: needs an id"),
        (HEADER + "tt1,['Drama'],0,1,0,1\n", "line 2: needs an id"),
        (HEADER + "tt1,['Drama'],0,yes,0\n", "line 2: needs an id"),
        (HEADER + ",['Drama'],0,1,0\n", "line 2: needs an id"),
        (HEADER + "../x,['Drama'],0,1,0\n", "no film id"),
        (HEADER + "tt1,\"['Drama'\"x,0,1,0\n", "not a readable CSV"),
    ],
)
def test_nonsense_is_refused_with_the_reason(tmp_path, text, reason):
    with pytest.raises(DataError, match=reason):
        read_labels(_write(tmp_path, text))


def test_bytes_that_are_no_text(tmp_path):
    path = tmp_path / "train.csv"
    path.write_bytes(b"Id,Comedy\n\xff\xfe,1\n")
    with pytest.raises(DataError, match="not a readable CSV"):
        read_labels(path)


def test_missing_file(tmp_path):
    with pytest.raises(DataError, match="no label file"):
        read_labels(tmp_path / "train.csv")
