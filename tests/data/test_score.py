"""`onesheet score`: every kind of catalogue, hostile ones, and work that is broken off."""

from __future__ import annotations

import csv
import gzip
import io
import ipaddress
import json
import os
import pickle
import signal
import ssl
import struct
import subprocess
import sys
import tarfile
import time
import tracemalloc
import unicodedata
import zipfile
from contextlib import contextmanager
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import trustme
from typer.testing import CliRunner

from onesheet.bundle import load_bundle
from onesheet.cli import app
from onesheet.cloud.transfer import upload
from onesheet.errors import ConfigError, DataError, InvalidRequestError, OnesheetError, TransferError
from onesheet.image import DEFAULT_LIMITS
from onesheet.image_statistics import image_statistics
from onesheet.locks import lock
from onesheet.scoring import addresses, archives, bucket, ray_engine
from onesheet.scoring.parts import PART_ROWS
from onesheet.scoring.rows import Entry, Row
from onesheet.scoring.scorer import Scorer
from onesheet.scoring.sources import find_source
from onesheet.serving.fetch import ImageFetcher
from tests.processes import MAX_WAIT, eventually, serve_in_thread

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

COLOURS = ("red", "blue", "white", "black", "yellow", "green")


@pytest.fixture
def folder(tmp_path: Path, make_poster: Callable[..., bytes]) -> Path:
    """Posters, some of which cannot be answered, and what is no poster at all."""
    top = tmp_path / "catalogue"
    (top / "b/deep").mkdir(parents=True)
    (top / ".hidden").mkdir()
    for number, colour in enumerate(COLOURS):
        place = top / ("b/deep" if number % 2 else ".")
        (place / f"{colour}.jpg").write_bytes(make_poster(colour))
    (top / "b/late.PNG").write_bytes(make_poster("blue", kind="PNG"))
    (top / "broken.jpg").write_bytes(make_poster("red")[:300])
    (top / "empty.png").write_bytes(b"")
    (top / "foreign.bmp").write_bytes(b"BM" + bytes(100))
    (top / "tiny.jpg").write_bytes(make_poster("red", (4, 4)))
    (top / "notes.txt").write_text("not a poster")
    (top / ".hidden/secret.jpg").write_bytes(make_poster())
    (top / ".DS_Store.jpg").write_bytes(b"")
    return top


def names(folder: Path) -> list[str]:
    """As they come in a listing."""
    suffixes = (".jpg", ".png", ".bmp")
    found = (path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.suffix.lower() in suffixes)
    return sorted(name for name in found if not any(part.startswith(".") for part in name.split("/")))


def run(*arguments: object, code: int = 0) -> dict[str, Any]:
    """What the command says."""
    result = CliRunner().invoke(app, ["score", *map(str, arguments), "--json"])
    if isinstance(result.exception, OnesheetError):
        raise result.exception
    assert result.exit_code == code, result.output
    return dict(json.loads(result.stdout))


@pytest.fixture(autouse=True)
def _new_connections() -> None:
    """Each test has servers of its own."""
    addresses._fetcher.cache_clear()
    bucket._bucket.cache_clear()
    bucket._client_or_error.cache_clear()
    archives._zip.cache_clear()


@pytest.fixture
def score(tiny_bundle: Path, tmp_path: Path) -> Callable[..., pa.Table]:
    """`score(source, *options)`: the catalogue as a table, by the tiny bundle."""

    def scored(source: object, *options: object, out: str = "out.parquet", code: int = 0) -> pa.Table:
        run(source, "--out", tmp_path / out, "--bundle", tiny_bundle, *options, code=code)
        return pq.read_table(tmp_path / out)

    return scored


# ------------------------------------------------------------------------------------------------ what it says


def test_every_poster_has_a_row_with_what_the_model_says_or_what_is_wrong(folder, score, predictor):
    table = score(folder, "--embeddings")
    assert table["poster"].to_pylist() == names(folder)
    rows = {row["poster"]: row for row in table.to_pylist()}
    for name in ("red.jpg", "b/deep/blue.jpg", "b/late.PNG"):
        row, content = rows[name], (folder / name).read_bytes()
        expected, picture = predictor.predict(content), predictor.read(content)
        assert row["genres"] == [score.label for score in expected.predicted]
        assert list(row["probabilities"].values()) == pytest.approx(expected.probabilities.tolist(), abs=1e-6)
        assert list(row["probabilities"]) == list(predictor.genres)
        assert row["embedding"] == pytest.approx(expected.embedding.astype(np.float16).tolist())
        assert {key: row[key] for key in image_statistics([picture])[0]} == pytest.approx(
            image_statistics([picture])[0]
        )
        assert row["error"] is row["message"] is None
    wrong = {name: row["error"] for name, row in rows.items() if row["error"]}
    assert wrong == {
        "broken.jpg": "corrupt_image",
        "empty.png": "empty_image",
        "foreign.bmp": "unsupported_format",
        "tiny.jpg": "not_poster_shaped",
    }
    assert rows["foreign.bmp"]["message"].startswith("BMP is not supported")
    assert {rows["broken.jpg"][key] for key in ("genres", "probabilities", "embedding", "mean", "width")} == {None}


def test_the_file_says_what_it_was_made_with(folder, score, tiny_bundle):
    table = score(folder)
    made_with = json.loads(table.schema.metadata[b"onesheet"])
    assert made_with["bundle"]["name"] == "tiny"
    assert made_with["bundle"]["version"] == "1.2.3"
    assert made_with["genres"] == [field.name for field in table.schema.field("probabilities").type]
    assert made_with["thresholds"]["Horror"] == 0.6
    assert "embedding" not in table.column_names


def test_the_command_says_how_many_and_what_was_wrong(folder, tiny_bundle, tmp_path):
    arguments = ["score", str(folder), "--out", str(tmp_path / "out.parquet"), "--bundle", str(tiny_bundle)]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0
    assert "out.parquet: 11 posters, 11 of them in" in result.stdout
    assert "4 could not be scored: 1 corrupt_image, 1 empty_image, 1 not_poster_shaped, 1 unsupported" in result.stdout
    assert "skipped 3 entries: 2 hidden, 1 not image files" in result.stdout
    assert not (tmp_path / "out.parquet.parts").exists()


# ----------------------------------------------------------------------------------------- kinds of catalogues


