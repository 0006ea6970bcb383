"""`onesheet data push` and `pull` of a folder beside a plain parallel upload and download of the same bytes.

The bucket is the emulator in a process of its own on loopback, the workers are as many on both sides, and the rounds
alternate, so that whatever else the machine does hits both. Push and pull are whole commands, with the start of Python
and DVC; a pull also puts the files into DVC's cache and from there into place. Then both once through a bad network,
and once killed (-9) in the middle.

    python benchmarks/data_versions.py data/raw
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import psutil
from faulty_bucket import Fault, FaultyBucket, free_port, serve_emulator
from google.auth.credentials import AnonymousCredentials
from google.cloud.storage import Client
from google.cloud.storage.transfer_manager import THREAD, download_many_to_path, upload_many_from_filenames

BUCKET = "versions"
WORKERS = 16
ROUNDS = 5
TIMEOUT = "40"


def main() -> None:
    raw = Path(sys.argv[1])
    with tempfile.TemporaryDirectory() as scratch:
        repository = Repository(Path(scratch), raw)
        files, size = len(repository.names), sum((raw / name).stat().st_size for name in repository.names)
        print(f"{files} files, {size / 1e6:.0f} MB; {WORKERS} workers; {ROUNDS} rounds\n")
        compare(repository)
        bad_network(repository)
        killed(repository)


def compare(repository: Repository) -> None:
    """The table of rates and ratios."""
    rounds = [one_round(repository, number) for number in range(ROUNDS + 1)][1:]  # the first is a warm-up
    print("| | files/s, median (all rounds) | of the plain way (all rounds) |\n|---|---:|---:|")
    for ours, plain in (("push", "plain upload"), ("pull", "plain download")):
        print(f"| {plain} | {spread([len(repository.names) / r[plain] for r in rounds], '.0f')} | |")
        rates = spread([len(repository.names) / r[ours] for r in rounds], ".0f")
        print(f"| `onesheet data {ours}` | {rates} | {spread([r[plain] / r[ours] for r in rounds], '.0%')} |")
    limit = statistics.median(len(repository.names) / r["emulator"] for r in rounds)
    print(f"\nthe emulator itself, on a core of its own: at most {limit:.0f} uploads/s\n")


def one_round(repository: Repository, number: int) -> dict[str, float]:
    """Seconds of each, and those that the emulator computed during the plain upload."""
    names = [str(name) for name in repository.names]
    options = {"max_workers": WORKERS, "worker_type": THREAD, "raise_exception": True, "blob_name_prefix": "plain/"}
    seconds = {}
    # A new one each time: it gets slower with each object that it has.
    with emulator() as process, tempfile.TemporaryDirectory() as folder:
        repository.use(f"gs://{BUCKET}/round-{number}")
        bucket = Client(project="none", credentials=AnonymousCredentials()).bucket(BUCKET)
        busy = sum(process.cpu_times()[:2])
        uploading = partial(upload_many_from_filenames, bucket, names, str(repository.raw), **options)
        seconds["plain upload"] = timed(uploading)
        seconds["emulator"] = sum(process.cpu_times()[:2]) - busy
        seconds["push"] = timed(lambda: repository.run("push"))
        seconds["plain download"] = timed(partial(download_many_to_path, bucket, names, folder, **options))
        repository.forget()
        seconds["pull"] = timed(lambda: repository.run("pull"))
    repository.check()
    return seconds


def bad_network(repository: Repository) -> None:
    """One request in a hundred is answered 503, one in a thousand hangs up, one in a thousand falls silent."""
    requests = 0

    def fault(*_: str) -> Fault | None:
        nonlocal requests
        requests += 1
        if requests % 1000 in (333, 666):
            return "silence" if requests % 1000 == 333 else "hang up"
        return "503" if requests % 100 == 50 else None

    with FaultyBucket(BUCKET, fault) as bucket:
        repository.use(f"gs://{BUCKET}/bad", bucket.address)
        pushed = timed(lambda: repository.run("push"))
        repository.forget()
        pulled = timed(lambda: repository.run("pull"))
        repository.check()
        wrong = ", ".join(f"{count} x {fault}" for fault, count in bucket.faults.items())
        print(f"through a bad network ({wrong}): push {pushed:.0f} s, pull {pulled:.0f} s; all files are the same")
        print(f"  uploaded twice: {sum(count - 1 for count in bucket.uploaded.values())}")


def killed(repository: Repository) -> None:
    """Killed when half of the objects are through, then run again."""
    with FaultyBucket(BUCKET) as bucket:
        repository.use(f"gs://{BUCKET}/killed", bucket.address)
        repository.kill("push", lambda: bucket.uploaded.total() > len(repository.names) / 2)
        before = bucket.uploaded.total()
        again = timed(lambda: repository.run("push"))
        twice = bucket.uploaded.total() - len(bucket.uploaded)
        print(f"push killed after {before} objects, and run again: {again:.0f} s; uploaded twice: {twice}")
        repository.forget()
        repository.kill("pull", lambda: bucket.downloaded.total() > len(repository.names) / 2)
        before = bucket.downloaded.total()
        again = timed(lambda: repository.run("pull"))
        twice = bucket.downloaded.total() - len(bucket.downloaded)
        repository.check()
        print(f"pull killed after {before} objects, and run again: {again:.0f} s; downloaded twice: {twice}")


class Repository:
    """A git and DVC repository with a copy of the files."""

    def __init__(self, scratch: Path, raw: Path) -> None:
        self.scratch = scratch
        self.raw = raw
        self.names = sorted(path.relative_to(raw) for path in raw.rglob("*") if path.is_file())
        self.folder = scratch / "repository"
        self.environment: dict[str, str] = {}
        shutil.copytree(raw, self.folder / "raw", copy_function=shutil.copyfile)
        for command in (
            ["git", "init", "-q"],
            *([sys.executable, "-m", "dvc", *c] for c in (["init"], ["add", "raw"])),
        ):
            subprocess.run(command, cwd=self.folder, check=True, capture_output=True)

    def use(self, remote: str, address: str | None = None) -> None:
        """Take this remote, and know nothing of what is there."""
        (self.folder / ".dvc/config").write_text(
            f"[core]\n    remote = storage\n['remote \"storage\"']\n    url = {remote}\n"
        )
        known = tempfile.mkdtemp(dir=self.scratch)
        self.environment = {**os.environ, "DVC_SITE_CACHE_DIR": known}
        if address:
            self.environment["STORAGE_EMULATOR_HOST"] = address

    def command(self, direction: str) -> list[str]:
        """`onesheet data push|pull`."""
        return [sys.executable, "-m", "onesheet", "data", direction, "--jobs", str(WORKERS), "--timeout", TIMEOUT]

    def run(self, direction: str) -> None:
        """Push or pull."""
        subprocess.run(
            self.command(direction), cwd=self.folder, env=self.environment, check=True, stdout=subprocess.DEVNULL
        )

    def kill(self, direction: str, when: Callable[[], bool]) -> None:
        """Push or pull, and be killed (-9) as soon as `when()` says so."""
        with subprocess.Popen(self.command(direction), cwd=self.folder, env=self.environment) as process:
            while not when():
                time.sleep(0.01)
            process.send_signal(signal.SIGKILL)

    def forget(self) -> None:
        """As in a new clone."""
        shutil.rmtree(self.folder / "raw")
        shutil.rmtree(self.folder / ".dvc/cache")

    def check(self) -> None:
        """All files are here, and as they were."""
        for name in self.names:
            assert (self.folder / "raw" / name).read_bytes() == (self.raw / name).read_bytes(), name


@contextlib.contextmanager
def emulator() -> Iterator[psutil.Process]:
    """Cloud Storage in a process of its own."""
    port = free_port()
    os.environ["STORAGE_EMULATOR_HOST"] = f"http://127.0.0.1:{port}"
    process = get_context("spawn").Process(target=serve_emulator, args=(port, BUCKET), daemon=True)
    process.start()
    time.sleep(3)
    yield psutil.Process(process.pid)
    process.kill()


def timed(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def spread(values: list[float], form: str) -> str:
    return f"{statistics.median(values):{form}} ({', '.join(f'{value:{form}}' for value in values)})"


if __name__ == "__main__":
    # gcsfs looks for a metadata server, and for features that the emulator does not have.
    os.environ |= {"NO_GCE_CHECK": "true", "GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT": "false", "DVC_NO_ANALYTICS": "1"}
    main()
