"""A Kaggle data set, downloaded by Kaggle's own client into a folder."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from onesheet.data.progress import Progress
from onesheet.data.sources.base import need_extra, retry
from onesheet.errors import FetchError
from onesheet.processes import module_command

if TYPE_CHECKING:
    from onesheet.data.progress import Report

STALLED_S = 60.0
"""Seconds without a new byte after which the client is given up."""
POLL_S = 0.5

_ADDRESS = re.compile(r"kaggle:(?://)?(.*)", re.DOTALL)
_HANDLE = re.compile(r"[\w.-]+/[\w.-]+(/versions/\d+)?")


class _AgainError(FetchError):
    """The download failed in a way that may pass; it resumes."""


def kaggle_handle(source: str) -> str | None:
    """The `owner/name` in `kaggle:owner/name` or `kaggle://owner/name`; None for any other source.

    Raises:
        FetchError: It starts with `kaggle:` but names no data set.
    """
    address = _ADDRESS.fullmatch(source)
    if address is None:
        return None
    if _HANDLE.fullmatch(address[1]) is None:
        raise FetchError(f"{source} names no Kaggle data set: write kaggle:owner/name")
    return address[1]


def download_dataset(handle: str, work: Path, report: Report) -> Path:
    """Download a data set, or go on with a download that was interrupted.

    Args:
        handle: `owner/name`, optionally with `/versions/3`.
        work: Folder for the client's cache.
        report: Told the bytes that are there; the client does not tell how many there will be.

    Returns:
        The folder of the data set.

    Raises:
        FetchError: Kaggle cannot be reached, refuses, or sends something damaged.
        MissingExtraError: The client is not installed.
    """
    need_extra("kagglehub", "kaggle")
    work.mkdir(parents=True, exist_ok=True)
    return retry(lambda: _download_once(handle, work, report), (_AgainError,))


def _download_once(handle: str, work: Path, report: Report) -> Path:
    answer_file, log_file = work / "answer.json", work / "client.log"
    answer_file.unlink(missing_ok=True)
    with log_file.open("wb") as log:
        process = subprocess.Popen(
            module_command(f"{__package__}.kaggle_worker", handle, str(answer_file)),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env={**os.environ, "KAGGLEHUB_CACHE": str(work / "cache"), "TQDM_DISABLE": "1"},
        )
        with process:
            try:
                _watch(process, work, report)
            finally:
                process.kill()
    if not answer_file.is_file():
        raise FetchError(f"Kaggle's client failed: {_last_line(log_file)}")
    return _folder_or_error(handle, json.loads(answer_file.read_text()), work)


def _watch(process: subprocess.Popen[bytes], work: Path, report: Report) -> None:
    """Report until the process ends.

    Raises:
        FetchError: Nothing has arrived for `STALLED_S` seconds.
    """
    size, since = -1, time.monotonic()
    while process.poll() is None:
        with suppress(subprocess.TimeoutExpired):
            process.wait(POLL_S)
        before, size = size, _bytes_below(work)
        report(Progress("downloading", done_bytes=size))
        if size != before:
            since = time.monotonic()
        elif time.monotonic() - since > STALLED_S:
            raise FetchError(f"Kaggle has sent nothing for {STALLED_S:.0f} s; run it again to go on")


def _bytes_below(folder: Path) -> int:
    total = 0
    for path in folder.rglob("*"):
        with suppress(FileNotFoundError):  # the client removes its archive when it has been unpacked
            total += path.stat().st_size
    return total


def _folder_or_error(handle: str, answer: dict[str, Any], work: Path) -> Path:
    if "path" in answer:
        return Path(answer["path"])
    message = str(answer["message"]).strip().partition("\n")[0]
    if answer.get("error") == "damaged":
        shutil.rmtree(work / "cache")
        raise _AgainError(f"Kaggle sent a damaged archive of {handle}: {message}")
    if answer.get("error") == "unreachable":
        raise _AgainError(f"cannot reach Kaggle for {handle}: check the network, or fetch from another source")
    status = answer["status"]
    if status in (401, 403):
        raise FetchError(
            f"Kaggle refuses {handle} (HTTP {status}): create a token at https://www.kaggle.com/settings "
            "and set KAGGLE_API_TOKEN, or KAGGLE_USERNAME and KAGGLE_KEY"
        )
    if status == 404:
        raise FetchError(f"Kaggle has no data set {handle}")
    raise _AgainError(f"Kaggle cannot send {handle}: {message}")


def _last_line(log: Path) -> str:
    lines = log.read_text(errors="replace").split("\n")
    return next((line.strip() for line in reversed(lines) if line.strip()), "it says nothing")