def as_csv(folder: Path, tmp_path: Path) -> Path:
    path = folder / "list.csv"
    with path.open("w", newline="", encoding="utf-8-sig") as file:
        csv.writer(file).writerows([["title", "path"], *([f'say "{name}"', name] for name in names(folder))])
    return path


def as_parquet(folder: Path, tmp_path: Path) -> Path:
    path = tmp_path / "list.parquet"
    full = [str(folder / name) for name in names(folder)]
    table = pa.table({"url": ["https://x/"] * len(full), "path": pa.array(full, pa.string())})
    pq.write_table(table, path, row_group_size=3)
    return path


def all_files(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def as_zip(folder: Path, tmp_path: Path, names: Callable[[Path], list[str]] = names) -> Path:
    path = tmp_path / "catalogue.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in names(folder) if names is all_files else ["notes.txt", *names(folder)]:
            archive.write(folder / name, name)
    return path


def as_tar(folder: Path, tmp_path: Path, suffix: str = "tar", names: Callable[[Path], list[str]] = names) -> Path:
    path = tmp_path / f"catalogue.{suffix}"
    with tarfile.open(path, "w" if suffix == "tar" else "w:gz") as archive:
        for name in names(folder) if names is all_files else ["b", "notes.txt", *names(folder)]:
            archive.add(folder / name, name, recursive=False)
    return path


@pytest.mark.parametrize("kind", [as_csv, as_parquet, as_zip, as_tar, partial(as_tar, suffix="tgz")])
def test_all_kinds_of_catalogues_have_the_same_rows(kind, folder, score, tmp_path):
    expected = score(folder)
    table = score(kind(folder, tmp_path), out="other.parquet")
    found = [name.removeprefix(f"{folder}/") for name in table["poster"].to_pylist()]
    assert found == names(folder)
    other = ["poster", "etag"]
    assert table.drop_columns(other).equals(expected.drop_columns(other))


@pytest.mark.parametrize(
    "content",
    [
        "id;path;year\n1;b/red.jpg;2001\n2;white.jpg;2002\n".encode("utf-8-sig"),
        b"imdbId,Title,Poster\n1,Les Mis\xe9rables,b/red.jpg\n2,b,white.jpg\n",
        b"id,path\r\n1,b\\red.jpg\r\n2,.\\white.jpg\r\n",
        b"id, Image Path \n1, b/red.jpg\n2,white.jpg \n",
        "id\tfile\n1\tb/red.jpg\n2\twhite.jpg\n".encode("utf-16"),
    ],
)
def test_tables_as_other_programs_write_them(content, tmp_path, score, make_poster):
    (tmp_path / "b").mkdir()
    (tmp_path / "b/red.jpg").write_bytes(make_poster("red"))
    (tmp_path / "white.jpg").write_bytes(make_poster("white"))
    (tmp_path / "list.csv").write_bytes(content)
    assert score(tmp_path / "list.csv")["message"].to_pylist() == [None, None]


@pytest.mark.parametrize("kind", [pa.large_string(), pa.string_view(), pa.dictionary(pa.int32(), pa.string())], ids=str)
def test_columns_of_parquet_hold_text_in_any_layout(kind, tmp_path, score, make_poster):
    (tmp_path / "red.jpg").write_bytes(make_poster("red"))
    pq.write_table(pa.table({"path": pa.array(["red.jpg"]).cast(kind)}), tmp_path / "list.parquet")
    assert score(tmp_path / "list.parquet")["message"].to_pylist() == [None]


def test_paths_as_other_systems_write_them(tmp_path, score, make_poster):
    composed, decomposed = (unicodedata.normalize(form, "é") for form in ("NFC", "NFD"))
    for name in (f"1{composed}.jpg", f"2{decomposed}.jpg", "3 .jpg", "3.jpg", "4%.jpg"):
        (tmp_path / name).write_bytes(make_poster("red"))
    found = [
        f"1{decomposed}.jpg",
        f"2{composed}.jpg",
        "3 .jpg",
        (tmp_path / "4%.jpg").as_uri(),
        (tmp_path / "3.jpg").as_uri().replace("file:///", "FILE://localhost/"),
    ]
    lost = ["C:\\posters\\3.jpg", "file://nas/3.jpg", "file://[/3.jpg", "gone.jpg"]
    write(tmp_path / "list.csv", "\n".join(["path", *found, *lost]))
    table = score(tmp_path / "list.csv")
    assert table["poster"].to_pylist() == [*found, *lost]
    assert table["message"].to_pylist() == [
        *[None] * len(found),
        "no such file: this is a path of a Windows machine",
        "a file:// address of another machine",
        "not a valid file:// address",
        "no such file",
    ]


def test_a_bucket(emulator, folder, score):
    upload(folder, "gs://posters/all")
    here = score(folder, out="here.parquet")
    assert score("gs://posters/all").drop_columns("etag").equals(here.drop_columns("etag"))
    with pytest.raises(TransferError, match="gs://nowhere"):
        score("gs://nowhere/all", out="nowhere.parquet")


def test_a_table_of_objects(emulator, folder, score, tmp_path):
    upload(folder, "gs://posters/all")
    (tmp_path / "list.csv").write_text(
        "url\ngs://posters/all/red.jpg\ngs://posters/all/gone.jpg\ngs://posters/all/empty.png\n"
    )
    table = score(tmp_path / "list.csv")
    assert table["error"].to_pylist() == [None, "not_found", "empty_image"]


def test_an_object_that_is_larger_than_a_poster_is_not_fetched_whole(
    emulator, tmp_path, score, monkeypatch, make_poster
):
    monkeypatch.setenv("ONESHEET_MAX_UPLOAD_BYTES", "100000")
    (tmp_path / "all").mkdir()
    (tmp_path / "all/large.jpg").write_bytes(bytes(5_000_000))
    (tmp_path / "all/red.jpg").write_bytes(make_poster("red"))
    upload(tmp_path / "all", "gs://posters/all")
    assert score("gs://posters/all")["error"].to_pylist() == ["image_too_large", None]


def test_what_is_wrong_with_an_object_in_a_table_ends_nothing_else(folder, tmp_path, score, monkeypatch):
    """No credentials, a bucket of no possible name, and a network that is not there."""
    monkeypatch.delenv("STORAGE_EMULATOR_HOST", raising=False)
    monkeypatch.setenv("NO_GCE_CHECK", "true")
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(tmp_path / "none.json"))
    table = write(folder / "list.csv", "path\nred.jpg\ngs://somewhere/a.jpg\ngs://No/a.jpg\nwhite.jpg\n")
    rows = score(table, "--seconds", "0.5").to_pylist()
    assert [row["error"] for row in rows] == [None, "url_unreachable", "url_unreachable", None]
    assert rows[1]["message"].startswith("there are no Google credentials here that work")
    assert rows[2]["message"] == "gs://No/a.jpg is no address like gs://bucket/folder"

    bucket._bucket.cache_clear()
    bucket._client_or_error.cache_clear()
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", "http://127.0.0.1:9")
    rows = score(table, "--update", "--seconds", "0.5").to_pylist()
    assert [row["error"] for row in rows] == [None, "url_unreachable", "url_unreachable", None]
    assert rows[1]["message"].startswith("gs://somewhere/a.jpg cannot be reached")


