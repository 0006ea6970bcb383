"""Where posters come from, and what a source string means.

| source | read by |
|---|---|
| a folder | `location` |
| `gs://bucket/prefix`, or any other address that fsspec knows | `location` |
| `https://…`, `git@…`, `git+…`, or anything that ends in `.git` | `git` |
| `kaggle:owner/name` | `kaggle` |
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from onesheet.data.sources.git import GitSource, is_git
from onesheet.data.sources.kaggle import download_dataset, kaggle_handle
from onesheet.data.sources.location import open_location
from onesheet.data.sources.naming import public_name
from onesheet.errors import FetchError

if TYPE_CHECKING:
    from pathlib import Path

    from onesheet.data.progress import Report
    from onesheet.data.sources.base import Source


def open_source(source: str, work: Path, report: Report) -> Source:
    """Open the source that a string means.

    Args:
        source: See the table above.
        work: Folder for a source's own intermediate files; what lies there from last time is reused.
        report: Told how far a source is that has to be downloaded as a whole first (Kaggle).

    Raises:
        FetchError: The string means nothing, or the source cannot be reached.
        MissingExtraError: The source needs an extra that is not installed.
    """
    if not source.strip():
        raise FetchError("the source is empty: name a folder, a git address, kaggle:owner/name or gs://bucket")
    name = public_name(source)
    handle = kaggle_handle(source)
    if handle:
        return open_location(str(download_dataset(handle, work / "kaggle", report)), name)
    if is_git(source):
        return GitSource(source, name, work / "git")
    return open_location(source, name)
