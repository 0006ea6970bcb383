"""Fetching from Cloud Storage: the real gcsfs against the real emulator on loopback."""

from __future__ import annotations

import socket
import time
from typing import TYPE_CHECKING

import pytest

from onesheet.data.fetch import fetch
from onesheet.errors import FetchError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from gcp_storage_emulator.server import Server

BUCKET = "posters"


@pytest.fixture
def put(emulator: Server) -> Callable[[str, bytes], None]:
    """`put(name, content)`: an object of the bucket, under any name at all."""
    import os
    from urllib.parse import quote
    from urllib.request import Request, urlopen

    def upload(name: str, content: bytes) -> None:
        address = f"{os.environ['STORAGE_EMULATOR_HOST']}/upload/storage/v1/b/{BUCKET}/o"
        request = Request(f"{address}?uploadType=media&name={quote(name, safe='')}", content, method="POST")
        with urlopen(request) as answer:
            assert answer.status == 200

    return upload


@pytest.fixture
def bucket(put: Callable[[str, bytes], None], source: Path) -> str:
    """Address of the source's files in the bucket, among others."""
    for path in source.rglob("*"):
        if path.is_file():
            put(f"raw/{path.relative_to(source).as_posix()}", path.read_bytes())
    put("raw/Images/", b"\n")
    put("other/thing.txt", b"not ours")
    return f"gs://{BUCKET}/raw"


def same_posters(out: Path, source: Path) -> bool:
    names = [path.relative_to(source) for path in source.rglob("*") if path.is_file()]
    return all((out / name).read_bytes() == (source / name).read_bytes() for name in names)


def test_brings_the_posters(bucket: str, source: Path, tmp_path: Path) -> None:
    receipt = fetch(bucket, tmp_path / "raw")
    assert same_posters(tmp_path / "raw", source)
    assert (receipt.files, receipt.source) == (41, bucket)
    assert fetch(bucket, tmp_path / "raw").already_there


def test_whole_bucket_is_searched(bucket: str, source: Path, tmp_path: Path) -> None:
    fetch(f"gcs://{BUCKET}", tmp_path / "raw")
    assert same_posters(tmp_path / "raw", source)


def test_goes_on_and_mends_by_hash(
    bucket: str, source: Path, tmp_path: Path, kill_in_the_middle: Callable[..., None]
) -> None:
    kill_in_the_middle(bucket, tmp_path / "raw", 25)
    staged = sorted((tmp_path / "raw.partial" / "Images").iterdir())
    staged[0].write_bytes(staged[0].read_bytes()[:-1] + b"?")
    before = {path.name: path.stat().st_ino for path in staged[1:]}
    fetch(bucket, tmp_path / "raw")
    assert same_posters(tmp_path / "raw", source)
    after = {path.name: path.stat().st_ino for path in (tmp_path / "raw" / "Images").iterdir()}
    assert {name: after[name] for name in before} == before, "what was whole was not written again"


def test_transfer_that_breaks_once_is_tried_again(
    bucket: str, source: Path, tmp_path: Path, no_pauses: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    from gcsfs import GCSFileSystem

    cat_file, broken = GCSFileSystem._cat_file, set()

    async def break_once(self: GCSFileSystem, path: str, *arguments: object, **options: object) -> bytes:
        content: bytes = await cat_file(self, path, *arguments, **options)
        if path in broken:
            return content
        broken.add(path)
        return content[:-1]

    monkeypatch.setattr(GCSFileSystem, "_cat_file", break_once)
    fetch(bucket, tmp_path / "raw")
    assert len(broken) == 41
    assert same_posters(tmp_path / "raw", source)


def test_composed_objects_are_verified_by_their_crc(
    bucket: str, source: Path, tmp_path: Path, emulator: Server, no_pauses: None
) -> None:
    """They have no MD5; here one whose content is not what is listed."""
    storage = emulator._storage
    listed = storage.get_file_obj(BUCKET, "raw/Images/tt0000003.jpg")
    listed.update(md5Hash="", crc32c="AAAAAA==")
    with pytest.raises(FetchError, match=r"cannot read Images/tt0000003.jpg from gs://posters/raw: it differs"):
        fetch(bucket, tmp_path / "raw")


def test_hostile_names_stay_outside(
    put: Callable[[str, bytes], None], bucket: str, source: Path, tmp_path: Path
) -> None:
    for name in ["Images/..%2f..%2fevil.jpg", "Images//evil.jpg", "Images/a\\evil.jpg", "Images/.evil.jpg"]:
        put(f"raw/{name}", b"evil")
    put("raw/Images/evil\n.jpg", b"evil")
    receipt = fetch(bucket, tmp_path / "out" / "raw")
    assert not list(tmp_path.rglob("*evil*"))
    assert receipt.files == 41


def test_bucket_or_folder_that_is_not_there(bucket: str, tmp_path: Path) -> None:
    with pytest.raises(FetchError, match=r"gs://posters/nothing holds no train\.csv"):
        fetch("gs://posters/nothing", tmp_path / "raw")
    with pytest.raises(FetchError, match="cannot list gs://no-bucket/x"):
        fetch("gs://no-bucket/x", tmp_path / "raw")


@pytest.mark.parametrize("scheme", ["http://", ""])
def test_no_network_is_told_in_seconds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, scheme: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", f"{scheme}127.0.0.1:{server.getsockname()[1]}")
    start = time.monotonic()
    with pytest.raises(FetchError, match=r"^cannot reach gs://posters: .*\(127\.0\.0\.1:\d+\)$"):
        fetch("gs://posters", tmp_path / "raw")
    assert time.monotonic() - start < 30  # and not the minutes of retries that the client would add


def test_google_is_asked_where_nothing_else_is_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, int]] = []

    def refuse(address: tuple[str, int], timeout: float) -> None:
        asked.append(address)
        raise OSError(101, "Network is unreachable")

    monkeypatch.delenv("STORAGE_EMULATOR_HOST", raising=False)
    monkeypatch.setattr(socket, "create_connection", refuse)
    with pytest.raises(FetchError, match="Network is unreachable"):
        fetch("gs://posters", tmp_path / "raw")
    assert asked == [("storage.googleapis.com", 443)]