def test_a_table_of_addresses(folder, score, tmp_path, monkeypatch):
    with site(folder) as (base, trusted):
        monkeypatch.setattr(
            addresses,
            "ImageFetcher",
            partial(ImageFetcher, resolve=here, is_allowed=lambda _: True, ssl_context=trusted),
        )
        (tmp_path / "list.csv").write_text(
            f"id,url\n1,{base}/red.jpg\n2,{base}/none.jpg\n3,http://poster.example/a.jpg\n4,\n5,{base}/slow.jpg\n"
        )
        table = score(tmp_path / "list.csv", "--seconds", "0.5")
    errors = [None, "url_unreachable", "url_not_allowed", "not_found", "url_unreachable"]
    assert table["error"].to_pylist() == errors
    assert table["genres"].to_pylist()[0] == ["Romance"]


async def here(*_: object) -> list[ipaddress.IPv4Address]:
    return [ipaddress.IPv4Address("127.0.0.1")]


@contextmanager
def site(folder: Path) -> Iterator[tuple[str, ssl.SSLContext]]:
    """A server of posters by https, and who trusts it."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if self.path == "/slow.jpg":
                time.sleep(1)
            file = folder / self.path[1:]
            self.send_response(200 if file.is_file() else 404)
            self.end_headers()
            if file.is_file():
                self.wfile.write(file.read_bytes())

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    authority = trustme.CA()
    trusted = ssl.create_default_context()
    authority.configure_trust(trusted)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("poster.example").configure_cert(context)
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    with serve_in_thread(server):
        yield f"https://poster.example:{server.server_port}", trusted


# ------------------------------------------------------------------------------------------- hostile catalogues


def test_names_in_an_archive_are_never_paths(tmp_path, score, make_poster):
    with tarfile.open(tmp_path / "evil.tar", "w") as archive:
        for name in ("../../outside.jpg", "/etc/passwd.jpg"):
            add(archive, name, make_poster("red"))
        link = tarfile.TarInfo("link.jpg")
        link.type, link.linkname = tarfile.SYMTYPE, str(tmp_path / "secret.jpg")
        archive.addfile(link)
    (tmp_path / "secret.jpg").write_bytes(make_poster("blue"))
    before = sorted(tmp_path.iterdir())
    table = score(tmp_path / "evil.tar")
    assert table["poster"].to_pylist() == ["../../outside.jpg", "/etc/passwd.jpg", "link.jpg"]
    assert table["error"].to_pylist() == [None, None, "not_a_file"]
    assert sorted(tmp_path.iterdir()) == sorted([*before, tmp_path / "out.parquet"])


def add(archive: tarfile.TarFile, name: str, content: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(content)
    archive.addfile(member, io.BytesIO(content))


@pytest.mark.parametrize("suffix", ["tar", "tgz"])
def test_what_comes_before_damage_in_a_tar_is_answered(suffix, folder, tmp_path, score):
    whole = as_tar(folder, tmp_path, suffix).read_bytes()
    half = tmp_path / f"half.{suffix}"
    half.write_bytes(whole[: len(whole) * 2 // 3])
    table = score(half)
    rows = table.to_pylist()
    assert rows[-1]["error"] == "corrupt_image"
    assert "what may have come after this is lost" in rows[-1]["message"]
    assert [row["poster"] for row in rows[:-1]] == names(folder)[: len(rows) - 1]
    assert len(rows) > 3


def test_a_packed_tar_may_end_in_the_middle_of_a_poster(tmp_path, score):
    """Noise, which cannot be packed: the end comes while a poster is read, and not its header."""
    noise = np.random.default_rng(0)
    with tarfile.open(tmp_path / "whole.tgz", "w:gz") as archive:
        for name in ("first.jpg", "second.jpg"):
            add(archive, name, noise.bytes(200_000))
    (tmp_path / "cut.tgz").write_bytes((tmp_path / "whole.tgz").read_bytes()[:300_000])
    rows = score(tmp_path / "cut.tgz", code=1).to_pylist()
    assert [(row["poster"], row["error"]) for row in rows] == [
        ("first.jpg", "not_an_image"),
        ("second.jpg", "corrupt_image"),
        ("", "corrupt_image"),
    ]


def test_a_tar_cut_between_two_members_is_not_taken_for_whole(tmp_path, score, make_poster):
    with tarfile.open(tmp_path / "cut.tar", "w") as archive:
        add(archive, "red.jpg", make_poster("red"))
        end = archive.offset
        add(archive, "blue.jpg", make_poster("blue"))
    (tmp_path / "cut.tar").write_bytes((tmp_path / "cut.tar").read_bytes()[:end])
    assert score(tmp_path / "cut.tar")["error"].to_pylist() == [None, "corrupt_image"]


def test_a_header_that_wants_all_memory_is_refused(tmp_path, score):
    header = tarfile.TarInfo("long")
    header.type, header.size = tarfile.GNUTYPE_LONGNAME, 8 * 2**30
    (tmp_path / "bomb.tar").write_bytes(header.tobuf() + bytes(10240))
    with pytest.raises(DataError, match="no tar archive that can be read"):
        score(tmp_path / "bomb.tar")


def test_members_of_a_zip_that_are_too_large_encrypted_or_packed_oddly(tmp_path, score, make_poster, monkeypatch):
    monkeypatch.setenv("ONESHEET_MAX_UPLOAD_BYTES", "100000")
    path = tmp_path / "odd.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("bomb.jpg", bytes(50 * 2**20))
        archive.writestr("good.jpg", make_poster("red"))
        archive.writestr("odd.jpg", make_poster("red"), zipfile.ZIP_LZMA)
        archive.writestr("patch.jpg", make_poster("red"))
        archive.writestr("secret.jpg", make_poster("red"))
    content = bytearray(path.read_bytes())
    for name, flag in ((b"patch.jpg", 0x20), (b"secret.jpg", 1)):
        listed = content.rindex(name) - 46
        assert content[listed:].startswith(b"PK\x01\x02")
        content[listed + 8] |= flag
    path.write_bytes(content)
    table = score(path)
    assert table["error"].to_pylist() == [
        *("image_too_large", None, "unreadable_file", "corrupt_image", "unreadable_file")
    ]
    assert table["message"].to_pylist()[2] == "is packed in a way that is not read; use deflate"
    assert table["message"].to_pylist()[4] == "is encrypted"


def test_a_member_of_a_zip_that_is_larger_than_it_says_costs_no_memory(tmp_path, score, make_poster, monkeypatch):
    """Its list and its header both say 1,000 bytes."""
    monkeypatch.setenv("ONESHEET_MAX_UPLOAD_BYTES", "1000000")
    path = tmp_path / "lies.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("bomb.jpg", bytes(200 * 2**20))
        archive.writestr("good.jpg", make_poster("red"))
    content = bytearray(path.read_bytes())
    for header, at in ((content.index(b"PK\x03\x04"), 22), (content.index(b"PK\x01\x02"), 24)):
        content[header + at : header + at + 4] = struct.pack("<I", 1000)
    path.write_bytes(content)
    tracemalloc.start()
    try:
        assert score(path)["error"].to_pylist() == ["corrupt_image", None]
        assert tracemalloc.get_traced_memory()[1] < 60e6
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("suffix", ["tar", "tgz"])
@pytest.mark.parametrize("kind", ["negative size", "endless map"])
def test_a_header_of_a_tar_cannot_ask_for_everything(kind, suffix, tmp_path, score, make_poster):
    good = tarfile.TarInfo("good.jpg")
    good.size = len(make_poster())
    evil = tarfile.TarInfo("evil.jpg")
    after = b"0\n" * 5_000_000
    if kind == "negative size":
        block = bytearray(evil.tobuf(tarfile.GNU_FORMAT))
        block[124:136] = b"\xff" * 11 + b"\x00"
        block[148:156] = b"%06o\0 " % (256 + sum(block[:148]) + sum(block[156:512]))
        evil_header = bytes(block)
    else:
        evil.size, evil.pax_headers = len(after), {"GNU.sparse.major": "1", "GNU.sparse.minor": "0"}
        evil_header = evil.tobuf(tarfile.PAX_FORMAT)
        after = b"9999999\n" + after
    poster = make_poster()
    content = good.tobuf() + poster + bytes(-len(poster) % 512) + evil_header + after + bytes(10240)
    path = tmp_path / f"evil.{suffix}"
    path.write_bytes(content if suffix == "tar" else gzip.compress(content, 1))
    tracemalloc.start()
    try:
        assert score(path)["error"].to_pylist() == [None, "corrupt_image"]
        assert tracemalloc.get_traced_memory()[1] < 60e6
    finally:
        tracemalloc.stop()


def test_a_list_of_members_that_wants_all_memory_is_refused(tmp_path, score, monkeypatch):
    monkeypatch.setattr(archives, "MAX_DIRECTORY_BYTES", 1000)
    with zipfile.ZipFile(tmp_path / "many.zip", "w") as archive:
        for number in range(100):
            archive.writestr(f"{number}.jpg", b"")
    with pytest.raises(DataError, match=r"too long; pack them as \.tar"):
        score(tmp_path / "many.zip")


def test_a_damaged_member_is_an_error_of_its_own_row(tmp_path, folder, score):
    path = as_zip(folder, tmp_path)
    with zipfile.ZipFile(path) as archive:
        member = archive.getinfo("red.jpg")
    content = bytearray(path.read_bytes())
    middle = member.header_offset + 30 + len("red.jpg") + member.compress_size // 2
    content[middle : middle + 8] = bytes(8)
    path.write_bytes(content)
    rows = {row["poster"]: row["error"] for row in score(path).to_pylist()}
    assert rows["red.jpg"] == "corrupt_image"
    assert rows["white.jpg"] is None


@pytest.mark.parametrize("name", ["list.csv", "list.parquet", "catalogue.zip", "catalogue.tar", "catalogue.tgz"])
@pytest.mark.parametrize("content", [b"", b"\xff\x00nonsense" * 100, struct.pack("<I", 7) * 512])
def test_what_is_not_what_its_name_says(name, content, tmp_path, score):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError):
        score(tmp_path / name)


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda top: top / "none", "no such file or folder"),
        (lambda top: write(top / "poster.jpg", ""), "is no catalogue; name a folder"),
        (
            lambda top: write(top / "list.csv", "id,film\n1,2\n"),
            "has no column `path` or `url` .*delimiter comma, columns `id`, `film`",
        ),
        (lambda top: write(top / "list.csv", "path\n" + "a" * 2**20), "line of 1,048,576 letters or more"),
        (lambda top: numbers(top / "list.parquet"), "holds int64, no text"),
        (lambda top: numbers(top / "list.parquet", "film"), "no column `path` or `url`; its columns are film"),
    ],
)
def test_a_source_that_is_none(make, reason, tmp_path, score):
    with pytest.raises((InvalidRequestError, DataError), match=reason):
        score(make(tmp_path))


def write(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def numbers(path: Path, column: str = "path") -> Path:
    pq.write_table(pa.table({column: [1, 2]}), path)
    return path


# ------------------------------------------------------------------------------------- work that is broken off


@pytest.fixture
def many(tmp_path: Path, make_poster: Callable[..., bytes]) -> Path:
    """A table of 12 parts and a bit; every 50th poster is missing."""
    for colour in COLOURS:
        (tmp_path / f"{colour}.jpg").write_bytes(make_poster(colour, (300, 450)))
    rows = [COLOURS[number % len(COLOURS)] if number % 50 else "missing" for number in range(12 * PART_ROWS + 77)]
    return write(tmp_path / "many.csv", "\n".join(["path", *(f"{name}.jpg" for name in rows)]))


@pytest.fixture
def started(start_process: Callable[..., subprocess.Popen[str]]) -> Callable[..., subprocess.Popen[str]]:
    def start(many: Path, out: Path, bundle: Path, *options: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "onesheet", "score", many, "--out", out, "--bundle", bundle, *options]
        return start_process([*command, "--json"], stdout=subprocess.PIPE, stderr=subprocess.PIPE)

    return start


def finished(process: subprocess.Popen[str]) -> dict[str, Any]:
    said, errors = process.communicate(timeout=MAX_WAIT)
    assert process.returncode == 0, errors
    return dict(json.loads(said))


def parts(out: Path) -> dict[str, int]:
    """Those that are there, and when they were written."""
    return {path.name: path.stat().st_mtime_ns for path in Path(f"{out}.parts").glob("*.parquet")}


def test_a_run_killed_ten_times_makes_the_same_file(started, many, tiny_bundle, tmp_path):
    unbroken, broken = tmp_path / "unbroken.parquet", tmp_path / "broken.parquet"
    done = finished(started(many, unbroken, tiny_bundle, "--embeddings"))
    assert done["rows"] == 12 * PART_ROWS + 77
    known: dict[str, int] = {}
    for _ in range(10):
        process = started(many, broken, tiny_bundle, "--embeddings")
        while len(parts(broken)) == len(known):
            assert process.poll() is None, process.communicate()
            time.sleep(0.002)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        now = parts(broken)
        assert known.items() <= now.items()  # nothing is done twice
        assert not broken.exists()
        known = now
    done = finished(started(many, broken, tiny_bundle, "--embeddings"))
    assert done["rows_before"] == len(known) * PART_ROWS
    assert broken.read_bytes() == unbroken.read_bytes()
    assert done["errors"] == {"not_found": 125}


def test_ctrl_c_keeps_what_is_done(started, many, tiny_bundle, tmp_path):
    out = tmp_path / "out.parquet"
    process = started(many, out, tiny_bundle)
    eventually(lambda: parts(out) or process.poll() is not None)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=MAX_WAIT)
    assert process.returncode == 130
    assert "Traceback" not in errors
    assert parts(out)


def kill_after_three_parts(
    started: Callable[..., subprocess.Popen[str]], source: Path, out: Path, bundle: Path
) -> None:
    process = started(source, out, bundle)
    eventually(lambda: len(parts(out)) >= 3 or process.poll() is not None)
    process.kill()
    process.communicate()


def test_a_damaged_part_is_done_again(started, many, tiny_bundle, tmp_path):
    out, whole = tmp_path / "out.parquet", tmp_path / "whole.parquet"
    run(many, "--out", whole, "--bundle", tiny_bundle)
    kill_after_three_parts(started, many, out, tiny_bundle)
    (tmp_path / "out.parquet.parts/00000001.parquet").write_bytes(b"PAR1 and nothing more")
    assert run(many, "--out", out, "--bundle", tiny_bundle)["rows_before"] == PART_ROWS
    assert out.read_bytes() == whole.read_bytes()


def break_off(
    monkeypatch: pytest.MonkeyPatch, source: object, out: Path, bundle: Path, *options: str, after: int = 0
) -> None:
    """Begin, and fail after so many posters."""
    score = Scorer.score

    def fail(self: Scorer, rows: Iterable[Row], threads: int) -> Iterator[pa.Table]:
        yield from score(self, islice(rows, after), threads)
        raise TransferError("the network is away")

    with monkeypatch.context() as patched:
        patched.setattr(Scorer, "score", fail)
        with pytest.raises(TransferError, match="away"):
            run(source, "--out", out, "--bundle", bundle, *options)


@pytest.mark.parametrize("make", [as_zip, as_tar])
def test_an_archive_that_is_gone_stops_the_work(make, folder, tiny_bundle, tmp_path, monkeypatch):
    archive, out = make(folder, tmp_path), tmp_path / "out.parquet"
    kind = type(find_source(str(archive), DEFAULT_LIMITS, 1))
    listed = kind.entries

    def list_and_remove(self: object) -> Iterator[Entry]:
        yield from listed(self)
        archive.unlink()

    monkeypatch.setattr(kind, "entries", list_and_remove)
    with pytest.raises(DataError, match=r"catalogue\.(zip|tar) cannot be read: No such file"):
        run(archive, "--out", out, "--bundle", tiny_bundle)
    assert not out.exists()


@pytest.mark.parametrize(
    ("name", "content", "error", "reason"),
    [
        ("job.json", b"{", ConfigError, "the beginning of other work"),
        ("listing.sqlite", b"SQLite format 3\0 and no more", DataError, "list of names cannot be kept, or is damaged"),
    ],
)
def test_what_is_damaged_in_the_folder_of_parts(
    name, content, error, reason, folder, tiny_bundle, tmp_path, monkeypatch
):
    out = tmp_path / "out.parquet"
    break_off(monkeypatch, folder, out, tiny_bundle)
    (tmp_path / "out.parquet.parts" / name).write_bytes(content)
    with pytest.raises(error, match=reason):
        run(folder, "--out", out, "--bundle", tiny_bundle)


def test_a_part_that_rots_is_noticed_before_it_is_in_the_file(started, many, tiny_bundle, tmp_path):
    out, whole = tmp_path / "out.parquet", tmp_path / "whole.parquet"
    run(many, "--out", whole, "--bundle", tiny_bundle)
    kill_after_three_parts(started, many, out, tiny_bundle)
    rotten = tmp_path / "out.parquet.parts/00000001.parquet"
    content = bytearray(rotten.read_bytes())
    content[200] ^= 255
    rotten.write_bytes(content)
    with pytest.raises(DataError, match="was damaged and is removed: run it again"):
        run(many, "--out", out, "--bundle", tiny_bundle)
    assert run(many, "--out", out, "--bundle", tiny_bundle)["rows_before"] == PART_ROWS
    assert out.read_bytes() == whole.read_bytes()


def test_other_work_is_not_mixed_in(folder, tiny_bundle, tmp_path, monkeypatch):
    out = tmp_path / "out.parquet"
    break_off(monkeypatch, folder, out, tiny_bundle)
    with pytest.raises(ConfigError, match="holds the beginning of other work"):
        run(folder, "--out", out, "--bundle", tiny_bundle, "--embeddings")
    with pytest.raises(ConfigError, match="holds the beginning of other work"):
        run(folder / "b", "--out", out, "--bundle", tiny_bundle)
    run(folder, "--out", out, "--bundle", tiny_bundle)


def test_a_finished_catalogue_is_left_alone(folder, tiny_bundle, tmp_path, monkeypatch):
    out = tmp_path / "out.parquet"
    run(folder, "--out", out, "--bundle", tiny_bundle)
    before = out.stat().st_mtime_ns, out.read_bytes()

    @contextmanager
    def cluster(*_: object, **__: object) -> Iterator[None]:
        pytest.fail("a cluster was made for no work")
        yield

    monkeypatch.setattr("onesheet.scoring.ray_engine.ray_engine", cluster)
    assert run(folder, "--out", out, "--bundle", tiny_bundle, "--engine", "ray")["finished"] == "before"
    (tmp_path / "out.parquet.parts").mkdir()  # who made it was killed before this was gone
    assert run(folder, "--out", out, "--bundle", tiny_bundle) == {
        "file": str(out),
        "finished": "before",
        "rows": 11,
        "changes": UNCHANGED,
    }
    assert not (tmp_path / "out.parquet.parts").exists()
    with pytest.raises(ConfigError, match="is something else: remove it"):
        run(folder, "--out", out, "--bundle", tiny_bundle, "--embeddings")
    (tmp_path / "mine.parquet").write_text("precious")
    with pytest.raises(ConfigError, match="is something else: remove it"):
        run(folder, "--out", tmp_path / "mine.parquet", "--bundle", tiny_bundle)
    assert (out.stat().st_mtime_ns, out.read_bytes()) == before
    assert (tmp_path / "mine.parquet").read_text() == "precious"


def test_two_at_once(folder, tiny_bundle, tmp_path):
    (tmp_path / "out.parquet.parts").mkdir()
    with (tmp_path / "out.parquet.parts/lock").open("w") as file:
        lock(file)
        with pytest.raises(ConfigError, match="another onesheet score is writing"):
            run(folder, "--out", tmp_path / "out.parquet", "--bundle", tiny_bundle)


@pytest.mark.parametrize(
    ("out", "options", "error", "reason"),
    [
        ("out.csv", [], InvalidRequestError, "ends in .parquet"),
        ("file/out.parquet", [], DataError, "cannot be written"),
        ("out.parquet", ["--workers", "2"], InvalidRequestError, "belong to --engine ray"),
    ],
)
def test_what_cannot_be_done_is_told_at_once(folder, tiny_bundle, tmp_path, out, options, error, reason):
    (tmp_path / "file").write_text("")
    with pytest.raises(error, match=reason):
        run(folder, "--out", tmp_path / out, "--bundle", tiny_bundle, *options)


# ------------------------------------------------------------------------------------ nothing, and what is left out


def test_where_there_is_nothing_there_is_no_catalogue(tmp_path, score, make_poster):
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(DataError, match="empty has no posters; skipped no entries"):
        score(empty)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty"]
    (empty / "late.jpg").write_bytes(make_poster())
    assert score(empty).num_rows == 1


@pytest.mark.parametrize("make", [as_csv, as_parquet, as_zip, as_tar, partial(as_tar, suffix="tgz")])
def test_no_kind_of_catalogue_may_be_empty(make, tmp_path, score):
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty/notes.txt").write_text("no poster")
    (tmp_path / "empty/b").mkdir()
    with pytest.raises(DataError, match="has no posters"):
        score(make(tmp_path / "empty", tmp_path))
    assert not list(tmp_path.glob("out*"))


def test_an_empty_bucket_is_no_catalogue(emulator, folder, score, tmp_path):
    upload(folder / "notes.txt", "gs://posters/all/notes.txt")
    with pytest.raises(DataError, match="gs://posters/all has no posters; skipped 1 entry: not image files"):
        score("gs://posters/all")
    assert not list(tmp_path.glob("out*"))


def test_a_source_that_went_away_leaves_the_finished_file(tmp_path, folder, score, tiny_bundle):
    """As a disk that is not mounted."""
    before = score(folder)
    folder.rename(tmp_path / "unmounted")
    folder.mkdir()
    for options in ([], ["--update"]):
        with pytest.raises(DataError, match="has no posters"):
            score(folder, *options)
    assert pq.read_table(tmp_path / "out.parquet").equals(before)
    assert not (tmp_path / "out.parquet.parts").exists()


def test_where_every_poster_failed_the_next_run_tries_again(tmp_path, tiny_bundle, make_poster):
    (tmp_path / "list.csv").write_text("path\na.jpg\nb.jpg\n")
    arguments = [
        "score",
        *map(str, (tmp_path / "list.csv", "--out", tmp_path / "out.parquet", "--bundle", tiny_bundle)),
    ]
    for _ in range(2):
        result = CliRunner().invoke(app, arguments)
        assert result.exit_code == 1
        assert "2 could not be scored: 2 not_found" in result.stdout
        assert "every poster failed, and the next run tries again; the first: a.jpg: no such file" in result.stderr
    assert pq.read_table(tmp_path / "out.parquet")["error"].to_pylist() == ["not_found"] * 2
    (tmp_path / "a.jpg").write_bytes(make_poster())
    done = run(*arguments[1:])
    assert (done["errors"], done["rows_before"]) == ({"not_found": 1}, 0)
    assert run(*arguments[1:])["finished"] == "before"


def a_library(top: Path, make_poster: Callable[..., bytes]) -> Path:
    """As a NAS has it, where thumbnails, recycle bins and snapshots hold pictures, too."""
    for name in (
        *("Film/poster.jpg", "Film/@eaDir/poster.jpg/SYNOPHOTO_THUMB_XL.jpg", "#recycle/Old/poster.jpg"),
        *("#snapshot/today/Film/poster.jpg", "@Recycle/a.jpg", "@Recently-Snapshot/a.jpg", "Film/.@__thumb/a.jpg"),
        *("$RECYCLE.BIN/S-1/a.jpg", "System Volume Information/a.jpg", "lost+found/a.jpg", ".Trash-1000/files/a.jpg"),
        *("__MACOSX/Film/._poster.jpg", "Film/._poster.jpg", ".Trashes/a.jpg", ".AppleDouble/a.jpg"),
        *("Thumbs.db", "desktop.ini", "Film/.DS_Store", "Film (2).jpg/poster.jpg"),
    ):
        (top / name).parent.mkdir(parents=True, exist_ok=True)
        (top / name).write_bytes(make_poster())
    return top


@pytest.mark.parametrize(
    "make", [lambda top, _: top, partial(as_tar, names=all_files), partial(as_zip, names=all_files)]
)
def test_what_belongs_to_the_system_is_skipped_and_counted(make, tmp_path, tiny_bundle, make_poster):
    source = make(a_library(tmp_path / "library", make_poster), tmp_path)
    done = run(source, "--out", tmp_path / "out.parquet", "--bundle", tiny_bundle)
    found = pq.read_table(tmp_path / "out.parquet")["poster"].to_pylist()
    assert sorted(found) == ["Film (2).jpg/poster.jpg", "Film/poster.jpg"]
    assert done["skipped"] == {"system_files": 17}
    assert done["left_out"] == 17


def test_linked_folders_are_followed_if_asked_each_folder_once(tmp_path, tiny_bundle, make_poster):
    top, other = tmp_path / "linked", tmp_path / "other"
    (other / "deep").mkdir(parents=True)
    top.mkdir()
    (other / "poster.jpg").write_bytes(make_poster("red"))
    (other / "deep/poster.jpg").write_bytes(make_poster("blue"))
    (top / "Film").symlink_to(other, target_is_directory=True)
    (top / "Again").symlink_to(other / "deep", target_is_directory=True)
    (other / "deep/loop").symlink_to(top, target_is_directory=True)
    (top / "nowhere").symlink_to(top / "nowhere")
    (top / "Unmounted").symlink_to(tmp_path / "disk", target_is_directory=True)
    arguments = (top, "--out", tmp_path / "out.parquet", "--bundle", tiny_bundle)
    with pytest.raises(
        DataError, match=r"no posters; skipped 4 entries: 2 broken links, 2 linked folders .*use --follow-links"
    ):
        run(*arguments)
    done = run(*arguments, "--follow-links")
    assert pq.read_table(tmp_path / "out.parquet")["poster"].to_pylist() == ["Again/poster.jpg", "Film/poster.jpg"]
    assert done["skipped"] == {"broken_links": 2, "repeated_folders": 2}
    assert run(*arguments, "--follow-links")["changes"] == UNCHANGED
    with pytest.raises(InvalidRequestError, match="--follow-links is for a folder"):
        run(tmp_path / "out.parquet", *arguments[1:], "--follow-links")


def test_a_folder_that_cannot_be_listed_is_a_row(folder, tmp_path, score, monkeypatch):
    listed = os.scandir

    def refuse(path: Path) -> Any:
        if str(path).endswith("deep"):
            raise PermissionError(13, "Permission denied")
        return listed(path)

    monkeypatch.setattr("onesheet.scoring.folder.os.scandir", refuse)
    rows = {row["poster"]: row for row in score(folder).to_pylist()}
    assert rows["b/deep/"]["error"] == "unreadable_file"
    assert rows["b/deep/"]["message"] == "the folder cannot be listed: Permission denied"
    assert len(rows) == 9
    monkeypatch.undo()
    assert score(folder, "--update")["poster"].to_pylist() == names(folder)


# ----------------------------------------------------------------------------------- what changes at the source


def change(folder: Path, make_poster: Callable[..., bytes]) -> None:
    """Two new, one gone, one changed."""
    (folder / "a.jpg").write_bytes(make_poster("yellow"))
    (folder / "b/z.jpg").write_bytes(make_poster("green"))
    (folder / "tiny.jpg").unlink()
    (folder / "red.jpg").write_bytes(make_poster("blue", (90, 135)))


UNCHANGED = {"new": 0, "gone": 0, "changed": 0}
CHANGED = {"new": 2, "gone": 1, "changed": 1}


@pytest.fixture
def scored_names(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The posters that the model was asked about."""
    asked: list[str] = []
    read = Scorer._read

    def noted(self: Scorer, row: Row) -> Any:
        asked.append(row.name)
        return read(self, row)

    monkeypatch.setattr(Scorer, "_read", noted)
    return asked


