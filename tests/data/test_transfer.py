"""Transfers to and from Cloud Storage: Google's own client against an emulated bucket that fails at times."""

from __future__ import annotations

import errno
import importlib.util
import os
import shutil
import socket
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from onesheet.cloud.transfer import Transferred, download, exists, upload
from onesheet.cloud.transfer import bucket as buckets
from onesheet.cloud.transfer import files as local
from onesheet.errors import MissingExtraError, TransferError
from tests.processes import eventually, run_command, started_process

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from gcp_storage_emulator.server import Server

BUCKET = "posters"
ADDRESS = f"gs://{BUCKET}/raw"
PART = 64 * 2**10
PARTS = 70  # composed in rounds

SCRIPT = f"""
import sys
from pathlib import Path
from onesheet.cloud import transfer
from onesheet.cloud.transfer import files
files.PART_BYTES = {PART}
if sys.argv[1] == "upload":
    transfer.upload(Path(sys.argv[2]), sys.argv[3])
else:
    transfer.download(sys.argv[3], Path(sys.argv[2]))
"""


@pytest.fixture(scope="module")
def server() -> Iterator[Any]:
    path = Path(__file__).parents[2] / "benchmarks/faulty_bucket.py"
    specification = importlib.util.spec_from_file_location("faulty_bucket", path)
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    with module.FaultyBucket(BUCKET) as bucket:
        bucket.emulator._api._httpd.socket.listen(64)  # five places are too few for all workers
        bucket._server.socket.listen(64)
        yield bucket


