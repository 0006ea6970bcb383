"""From what a user names to the posters in it."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from onesheet.errors import InvalidRequestError
from onesheet.image import ImageLimits
from onesheet.scoring.archives import TarSource, ZipSource
from onesheet.scoring.bucket import BucketSource
from onesheet.scoring.folder import FolderSource
from onesheet.scoring.rows import Source
from onesheet.scoring.tables import TableSource

KINDS: Final = (
    "a folder, a .csv or .parquet with a column path or url, a .zip, .tar, .tar.gz or .tgz, or gs://BUCKET/PREFIX"
)


def find_source(named: str, limits: ImageLimits, seconds: float, *, follow_links: bool = False) -> Source:
    """What is named, by its name.

    Args:
        named: One of `KINDS`.
        limits: What is accepted as a poster.
        seconds: In which an address in a table has to answer.
        follow_links: Whether to look in linked folders, too.

    Raises:
        InvalidRequestError: It is not there, or is something else, or has no links to follow.
        OnesheetError: It is not what its name says.
    """
    path = Path(named)
    is_bucket = named.startswith("gs://")
    if not is_bucket and path.is_dir():
        return FolderSource(path, limits, follow_links=follow_links)
    if follow_links:
        raise InvalidRequestError(f"--follow-links is for a folder, and {named} is none")
    if is_bucket:
        return BucketSource(named, limits)
    if not path.exists():
        raise InvalidRequestError(f"{named}: no such file or folder")
    name = path.name.lower()
    if name.endswith((".csv", ".parquet")):
        return TableSource(path, limits, seconds)
    if name.endswith(".zip"):
        return ZipSource(path, limits)
    if name.endswith((".tar", ".tar.gz", ".tgz")):
        return TarSource(path, limits)
    raise InvalidRequestError(f"{named} is no catalogue; name {KINDS}")