@pytest.mark.parametrize(
    "make", [lambda top, _: top, as_csv, as_parquet, as_zip, as_tar, partial(as_tar, suffix="tgz")]
)
def test_what_has_changed_is_told_and_an_update_scores_no_more(
    make, folder, score, tiny_bundle, tmp_path, make_poster, scored_names
):
    arguments = (make(folder, tmp_path), "--out", tmp_path / "out.parquet", "--bundle", tiny_bundle)
    run(*arguments)
    old = (tmp_path / "out.parquet").read_bytes()
    change(folder, make_poster)
    make(folder, tmp_path)

    scored_names.clear()
    told = run(*arguments)
    assert (told["finished"], told["changes"]) == ("before", CHANGED)
    said = CliRunner().invoke(app, ["score", *map(str, arguments)])
    assert "was finished before: 11 posters" in said.stdout
    assert "2 new, 1 gone, 1 changed; run with --update to bring the file up to date" in said.stdout
    assert (tmp_path / "out.parquet").read_bytes() == old
    assert scored_names == []

    done = run(*arguments, "--update")
    assert (done["rows"], done["rows_before"], done["changes"]) == (12, 9, CHANGED)
    assert sorted(Path(name).name for name in scored_names) == ["a.jpg", "red.jpg", "z.jpg"]
    assert pq.read_table(tmp_path / "out.parquet").equals(score(arguments[0], out="anew.parquet"))
    updated = (tmp_path / "out.parquet").read_bytes()
    assert run(*arguments, "--update")["finished"] == "before"
    assert (tmp_path / "out.parquet").read_bytes() == updated


