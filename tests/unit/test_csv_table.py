"""CSV files as people have them."""

from __future__ import annotations

import codecs
import unicodedata
from pathlib import Path

import pytest

from onesheet.csv_table import CsvTable, find_column
from onesheet.errors import DataError

ROWS = [["1", "Amélie.jpg"], ["2", "b.jpg"]]


def _write(tmp_path: Path, content: str | bytes) -> Path:
    path = tmp_path / "list.csv"
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def _rows(path: Path) -> list[list[str]]:
    return [fields for _, fields in CsvTable(path, ["path"]).records()]


@pytest.mark.parametrize(
    "content",
    [
        "id,path\n1,Amélie.jpg\n2,b.jpg\n",
        "id;path\r\n1;Amélie.jpg\r\n2;b.jpg\r\n",
        "id\tpath\n1\tAmélie.jpg\n2\tb.jpg",
        "id|path\r1|Amélie.jpg\r2|b.jpg\r",
        "sep=;\nid;path\n1;Amélie.jpg\n2;b.jpg\n",
        "\n\nid,path\n\n1,Amélie.jpg\n\n2,b.jpg\n\n",
        '"id", "path"\n"1", "Amélie.jpg"\n"2", "b.jpg"\n',
        "id,path\n1,Amélie.jpg\n2,b.jpg\n".encode("utf-8-sig"),
        "id,path\n1,Amélie.jpg\n2,b.jpg\n".encode("latin-1"),
        "id\tpath\r\n1\tAmélie.jpg\r\n2\tb.jpg\r\n".encode("utf-16"),
        codecs.BOM_UTF16_BE + "id\tpath\n1\tAmélie.jpg\n2\tb.jpg\n".encode("utf-16-be"),
    ],
)
def test_encodings_delimiters_and_line_ends(tmp_path, content):
    assert _rows(_write(tmp_path, content)) == ROWS


def test_windows_1252_is_more_than_latin_1(tmp_path):
    assert _rows(_write(tmp_path, b"path\n\x80.jpg\n")) == [["€.jpg"]]


@pytest.mark.parametrize("header", ["path", "PATH", "Path", " path ", "\xa0path", "\ufeffpath", '"path "', "p_a t-h"])
def test_case_blanks_and_underscores_of_a_header_do_not_count(tmp_path, header):
    assert _rows(_write(tmp_path, f"{header}\na.jpg\n")) == [["a.jpg"]]


def test_the_delimiter_is_that_of_the_column_that_is_looked_for(tmp_path):
    """Not that of most columns: a title may hold any letter."""
    table = CsvTable(_write(tmp_path, "one, two, three, title;path\nx;a.jpg\n"), ["path"])
    assert table.columns == ("one, two, three, title", "path")


def test_names_of_columns_are_composed(tmp_path):
    header = unicodedata.normalize("NFD", "path,Comédie")
    assert CsvTable(_write(tmp_path, f"{header}\na,1\n"), ["path"]).columns == ("path", "Comédie")


def test_preferred_names_come_first_and_exact_ones_before_others():
    assert find_column(["url", "path"], ["path", "url"]) == 1
    assert find_column(["Path", "path"], ["path"]) == 1
    assert find_column(["Link", "Poster URL"], ["path", "poster_url"]) == 1
    assert find_column(["Link"], ["path"]) is None
    with pytest.raises(ValueError, match="`path` twice"):
        find_column(["Path", "PATH"], ["path"])


def test_records_know_their_first_line(tmp_path):
    table = CsvTable(_write(tmp_path, '\npath,title\na.jpg,"one\ntwo"\n\nb.jpg,x\n'), ["path"])
    assert [line for line, _ in table.records()] == [3, 6]


def test_an_error_names_all_that_is_needed_to_find_it(tmp_path):
    table = CsvTable(_write(tmp_path, "id;path\n1;x\n"), ["path"])
    assert str(table.field_error(2, 1, "x" * 100, "needs a y")) == (
        f"list.csv, line 2: column `path` needs a y, got '{'x' * 60}…' "
        "(read as UTF-8, delimiter semicolon, columns `id`, `path`)"
    )


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("", "no column `path` or `url` .*columns none"),
        (" \n\n", "no column `path` or `url`"),
        ("id;film\n1;2\n", "no column `path` or `url` .*delimiter semicolon, columns `id`, `film`"),
        ("path,id,path\n", "has the column `path` twice"),
        (",".join(f"c{number}" for number in range(40)), "`c11` and 28 more"),
        ("x" * 100, "`x{60}…`"),
        ('path,title\na.jpg,"open\n', "line 2: unexpected end of data"),
        ('path,title\na.jpg,"a"b\n', "line 2: ',' expected after '\"'"),
        ("path\n" + "a" * 2**20, "line 2: there is a line of 1,048,576 letters or more"),
        (b"path\n\x00\x01\n", "is not text in UTF-8"),
        (b"path\n\x81\n", "is not text in UTF-8"),
        (codecs.BOM_UTF16_LE + b"p", "is not text in UTF-8"),
        (b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR", "is not text in UTF-8"),
    ],
)
def test_what_is_no_such_table_is_told(tmp_path, content, told):
    path = _write(tmp_path, content)
    with pytest.raises(DataError, match=told):
        list(CsvTable(path, ["path", "url"]).records())


def test_a_file_that_cannot_be_read_is_told(tmp_path):
    with pytest.raises(DataError, match=r"list\.csv cannot be read: No such file"):
        CsvTable(tmp_path / "list.csv", ["path"])