@pytest.fixture
def bucket(server: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """An empty bucket; `bucket.fault` decides what goes wrong. Large is what is above 64 KiB."""
    server.emulator._storage.wipe(keep_buckets=True)
    server.fault = lambda *_: None
    for counter in (server.uploaded, server.downloaded, server.faults):
        counter.clear()
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", server.address)
    monkeypatch.setenv("NO_GCE_CHECK", "true")  # nor look for a metadata server in the network
    monkeypatch.setattr(local, "PART_BYTES", PART)
    monkeypatch.setattr(buckets, "PAUSE_S", 0.01)
    return server


@pytest.fixture
def folder(posters: Path, tmp_path: Path) -> Path:
    """Thirty real posters and their labels."""
    folder = tmp_path / "here"
    (folder / "Images").mkdir(parents=True)
    shutil.copy(posters / "train.csv", folder)
    for poster in sorted((posters / "Images").iterdir())[:30]:
        shutil.copy(poster, folder / "Images")
    return folder


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """Twelve small files, one of them empty."""
    folder = tmp_path / "small"
    (folder / "a/b").mkdir(parents=True)
    for number in range(12):
        (folder / ("a/b" if number % 2 else "a") / f"{number}.txt").write_bytes(b"text" * number)
    return folder


@pytest.fixture
def large(tmp_path: Path) -> Path:
    """A file of many parts, the last of them short."""
    path = tmp_path / "large.bin"
    path.write_bytes(noise(PARTS * PART + 100))
    return path


def noise(size: int) -> bytes:
    return np.random.default_rng(0).bytes(size)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def objects(bucket: Any) -> dict[str, bytes]:
    storage = bucket.emulator._storage
    return {name: storage.get_file(BUCKET, name) for name in storage.objects.get(BUCKET, {})}


def put(bucket: Any, name: str, content: bytes = b"poster") -> None:
    """An object of any name at all, also one that the emulator's server would not take."""
    from google.cloud import storage

    blob = storage.Client(project=None).bucket(BUCKET).blob("original")
    blob.upload_from_string(content)
    held = bucket.emulator._storage.objects[BUCKET]
    held[name] = held.pop("original") | {"name": name}


def stop_after(bucket: Any, requests: int, method: str, sign: str) -> None:
    """Answer so many requests of a kind, and no further ones."""
    lock, seen = threading.Lock(), []

    def fault(asked: str, name: str) -> str | None:
        with lock:
            if asked == method and sign in name:
                seen.append(name)
            return "silence" if len(seen) > requests else None

    bucket.fault = fault


def killed(direction: str, path: Path, address: str, when: Callable[[], bool]) -> None:
    """Transfer in a process that gets SIGKILL, when every request of it has arrived: half of one stops the emulator."""
    with started_process([sys.executable, "-c", SCRIPT, direction, path, address]) as process:
        eventually(lambda: when() or process.poll() is not None)
    assert process.returncode == -9


# ------------------------------------------------------------------------------------------------ all goes well


@pytest.mark.posters
def test_posters_go_there_and_back_byte_for_byte(
    bucket: Any, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local, "PART_BYTES", 2**20)
    told: list[tuple[int, int | None]] = []
    size = sum(map(len, contents(folder).values()))
    assert upload(folder, ADDRESS, lambda *counted: told.append(counted)) == Transferred(31, 0, size)
    assert told == [(number, 31) for number in range(1, 32)]
    assert objects(bucket) == {f"raw/{name}": content for name, content in contents(folder).items()}

    told.clear()
    there = tmp_path / "there"
    assert download(ADDRESS, there, lambda *counted: told.append(counted)) == Transferred(31, 0, size)
    assert told == [(number, 31) for number in range(1, 32)]
    assert contents(there) == contents(folder)

    sent, fetched = bucket.uploaded.total(), bucket.downloaded.total()
    assert upload(folder, f"{ADDRESS}/") == Transferred(0, 31, 0)
    assert download(f"{ADDRESS}/", there) == Transferred(0, 31, 0)
    assert (bucket.uploaded.total(), bucket.downloaded.total()) == (sent, fetched)


def test_what_has_changed_is_sent_again_alone(bucket: Any, small: Path, tmp_path: Path) -> None:
    upload(small, ADDRESS)
    download(ADDRESS, tmp_path / "there")
    changed = small / "a/4.txt"
    changed.write_bytes(changed.read_bytes()[::-1])
    bucket.uploaded.clear()
    assert upload(small, ADDRESS) == Transferred(1, 11, 16)
    assert set(bucket.uploaded) == {"raw/a/4.txt"}
    assert download(ADDRESS, tmp_path / "there") == Transferred(1, 11, 16)
    assert contents(tmp_path / "there") == contents(small)


def test_a_folder_of_another_name_that_begins_so_is_not_fetched(bucket: Any, small: Path, tmp_path: Path) -> None:
    upload(small, ADDRESS)
    put(bucket, "raw2/other.txt")
    put(bucket, "raw/a/")
    assert download(ADDRESS, tmp_path / "there").files == 12
    assert contents(tmp_path / "there") == contents(small)


def test_a_large_file_goes_in_parts(bucket: Any, large: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from google.cloud.storage import Blob

    compose, composed = Blob.compose, []

    def watched(self: Blob, sources: list[Blob], *arguments: Any, **options: Any) -> None:
        composed.append(len(sources))
        compose(self, sources, *arguments, **options)

    monkeypatch.setattr(Blob, "compose", watched)
    size = large.stat().st_size
    assert upload(large, f"{ADDRESS}/file.bin") == Transferred(1, 0, size)
    assert objects(bucket) == {"raw/file.bin": large.read_bytes()}
    assert composed == [32, 32, 7, 3]
    assert upload(large, f"{ADDRESS}/file.bin") == Transferred(0, 1, 0)
    assert download(f"{ADDRESS}/file.bin", tmp_path / "new/copy.bin") == Transferred(1, 0, size)
    assert contents(tmp_path / "new") == {"copy.bin": large.read_bytes()}


@pytest.mark.parametrize("size", [3 * 2**20 + 5, 4 * 2**20, 10 * 2**20])
def test_files_that_are_sent_in_chunks(emulator: Server, tmp_path: Path, size: int) -> None:
    path = tmp_path / "file"
    path.write_bytes(noise(size))
    assert upload(path, f"{ADDRESS}/file") == Transferred(1, 0, size)
    assert emulator._storage.get_file(BUCKET, "raw/file") == path.read_bytes()


def test_exists(bucket: Any, small: Path) -> None:
    assert not exists(ADDRESS)
    put(bucket, "raw/big.onesheet-part-00000-00000000")
    assert not exists(ADDRESS), "what an upload has left is no file yet"
    upload(small, ADDRESS)
    assert all(map(exists, (ADDRESS, f"{ADDRESS}/a", f"{ADDRESS}/a/4.txt", f"gs://{BUCKET}")))
    assert not any(map(exists, (f"{ADDRESS}/a/4", f"{ADDRESS}/a/4.txt/", "gs://posters/ra")))


def test_an_empty_folder_is_nothing(bucket: Any, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert upload(tmp_path / "empty", ADDRESS) == Transferred(0, 0, 0)
    assert objects(bucket) == {}


def test_links_are_followed_and_our_own_unfinished_files_left_out(bucket: Any, small: Path, tmp_path: Path) -> None:
    shutil.move(small / "a/b", tmp_path / "elsewhere")
    (small / "a/b").symlink_to(tmp_path / "elsewhere")
    (small / "link.txt").symlink_to(small / "a/4.txt")
    (small / ".0123.onesheet-part-17").write_bytes(b"half")
    assert upload(small, ADDRESS).files == 13
    assert {name.removeprefix("raw/") for name in objects(bucket)} >= {"link.txt", "a/b/1.txt"}
    assert not [name for name in objects(bucket) if "onesheet-part" in name]


# --------------------------------------------------------------------------------------------------- interrupted


def test_an_upload_of_a_large_file_goes_on_after_sigkill(
    bucket: Any, large: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from google.cloud.storage import Blob

    stop_after(bucket, 5, "POST", "onesheet-part")
    killed("upload", large, f"{ADDRESS}/file.bin", lambda: bucket.faults["silence"] == 16)
    first, second = set(objects(bucket)), []
    assert len(first) == 5
    assert "raw/file.bin" not in first

    send = Blob.upload_from_file

    def watched(self: Blob, *arguments: Any, **options: Any) -> None:
        second.append(self.name)
        send(self, *arguments, **options)

    monkeypatch.setattr(Blob, "upload_from_file", watched)
    bucket.fault = lambda *_: None
    assert upload(large, f"{ADDRESS}/file.bin") == Transferred(1, 0, large.stat().st_size - 5 * PART)
    assert objects(bucket) == {"raw/file.bin": large.read_bytes()}
    assert len(second) == PARTS + 1 - 5
    assert first.isdisjoint(second)


def test_an_upload_of_a_folder_goes_on_after_sigkill(bucket: Any, small: Path) -> None:
    stop_after(bucket, 5, "POST", "raw/")
    killed("upload", small, ADDRESS, lambda: bucket.faults["silence"] == 7)
    bucket.fault = lambda *_: None
    done = upload(small, ADDRESS)
    assert (done.files, done.skipped) == (7, 5)
    assert set(bucket.uploaded.values()) == {1}
    assert objects(bucket) == {f"raw/{name}": content for name, content in contents(small).items()}


@pytest.mark.parametrize("damaged", [False, True])
def test_a_download_goes_on_after_sigkill(bucket: Any, large: Path, tmp_path: Path, damaged: bool) -> None:
    upload(large, f"{ADDRESS}/file.bin")
    there, size = tmp_path / "there", large.stat().st_size
    stop_after(bucket, 3, "GET", "alt=media")
    killed("download", there, ADDRESS, lambda: bucket.faults["silence"] == 1)
    (part,) = there.iterdir()
    assert part.stat().st_size == 3 * PART
    assert part.name.startswith(".")
    if damaged:
        part.write_bytes(bytes(3 * PART))
    bucket.fault = lambda *_: None
    fetched = size - 3 * PART + (size if damaged else 0)
    assert download(ADDRESS, there) == Transferred(1, 0, fetched)
    assert contents(there) == {"file.bin": large.read_bytes()}


def test_what_was_fetched_of_another_object_is_not_used(bucket: Any, large: Path, tmp_path: Path) -> None:
    upload(large, f"{ADDRESS}/file.bin")
    stop_after(bucket, 3, "GET", "alt=media")
    there = tmp_path / "there"
    killed("download", there, ADDRESS, lambda: bucket.faults["silence"] == 1)
    bucket.fault = lambda *_: None
    large.write_bytes(large.read_bytes()[::-1])
    upload(large, f"{ADDRESS}/file.bin")
    assert download(ADDRESS, there) == Transferred(1, 0, large.stat().st_size)
    assert contents(there) == {"file.bin": large.read_bytes()}, "and nothing is left of it"


# -------------------------------------------------------------------------------------------------------- faults


@pytest.mark.parametrize("kind", ["503", "silence", "hang up", "half"])
def test_every_request_may_fail_once(
    bucket: Any, small: Path, large: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    monkeypatch.setattr(buckets, "TIMEOUT_S", 0.5)
    large.write_bytes(large.read_bytes()[: 3 * PART])
    shutil.move(large, small / "large.bin")
    seen: set[tuple[str, str]] = set()

    def once(method: str, name: str) -> str | None:
        fresh = (method, name) not in seen
        seen.add((method, name))
        return kind if fresh else None

    bucket.fault = once
    assert upload(small, ADDRESS).files == 13
    assert download(ADDRESS, tmp_path / "there").files == 13
    assert contents(tmp_path / "there") == contents(small)
    assert set(objects(bucket)) == {f"raw/{name}" for name in contents(small)}, "no part is left"
    assert bucket.faults[kind] > 30


def test_a_server_that_stays_away_is_told(bucket: Any, small: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(buckets, "PATIENCE_S", 0.2)
    bucket.fault = lambda method, _: "503" if method == "POST" else None
    with pytest.raises(
        TransferError, match=rf"^{ADDRESS} cannot be reached: so it was ordered; .*run it again to go on$"
    ):
        upload(small, ADDRESS)


def test_no_network(small: Path, free_port: Callable[[], int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", f"http://127.0.0.1:{free_port()}")
    monkeypatch.setattr(buckets, "PATIENCE_S", 0.2)
    with pytest.raises(TransferError, match=rf"^{ADDRESS} cannot be reached: Connection refused; .*go on$"):
        upload(small, ADDRESS)


@pytest.mark.parametrize(
    ("kind", "message"),
    [("403", r"no permission for .*roles/storage\.objectUser.*so it was ordered"), ("401", "gcloud auth appl")],
)
def test_what_google_refuses_is_told_with_a_remedy(bucket: Any, small: Path, kind: str, message: str) -> None:
    bucket.fault = lambda method, _: kind if method == "POST" else None
    with pytest.raises(TransferError, match=message):
        upload(small, ADDRESS)


def test_no_credentials(small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("STORAGE_EMULATOR_HOST", raising=False)
    monkeypatch.setenv("NO_GCE_CHECK", "true")
    monkeypatch.setenv("CLOUDSDK_CONFIG", str(tmp_path))
    monkeypatch.delenv("GOOGLE_APPLICATION_CREDENTIALS", raising=False)
    with pytest.raises(TransferError, match="gcloud auth application-default login"):
        upload(small, ADDRESS)


def test_an_object_that_is_another_one_after_the_upload_is_found(bucket: Any, small: Path) -> None:
    lists: list[str] = []

    def spoil(method: str, name: str) -> None:
        if method == "GET" and "prefix=" in name:
            lists.append(name)
            if len(lists) == 2:
                for spoilt in ("raw/a/b/7.txt", "raw/a/b/3.txt"):
                    bucket.emulator._storage.objects[BUCKET][spoilt]["crc32c"] = "AAAAAA=="

    bucket.fault = spoil
    with pytest.raises(TransferError, match=r"^raw/a/b/3\.txt is not in the bucket as it was sent"):
        upload(small, ADDRESS)
    assert upload(small, ADDRESS).files == 2


def test_an_object_that_arrives_as_another_one(bucket: Any, small: Path, tmp_path: Path) -> None:
    upload(small, ADDRESS)
    bucket.emulator._storage.objects[BUCKET]["raw/a/4.txt"]["crc32c"] = "AAAAAA=="
    with pytest.raises(TransferError, match=r"^4\.txt arrives damaged"):
        download(ADDRESS, tmp_path / "there")
    assert not [path for path in (tmp_path / "there").rglob("*") if path.name == "4.txt" or "part" in path.name]


@pytest.mark.parametrize("size", [100, 3 * PART])
def test_a_file_that_changes_while_it_is_sent(bucket: Any, tmp_path: Path, size: int) -> None:
    path = tmp_path / "log.txt"
    path.write_bytes(bytes(size))

    def grow(method: str, _: str) -> None:
        if method == "POST":
            with path.open("ab") as file:
                file.write(b"more")

    bucket.fault = grow
    with pytest.raises(TransferError, match=r"^log\.txt changed while it was sent"):
        upload(path, f"{ADDRESS}/log.txt")


def test_a_file_that_shrinks_while_it_is_sent(bucket: Any, large: Path) -> None:
    def shrink(method: str, _: str) -> None:
        if method == "POST":
            os.truncate(large, 2 * PART)

    bucket.fault = shrink
    with pytest.raises(TransferError, match=r"^large\.bin changed while it was sent"):
        upload(large, f"{ADDRESS}/large.bin")
    assert "raw/large.bin" not in objects(bucket)


@pytest.mark.parametrize("ours", [True, False])
def test_an_object_that_is_there_when_nobody_expects_it(
    bucket: Any, small: Path, monkeypatch: pytest.MonkeyPatch, ours: bool
) -> None:
    """Google refuses to replace it: the first answer was lost, or somebody else was faster."""
    from google.api_core.exceptions import PreconditionFailed
    from google.cloud.storage import Blob

    send = Blob.upload_from_file

    def refused(self: Blob, *arguments: Any, **options: Any) -> None:
        assert options["if_generation_match"] == 0
        other = self.bucket.blob(self.name)
        if ours:
            send(other, *arguments, **options)
        else:
            put(bucket, self.name, b"other")
        raise PreconditionFailed("it is there")

    monkeypatch.setattr(Blob, "upload_from_file", refused)
    monkeypatch.setattr(Blob, "upload_from_string", lambda self, content: send(self, *as_file(content)))
    if ours:
        assert upload(small / "a/4.txt", f"{ADDRESS}/4.txt").files == 1
    else:
        with pytest.raises(TransferError, match=r"^raw/4\.txt was written by somebody else"):
            upload(small / "a/4.txt", f"{ADDRESS}/4.txt")


def as_file(content: bytes) -> tuple[Any, bool, int]:
    import io

    return io.BytesIO(content), False, len(content)


# ------------------------------------------------------------------------------------------------------- refused


@pytest.mark.parametrize(
    "name",
    [
        "../evil.txt",
        "a/../../evil.txt",
        "/etc/evil.txt",
        "a//evil.txt",
        "./evil.txt",
        "a\\evil.txt",
        "a/evil\n.txt",
        "a/evil\x7f.txt",
        "a/4.txt/evil.txt",
        "a/" + 256 * "e",
    ],
)
def test_hostile_names_are_refused_before_anything_is_written(
    bucket: Any, small: Path, tmp_path: Path, name: str
) -> None:
    upload(small, ADDRESS)
    put(bucket, f"raw/{name}")
    with pytest.raises(TransferError, match="nothing was transferred"):
        download(ADDRESS, tmp_path / "out/there")
    assert not (tmp_path / "out").exists()


def test_names_that_could_not_be_fetched_are_not_sent(bucket: Any, small: Path) -> None:
    (small / "new\nline.txt").write_bytes(b"")
    with pytest.raises(TransferError, match="nothing was transferred"):
        upload(small, ADDRESS)
    assert objects(bucket) == {}


def test_addresses_at_which_there_is_nothing(bucket: Any, small: Path, tmp_path: Path) -> None:
    put(bucket, "raw/")
    for address in (ADDRESS, f"{ADDRESS}/"):
        with pytest.raises(TransferError, match=rf"^there is nothing at {ADDRESS}$"):
            download(address, tmp_path / "there")
    for work in (
        lambda: download("gs://no-bucket/raw", tmp_path / "there"),
        lambda: upload(small, "gs://no-bucket/raw"),
        lambda: exists("gs://no-bucket/raw"),
    ):
        with pytest.raises(TransferError, match=r"^there is no bucket gs://no-bucket$"):
            work()
    for address in ("posters/raw", "s3://posters/raw", "gs://", "gs:///raw", "gs://UPPER/raw"):
        with pytest.raises(TransferError, match="is no address like gs://"):
            exists(address)
    assert not (tmp_path / "there").exists()


def test_what_is_both_or_in_the_way(bucket: Any, small: Path, tmp_path: Path) -> None:
    upload(small, ADDRESS)
    with pytest.raises(TransferError, match="is in the way: it is a file"):
        download(ADDRESS, small / "a/4.txt")
    with pytest.raises(TransferError, match="is in the way: it is a folder"):
        download(f"{ADDRESS}/a/4.txt", small)
    with pytest.raises(TransferError, match=r"names no object for the file 4\.txt"):
        upload(small / "a/4.txt", f"{ADDRESS}/")
    put(bucket, "raw")
    with pytest.raises(TransferError, match="an object and a folder at once"):
        download(ADDRESS, tmp_path / "there")
    assert download(f"{ADDRESS}/", tmp_path / "there").files == 12


def test_local_files_that_cannot_be_sent(bucket: Any, small: Path, tmp_path: Path) -> None:
    with pytest.raises(TransferError, match=r"^there is no nothing\.txt$"):
        upload(tmp_path / "nothing.txt", ADDRESS)
    odd = small / "odd"
    os.mkfifo(odd)
    with pytest.raises(TransferError, match=r"^odd is neither a file nor a folder$"):
        upload(small, ADDRESS)
    odd.unlink()
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(os.path.relpath(odd))
        with pytest.raises(TransferError, match=r"^odd is neither a file nor a folder$"):
            upload(small, ADDRESS)
    odd.unlink()
    for target, message in (("nowhere", "^odd is a link to nothing$"), (small, "^odd is a link to a folder that")):
        odd.symlink_to(target)
        with pytest.raises(TransferError, match=message):
            upload(small, ADDRESS)
        odd.unlink()
    assert objects(bucket) == {}
    (tmp_path / "one").mkdir()
    (tmp_path / "two").mkdir()
    odd.symlink_to(tmp_path / "one")
    (tmp_path / "one/forth").symlink_to(tmp_path / "two")
    (tmp_path / "two/back").symlink_to(tmp_path / "one")
    with pytest.raises(TransferError, match=r"^back is a link to a folder that it lies in$"):
        upload(small, ADDRESS)
    odd.unlink()
    odd.symlink_to("/proc/self/mem")  # nobody can read its beginning, not even root
    with pytest.raises(TransferError, match=r"^cannot read odd: "):
        upload(small, ADDRESS)


def test_a_full_disk(bucket: Any, small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    upload(small, ADDRESS)

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(TransferError, match=r"^the disk is full; .*run it again$"):
            download(ADDRESS, tmp_path / "there")
    assert download(ADDRESS, tmp_path / "there").files == 12
    assert contents(tmp_path / "there") == contents(small)


def test_two_downloads_of_one_file_at_once(bucket: Any, large: Path, tmp_path: Path) -> None:
    upload(large, f"{ADDRESS}/file.bin")
    stop_after(bucket, 3, "GET", "alt=media")
    target = tmp_path / "file.bin"
    with started_process([sys.executable, "-c", SCRIPT, "download", target, f"{ADDRESS}/file.bin"]):
        eventually(lambda: bucket.faults["silence"] == 1)
        bucket.fault = lambda *_: None
        with pytest.raises(TransferError, match=r"^file\.bin is being fetched by another process$"):
            download(f"{ADDRESS}/file.bin", target)
    assert download(f"{ADDRESS}/file.bin", target).files == 1
    assert target.read_bytes() == large.read_bytes()


def test_the_extra_is_missing(small: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "google_crc32c", None)
    with pytest.raises(MissingExtraError, match="--extra gcs"):
        upload(small, ADDRESS)


# -------------------------------------------------------------------------------------------------------- memory


@pytest.mark.parametrize("direction", ["upload", "download"])
def test_memory_does_not_grow_with_the_file(emulator: Server, tmp_path: Path, direction: str) -> None:
    size = 100 * 2**20
    path = tmp_path / "large.bin"
    path.touch()
    os.truncate(path, size)
    if direction == "download":
        upload(path, f"{ADDRESS}/large.bin")
        path.unlink()
    script = f"""
import re, sys
from pathlib import Path
from google.cloud import storage
from onesheet.cloud import transfer
transfer.exists("{ADDRESS}")
def peak():  # of this process: getrusage would tell that of its parent, if that is larger
    return int(re.search("VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1])
before = peak()
path, address = Path(sys.argv[1]), "{ADDRESS}/large.bin"
done = transfer.upload(path, address) if "{direction}" == "upload" else transfer.download(address, path)
assert (done.files, done.bytes) == (1, {size})
print(peak() - before)
"""
    grown = run_command([sys.executable, "-c", script, path], check=True)
    assert int(grown.stdout) < 40 * 2**10, "KiB"
    assert path.stat().st_size == size