def test_what_has_changed_in_a_bucket(emulator, folder, score, tiny_bundle, tmp_path, make_poster, scored_names):
    arguments = ("gs://posters/all", "--out", tmp_path / "out.parquet", "--bundle", tiny_bundle)
    upload(folder, "gs://posters/all")
    run(*arguments)
    (folder / "tiny.jpg").write_bytes(make_poster("yellow"))
    (folder / "a.jpg").write_bytes(make_poster("yellow"))
    upload(folder, "gs://posters/all")
    scored_names.clear()
    assert run(*arguments)["changes"] == {"new": 1, "gone": 0, "changed": 1}
    run(*arguments, "--update")
    assert sorted(scored_names) == ["a.jpg", "tiny.jpg"]
    assert pq.read_table(tmp_path / "out.parquet").equals(score("gs://posters/all", out="anew.parquet"))


@pytest.mark.parametrize("make", [lambda top, _: top, as_csv, as_zip, partial(as_tar, suffix="tgz")])
def test_what_changes_while_the_work_is_interrupted_is_taken_in(
    make, folder, score, tiny_bundle, tmp_path, monkeypatch, make_poster, scored_names
):
    monkeypatch.setattr("onesheet.scoring.parts.PART_ROWS", 2)
    monkeypatch.setattr("onesheet.scoring.scorer._TABLE_ROWS", 2)
    source, out = make(folder, tmp_path), tmp_path / "out.parquet"
    break_off(monkeypatch, source, out, tiny_bundle, after=6)
    assert len(parts(out)) == 3
    change(folder, make_poster)
    make(folder, tmp_path)
    scored_names.clear()
    done = run(source, "--out", out, "--bundle", tiny_bundle)
    assert done["changes"] == CHANGED
    assert done["rows_before"] == 12 - len(scored_names) == 6
    assert pq.read_table(out).equals(score(source, out="anew.parquet"))
    assert not (tmp_path / "out.parquet.parts").exists()


