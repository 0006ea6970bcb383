"""`onesheet score`: every kind of catalogue, hostile ones, and work that is broken off."""

from __future__ import annotations

import csv
import io
import ipaddress
import json
import signal
import ssl
import struct
import subprocess
import sys
import tarfile
import time
import unicodedata
import zipfile
from contextlib import contextmanager
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import trustme
from typer.testing import CliRunner

from onesheet.cli import app
from onesheet.cloud.transfer import upload
from onesheet.errors import ConfigError, DataError, InvalidRequestError, OnesheetError, TransferError
from onesheet.image import DEFAULT_LIMITS
from onesheet.image_statistics import image_statistics
from onesheet.locks import lock
from onesheet.scoring import addresses, archives, bucket
from onesheet.scoring.parts import PART_ROWS
from onesheet.scoring.scorer import Scorer
from onesheet.scoring.sources import find_source
from onesheet.serving.fetch import ImageFetcher
from tests.processes import MAX_WAIT, eventually, serve_in_thread

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

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


def run(*arguments: object) -> dict[str, Any]:
    """What the command says."""
    result = CliRunner().invoke(app, ["score", *map(str, arguments), "--json"])
    if isinstance(result.exception, OnesheetError):
        raise result.exception
    assert result.exit_code == 0, result.output
    return dict(json.loads(result.stdout))


@pytest.fixture(autouse=True)
def _new_connections() -> None:
    """Each test has servers of its own."""
    addresses._fetcher.cache_clear()
    bucket._bucket.cache_clear()
    archives._zip.cache_clear()


@pytest.fixture
def score(tiny_bundle: Path, tmp_path: Path) -> Callable[..., pa.Table]:
    """`score(source, *options)`: the catalogue as a table, by the tiny bundle."""

    def scored(source: object, *options: object, out: str = "out.parquet") -> pa.Table:
        run(source, "--out", tmp_path / out, "--bundle", tiny_bundle, *options)
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
    assert (
        "4 could not be answered: 1 corrupt_image, 1 empty_image, 1 not_poster_shaped, 1 unsupported" in result.stdout
    )
    assert "left out, as their names are not those of pictures: 2" in result.stdout
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
    pq.write_table(pa.table({"url": ["https://x/"] * len(full), "path": full}), path, row_group_size=3)
    return path


def as_zip(folder: Path, tmp_path: Path) -> Path:
    path = tmp_path / "catalogue.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in ["notes.txt", *names(folder)]:
            archive.write(folder / name, name)
    return path


def as_tar(folder: Path, tmp_path: Path, suffix: str = "tar") -> Path:
    path = tmp_path / f"catalogue.{suffix}"
    with tarfile.open(path, "w" if suffix == "tar" else "w:gz") as archive:
        for name in ["b", "notes.txt", *names(folder)]:
            archive.add(folder / name, name, recursive=False)
    return path


@pytest.mark.parametrize("kind", [as_csv, as_parquet, as_zip, as_tar, partial(as_tar, suffix="tgz")])
def test_all_kinds_of_catalogues_have_the_same_rows(kind, folder, score, tmp_path):
    expected = score(folder)
    table = score(kind(folder, tmp_path), out="other.parquet")
    found = [name.removeprefix(f"{folder}/") for name in table["poster"].to_pylist()]
    assert found == names(folder)
    assert table.drop_columns("poster").equals(expected.drop_columns("poster"))


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
    assert score("gs://posters/all").equals(score(folder, out="here.parquet"))
    with pytest.raises(TransferError, match="gs://nowhere"):
        score("gs://nowhere/all", out="nowhere.parquet")


def test_a_table_of_objects(emulator, folder, score, tmp_path):
    upload(folder, "gs://posters/all")
    (tmp_path / "list.csv").write_text(
        "url\ngs://posters/all/red.jpg\ngs://posters/all/gone.jpg\ngs://posters/all/empty.png\n"
    )
    table = score(tmp_path / "list.csv")
    assert table["error"].to_pylist() == [None, "not_found", "empty_image"]


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
    rows = score(tmp_path / "cut.tgz").to_pylist()
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


def test_a_list_of_members_that_wants_all_memory_is_refused(tmp_path, score, monkeypatch):
    monkeypatch.setattr(archives, "_DIRECTORY_BYTES", 1000)
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


def test_a_listing_is_taken_once(folder, tiny_bundle, tmp_path, monkeypatch, make_poster):
    """What is added while the work is broken off does not move the other rows."""
    out = tmp_path / "out.parquet"
    break_off(monkeypatch, folder, out, tiny_bundle)
    before = names(folder)
    (folder / "a.jpg").write_bytes(make_poster())
    run(folder, "--out", out, "--bundle", tiny_bundle)
    assert pq.read_table(out)["poster"].to_pylist() == before


def break_off(monkeypatch: pytest.MonkeyPatch, source: object, out: Path, bundle: Path) -> None:
    """Begin, and fail at the first poster."""

    def fail(*_: object) -> None:
        raise TransferError("the network is away")

    with monkeypatch.context() as patched:
        patched.setattr(Scorer, "_answer", fail)
        with pytest.raises(TransferError, match="away"):
            run(source, "--out", out, "--bundle", bundle)


@pytest.mark.parametrize("make", [as_zip, as_tar])
def test_an_archive_that_is_gone_stops_the_work(make, folder, tiny_bundle, tmp_path, monkeypatch):
    archive, out = make(folder, tmp_path), tmp_path / "out.parquet"
    opened = type(find_source(str(archive), DEFAULT_LIMITS, 1)).open

    def open_and_remove(self: object, *arguments: object) -> None:
        opened(self, *arguments)
        archive.unlink()

    monkeypatch.setattr(type(find_source(str(archive), DEFAULT_LIMITS, 1)), "open", open_and_remove)
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
    assert run(folder, "--out", out, "--bundle", tiny_bundle) == {"file": str(out), "finished": "before"}
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


def test_an_empty_catalogue(tmp_path, score):
    (tmp_path / "empty").mkdir()
    table = score(tmp_path / "empty")
    assert table.num_rows == 0
    assert "probabilities" in table.column_names


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


def test_what_stops_a_worker_of_ray_is_told_as_what_it_is(started, tiny_bundle, tmp_path, monkeypatch):
    monkeypatch.delenv("STORAGE_EMULATOR_HOST", raising=False)
    monkeypatch.setenv("NO_GCE_CHECK", "true")
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(tmp_path / "none.json"))
    table = write(tmp_path / "list.csv", "path\ngs://somewhere/a.jpg\n")
    process = started(table, tmp_path / "out.parquet", tiny_bundle, "--engine", "ray", "--workers", "1")
    _, errors = process.communicate(timeout=MAX_WAIT)
    assert process.returncode == 1
    assert "no Google credentials here that work" in errors
    assert "Traceback" not in errors


def test_ray_is_not_given_what_only_one_process_can_read(folder, tiny_bundle, tmp_path):
    packed = as_tar(folder, tmp_path, "tgz")
    with pytest.raises(ConfigError, match=r"unpack it to \.tar, or use --engine local"):
        run(packed, "--out", tmp_path / "out.parquet", "--bundle", tiny_bundle, "--engine", "ray")
