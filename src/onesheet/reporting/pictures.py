"""The picture files that a report names: inside its folder, and real."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Final
from urllib.parse import unquote

from onesheet.errors import ImageNotFoundError, NotAFileError, UnsupportedImageError, UrlNotAllowedError
from onesheet.image import ImageLimits, decode, read_bytes

# As for posters, but a screenshot may have any shape.
_LIMITS: Final = ImageLimits(min_side=1, max_aspect=math.inf)

_ADDRESS: Final = re.compile(r"[a-z][a-z0-9+.-]+:|//|\\\\", re.IGNORECASE)
_TYPES: Final = ((b"\xff\xd8\xff", "image/jpeg"), (b"\x89PNG\r\n\x1a\n", "image/png"))


def read_picture(target: str, folder: Path) -> tuple[str, bytes]:
    """Read a picture as the course takes it, and decode it to be sure that it is one.

    Args:
        target: Where it is, as the report's Markdown has it.
        folder: Of the report.

    Returns:
        Its media type and its bytes.

    Raises:
        ImageError: It is an address, outside the folder, not there, or no PNG or JPEG that can be shown.
    """
    if _ADDRESS.match(target):
        raise UrlNotAllowedError("is an address; put the picture into the report's folder")
    data = read_bytes(_inside(unquote(target), folder), _LIMITS)
    decode(data, _LIMITS)
    kind = next((kind for start, kind in _TYPES if data.startswith(start)), None)
    if kind is None:
        raise UnsupportedImageError("is neither PNG nor JPEG")
    return kind, data


def _inside(name: str, folder: Path) -> Path:
    if not name:
        raise ImageNotFoundError("names no file")
    try:
        path = (folder / name).resolve()
        inside = path.is_relative_to(folder.resolve())
    except (OSError, ValueError, RuntimeError) as error:
        raise ImageNotFoundError("is no name of a file") from error
    if not inside:
        raise NotAFileError("is outside the report's folder")
    return path