def test_an_update_that_is_interrupted_is_resumed(
    folder, score, tiny_bundle, tmp_path, monkeypatch, make_poster, scored_names
):
    monkeypatch.setattr("onesheet.scoring.parts.PART_ROWS", 1)
    monkeypatch.setattr("onesheet.scoring.scorer._TABLE_ROWS", 1)
    out = tmp_path / "out.parquet"
    score(folder)
    change(folder, make_poster)
    break_off(monkeypatch, folder, out, tiny_bundle, "--update", after=1)
    said = CliRunner().invoke(app, ["score", *map(str, (folder, "--out", out, "--bundle", tiny_bundle))])
    assert "an update was interrupted; run with --update to resume it" in said.stdout
    (folder / "c.jpg").write_bytes(make_poster("black"))
    scored_names.clear()
    assert run(folder, "--out", out, "--bundle", tiny_bundle, "--update")["rows"] == 13
    assert sorted(scored_names) == ["b/z.jpg", "c.jpg", "red.jpg"]
    assert pq.read_table(out).equals(score(folder, out="anew.parquet"))
    assert not (tmp_path / "out.parquet.parts").exists()


def test_an_update_tries_again_what_could_not_be_reached(folder, score, tmp_path, make_poster, scored_names):
    table = write(folder / "list.csv", "path\nred.jpg\ngone.jpg\nbroken.jpg\nred.jpg\n")
    assert score(table)["error"].to_pylist() == [None, "not_found", "corrupt_image", None]
    scored_names.clear()
    score(table, "--update")
    assert scored_names == ["gone.jpg"]
    (folder / "gone.jpg").write_bytes(make_poster())
    assert score(table, "--update")["error"].to_pylist() == [None, None, "corrupt_image", None]


