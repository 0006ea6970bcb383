"""Fetching from git: real repositories, served by the real git over `file://`."""

from __future__ import annotations

import os
import shutil
import socket
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from onesheet.data.fetch import fetch
from onesheet.data.progress import Progress
from onesheet.errors import FetchError
from tests.processes import run_command

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = pytest.mark.skipif(shutil.which("git") is None, reason="needs git")


def git(*arguments: str, folder: Path) -> str:
    author = ["-c", "user.name=A", "-c", "user.email=a@example.org", "-c", "gc.auto=0"]
    command = ["git", *author, "-C", str(folder), *arguments]
    return str(run_command(command, check=True).stdout)


@pytest.fixture
def repository(source: Path, tmp_path: Path) -> Path:
    """A bare repository of the source's files, with all objects loose, that serves partial clones."""
    git("init", "--quiet", folder=source)
    git("add", ".", folder=source)
    git("commit", "--quiet", "--message=posters", folder=source)
    bare = tmp_path / "posters.git"
    (source / ".git").rename(bare)
    git("config", "core.bare", "true", folder=bare)
    git("config", "uploadpack.allowFilter", "true", folder=bare)
    return bare


def same_posters(out: Path, source: Path) -> bool:
    names = [path.relative_to(source) for path in source.rglob("*") if path.is_file()]
    return all((out / name).read_bytes() == (source / name).read_bytes() for name in names)


@pytest.mark.parametrize("filters", ["true", "false"])
@pytest.mark.parametrize("batch", [7, 256])
def test_brings_the_posters(
    repository: Path,
    source: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    filters: str,
    batch: int,
) -> None:
    git("config", "uploadpack.allowFilter", filters, folder=repository)
    monkeypatch.setattr("onesheet.data.fetch.BATCH", batch)
    seen: list[Progress] = []
    receipt = fetch(repository.as_uri(), tmp_path / "raw", progress=seen.append)
    assert same_posters(tmp_path / "raw", source)
    assert receipt.files == 41
    assert {path.name for path in (tmp_path / "raw").iterdir()} == {"Images", "fetch.json", "train.csv"}
    downloading = [progress for progress in seen if progress.step == "downloading"]
    assert downloading[-1].done_files == downloading[-1].total_files == 41


def test_takes_a_path_and_the_git_prefix(repository: Path, source: Path, tmp_path: Path) -> None:
    fetch(str(repository), tmp_path / "by_path")
    fetch(f"git+{repository.as_uri()}", tmp_path / "by_prefix")
    assert same_posters(tmp_path / "by_path", source)
    assert same_posters(tmp_path / "by_prefix", source)


def test_what_was_fetched_is_not_asked_for_again(
    repository: Path,
    source: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    kill_in_the_middle: Callable[..., None],
) -> None:
    kill_in_the_middle(repository.as_uri(), tmp_path / "raw", 25)
    clone = tmp_path / "raw.partial" / ".work" / "git" / "clone"
    missing = git("rev-list", "--objects", "--missing=print", "--no-object-names", "HEAD", folder=clone)
    absent = {line[1:] for line in missing.splitlines() if line.startswith("?")}
    blobs = git("ls-tree", "-r", "HEAD", folder=repository).splitlines()
    fetched = {line.split()[2] for line in blobs} - absent
    assert 25 <= len(fetched) < 41
    for blob in fetched:
        (repository / "objects" / blob[:2] / blob[2:]).unlink()
    monkeypatch.setattr("onesheet.data.fetch.BATCH", 10)
    fetch(repository.as_uri(), tmp_path / "raw")
    assert same_posters(tmp_path / "raw", source)


def test_damaged_partial_file_is_mended(
    repository: Path, source: Path, tmp_path: Path, kill_in_the_middle: Callable[..., None]
) -> None:
    kill_in_the_middle(repository.as_uri(), tmp_path / "raw", 25)
    staged = min((tmp_path / "raw.partial" / "Images").iterdir())
    staged.write_bytes(staged.read_bytes()[:-1] + b"?")
    fetch(repository.as_uri(), tmp_path / "raw")
    assert same_posters(tmp_path / "raw", source)


