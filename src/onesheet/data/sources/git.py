"""A git repository, read object by object: no working tree, no history, nothing fetched twice."""

from __future__ import annotations

import io
import os
import re
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from onesheet.data.sources.base import Checksum, SourceFile, retry
from onesheet.data.sources.naming import dataset_names, public_name
from onesheet.errors import FetchError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

ANSWER_S = 30.0
"""Seconds for a host to answer at all, and to stay silent in the middle of a transfer."""

_ADDRESS = re.compile(r"(git\+|git@|(https?|ssh|git)://).+|.+\.git/?")
# What a git hook sets for its own repository would send our commands there.
_CALLERS_REPOSITORY = ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_OBJECT_DIRECTORY", "GIT_COMMON_DIR")
_OPTIONS = {
    "gc.auto": "0",
    "http.lowSpeedLimit": "1",
    "http.lowSpeedTime": f"{ANSWER_S:.0f}",
    "credential.interactive": "false",
    "fetch.negotiationAlgorithm": "noop",
}


class _GitError(Exception):
    """What git says when it fails, in one line."""


def is_git(source: str) -> bool:
    """Whether a source string means a git repository."""
    return _ADDRESS.fullmatch(source) is not None


class GitSource:
    """The last commit of a repository's default branch.

    A blobless clone brings the names and object ids of all files; contents are then fetched in the batches
    that `read` is asked for, and stay in the clone. A server that cannot filter sends all with the clone.

    Args:
        source: Address, as `is_git` knows it.
        name: How it may be called in an error.
        work: Folder for the clone; what an earlier run has fetched into it is used again.

    Raises:
        FetchError: git is not installed.
    """

    def __init__(self, source: str, name: str, work: Path) -> None:
        if shutil.which("git") is None:
            raise FetchError("this source needs the command `git`, which is not installed")
        self._address = _plain_address(source)
        self._name = name
        self._clone = work / "clone"

    def files(self) -> list[SourceFile]:
        """See `Source.files`."""
        if not self._clone.is_dir():
            self._make_clone()
        tree = self._git("ls-tree", "-r", "-z", "--full-tree", "HEAD").decode(errors="replace")
        objects = dict(_tree_entry(entry) for entry in tree.split("\0") if entry.startswith("100"))
        return [
            SourceFile(name, objects[path], None, Checksum("git", objects[path]))
            for name, path in dataset_names(objects, self._name).items()
        ]

    def read(self, files: Sequence[SourceFile]) -> Iterator[tuple[SourceFile, bytes]]:
        """See `Source.read`."""
        missing = self._missing_objects()
        self._fetch_objects(sorted({file.key for file in files} & missing))
        keys = "".join(f"{file.key}\n" for file in files)
        stream = io.BytesIO(self._git("cat-file", "--batch", stdin=keys))
        for file in files:
            size = int(stream.readline().split()[-1])
            yield file, stream.read(size)
            stream.readline()

    def _make_clone(self) -> None:
        """Clone under another name first, so that a clone of the right name is a whole one."""
        self._clone.parent.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(dir=self._clone.parent))
        options = ("--quiet", "--bare", "--depth=1", "--filter=blob:none")
        try:
            _run_git("ls-remote", "--", self._address, "HEAD", timeout=ANSWER_S)
            retry(lambda: _run_git("clone", *options, "--", self._address, str(folder)), (_GitError,))
        except _GitError as error:
            raise FetchError(f"cannot reach {self._name}: {error}") from error
        folder.rename(self._clone)

    def _missing_objects(self) -> set[str]:
        lines = self._git("rev-list", "--objects", "--missing=print", "--no-object-names", "HEAD").decode()
        return {line[1:] for line in lines.splitlines() if line.startswith("?")}

    def _fetch_objects(self, keys: Sequence[str]) -> None:
        """Fetch as git itself fetches the missing objects of a partial clone, but many at once."""
        options = ("--quiet", "--no-tags", "--no-write-fetch-head", "--recurse-submodules=no")
        wanted = "".join(f"{key}\n" for key in keys)
        if wanted:
            self._git("fetch", *options, "--filter=blob:none", "--stdin", "origin", stdin=wanted)

    def _git(self, *arguments: str, stdin: str = "") -> bytes:
        try:
            return retry(lambda: _run_git(f"--git-dir={self._clone}", *arguments, stdin=stdin), (_GitError,))
        except _GitError as error:
            raise FetchError(f"cannot read {self._name}: {error}") from error


def _run_git(*arguments: str, stdin: str = "", timeout: float | None = None) -> bytes:
    """Run git without anything that could ask a question.

    Raises:
        _GitError: It fails, or takes longer than `timeout` seconds.
    """
    options = [part for key, value in _OPTIONS.items() for part in ("-c", f"{key}={value}")]
    try:
        done = subprocess.run(
            ["git", *options, *arguments],
            input=stdin.encode(),
            capture_output=True,
            check=True,
            timeout=timeout,
            env=_environment(),
            start_new_session=True,  # without a terminal that ssh could ask on
        )
    except subprocess.TimeoutExpired as error:
        raise _GitError(f"no answer within {timeout:.0f} s") from error
    except subprocess.CalledProcessError as error:
        raise _GitError(_complaint(error)) from error
    return done.stdout


def _plain_address(source: str) -> str:
    address = source.removeprefix("git+")
    folder = Path(address).expanduser()
    # Only as an address does git take a repository on this disk without its history.
    return folder.resolve().as_uri() if folder.is_dir() else address


def _tree_entry(entry: str) -> tuple[str, str]:
    """Mode, type, object id, tab and path of an entry to path and object id."""
    description, _, path = entry.partition("\t")
    return path, description.split()[2]


def _environment() -> dict[str, str]:
    ours = {
        "GIT_ALLOW_PROTOCOL": "file:git:http:https:ssh",
        "GIT_ASKPASS": "",
        "GIT_TERMINAL_PROMPT": "0",
        "GCM_INTERACTIVE": "never",
        "LC_ALL": "C",
        "SSH_ASKPASS_REQUIRE": "never",
    }
    kept = {name: value for name, value in os.environ.items() if name not in _CALLERS_REPOSITORY}
    return {"GIT_SSH_COMMAND": f"ssh -o BatchMode=yes -o ConnectTimeout={ANSWER_S:.0f}", **kept, **ours}


def _complaint(error: subprocess.CalledProcessError) -> str:
    """The first line in which git says why it gave up."""
    lines = public_name(error.stderr.decode(errors="replace")).splitlines()
    for mark in ("fatal: ", "ERROR: ", "error: "):
        for line in lines:
            if mark in line:
                return line.partition(mark)[2]
    return f"git ended with status {error.returncode}"