def test_a_catalogue_of_an_older_version_can_be_updated(folder, score, tmp_path, make_poster, scored_names):
    """It has no etags, so only names can be compared."""
    score(folder)
    out = tmp_path / "out.parquet"
    pq.write_table(pq.read_table(out).drop_columns("etag"), out)
    change(folder, make_poster)
    scored_names.clear()
    table = score(folder, "--update")
    assert sorted(scored_names) == ["a.jpg", "b/z.jpg"]
    assert table["etag"].null_count == 0


@pytest.mark.skipif(sys.platform != "linux", reason="names are UTF-8 elsewhere")
def test_names_of_any_bytes_stay_the_same_posters(folder, score, tmp_path, make_poster):
    (folder / os.fsdecode(b"caf\xe9.jpg")).write_bytes(make_poster())
    table = score(folder)
    assert "caf\\xe9.jpg" in table["poster"].to_pylist()
    assert table["error"].null_count == 8
    assert score(folder).equals(table)


# --------------------------------------------------------------------------------------------------------- Ray


def test_two_workers_of_ray_make_the_same_file(started, many, tiny_bundle, tmp_path):
    """In processes of their own, which print the answer and a warning that no option of Ray stops."""
    here, there = tmp_path / "here.parquet", tmp_path / "there.parquet"
    run(many, "--out", here, "--bundle", tiny_bundle, "--embeddings")
    process = started(many, there, tiny_bundle, "--embeddings", "--engine", "ray", "--workers", "2")
    said, errors = process.communicate(timeout=MAX_WAIT)
    assert process.returncode == 0, errors
    assert [line for line in errors.splitlines() if "ray/issues/53727" not in line] == []
    assert json.loads(said)["rows"] == 12 * PART_ROWS + 77
    assert there.read_bytes() == here.read_bytes()