def test_links_in_a_repository_are_not_followed(repository: Path, source: Path, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("s3cret")
    (source / "Images" / "tt9999999.jpg").symlink_to(secret)
    worktree = ("--git-dir", str(repository), "--work-tree", str(source))
    git(*worktree, "add", ".", folder=source)
    git(*worktree, "commit", "--quiet", "--message=link", folder=source)
    receipt = fetch(str(repository), tmp_path / "raw")
    assert receipt.files == 41
    assert not (tmp_path / "raw" / "Images" / "tt9999999.jpg").exists()


def test_a_hook_around_us_does_not_lead_git_astray(
    repository: Path, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GIT_DIR", str(tmp_path / "elsewhere"))
    monkeypatch.setenv("GIT_INDEX_FILE", "index")
    fetch(str(repository), tmp_path / "raw")
    monkeypatch.undo()
    assert same_posters(tmp_path / "raw", source)


@pytest.mark.skipif(sys.platform == "win32", reason="the git in front of git is a shell script")
def test_batch_that_fails_once_is_tried_again(
    repository: Path, source: Path, tmp_path: Path, no_pauses: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A git in front of git that fails the first fetch."""
    real = shutil.which("git")
    fake = tmp_path / "bin" / "git"
    fake.parent.mkdir()
    fake.write_text(
        f'#!/bin/sh\ncase " $* " in *" fetch "*) mkdir {tmp_path}/once 2>/dev/null && exit 1;; esac\nexec {real} "$@"\n'
    )
    fake.chmod(0o755)
    monkeypatch.setenv("PATH", str(fake.parent), prepend=os.pathsep)
    fetch(str(repository), tmp_path / "raw")
    assert (tmp_path / "once").exists()
    assert same_posters(tmp_path / "raw", source)


def test_repository_that_loses_objects_is_told(repository: Path, source: Path, tmp_path: Path, no_pauses: None) -> None:
    blob = git("rev-parse", "HEAD:Images/tt0000030.jpg", folder=repository).strip()
    (repository / "objects" / blob[:2] / blob[2:]).unlink()
    with pytest.raises(FetchError, match=r"^cannot read file://.*posters\.git: .+") as caught:
        fetch(repository.as_uri(), tmp_path / "raw")
    assert "\n" not in caught.value.message


def test_addresses_that_do_not_answer(tmp_path: Path, no_pauses: None) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        closed = server.getsockname()[1]
    address = f"http://me:s3cret@127.0.0.1:{closed}/posters.git"
    with pytest.raises(FetchError, match=r"^cannot reach http://127\.0\.0\.1:\d+/posters\.git: ") as caught:
        fetch(address, tmp_path / "raw")
    assert "s3cret" not in caught.value.message
    assert "\n" not in caught.value.message
    with pytest.raises(FetchError, match=r"cannot reach nowhere\.git: "):
        fetch("nowhere.git", tmp_path / "raw")


def test_silent_host_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("onesheet.data.sources.git.ANSWER_S", 0.5)
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"http://127.0.0.1:{server.getsockname()[1]}/posters"
        with pytest.raises(FetchError, match=r"cannot reach .*: no answer within"):
            fetch(address, tmp_path / "raw")


def test_receipt_has_no_credentials(repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GIT_CONFIG_COUNT", "1")
    monkeypatch.setenv("GIT_CONFIG_KEY_0", f"url.{repository.as_uri()}.insteadOf")
    monkeypatch.setenv("GIT_CONFIG_VALUE_0", "https://me:s3cret@host/posters")
    receipt = fetch("https://me:s3cret@host/posters", tmp_path / "raw")
    assert receipt.source == "https://host/posters"
    assert "s3cret" not in (tmp_path / "raw" / "fetch.json").read_text()


def test_git_that_is_not_installed_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(FetchError, match="command `git`, which is not installed"):
        fetch("https://host/posters", tmp_path / "raw")