def test_what_is_wrong_with_an_object_is_told_by_ray_as_well(started, tiny_bundle, tmp_path, monkeypatch):
    monkeypatch.delenv("STORAGE_EMULATOR_HOST", raising=False)
    monkeypatch.setenv("NO_GCE_CHECK", "true")
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(tmp_path / "none.json"))
    table = write(tmp_path / "list.csv", "path\ngs://somewhere/a.jpg\n")
    process = started(table, tmp_path / "out.parquet", tiny_bundle, "--engine", "ray", "--workers", "1")
    said, errors = process.communicate(timeout=MAX_WAIT)
    assert process.returncode == 1
    assert json.loads(said)["errors"] == {"url_unreachable": 1}
    assert "no Google credentials here that work" in errors
    assert "Traceback" not in errors


def test_what_stops_a_worker_of_ray_is_told_as_what_it_is(tiny_bundle, tmp_path):
    make_scorer = partial(Scorer, load_bundle(tiny_bundle), DEFAULT_LIMITS, "fp32", embeddings=False)
    rows = [Row("a.jpg", partial(archives._read_slice, tmp_path / "gone.tar", 0, 1), None)]
    told = ray_engine._Worker(make_scorer, False)(pa.table({ray_engine._ROWS: [pickle.dumps(rows)]}))
    assert b"gone.tar cannot be read: No such file" in told[ray_engine._FAILURE][0].as_py()


def test_ray_is_not_given_what_only_one_process_can_read(folder, tiny_bundle, tmp_path):
    packed = as_tar(folder, tmp_path, "tgz")
    with pytest.raises(ConfigError, match=r"unpack it to \.tar, or use --engine local"):
        run(packed, "--out", tmp_path / "out.parquet", "--bundle", tiny_bundle, "--engine", "ray")
