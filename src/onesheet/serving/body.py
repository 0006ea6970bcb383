"""Reads bodies that `BodyLimit` lets pass, in memory."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.formparsers import MultiPartException, MultiPartParser

from onesheet.errors import InvalidRequestError
from onesheet.serving.problems import MALFORMED_BODY, UNSUPPORTED_MEDIA_TYPE

if TYPE_CHECKING:
    from starlette.requests import Request

_MAX_FIELDS: Final = 20
_MAX_NAME: Final = 255


@dataclass(frozen=True, slots=True)
class Upload:
    """An encoded picture, and what the client calls it."""

    data: bytes
    file_name: str | None


class _InMemoryParser(MultiPartParser):
    """Starlette's own, without its detour through temporary files: the size of a body is limited already."""

    spool_max_size = sys.maxsize


async def read_files(request: Request, field: str, at_most: int) -> list[Upload]:
    """The files of one field of a multipart form, in order; other fields are ignored.

    Raises:
        InvalidRequestError: There is none, or there are too many.
        HTTPException: 400 for a form that is none.
    """
    parser = _InMemoryParser(request.headers, request.stream(), max_files=at_most, max_fields=_MAX_FIELDS)
    try:
        form = await parser.parse()
    except (MultiPartException, UnicodeError) as error:
        reason = error.message if isinstance(error, MultiPartException) else "its text cannot be decoded"
        raise HTTPException(MALFORMED_BODY.status, f"the form cannot be read: {reason}") from error
    try:
        parts = [part for part in form.getlist(field) if isinstance(part, UploadFile)]
        if not parts:
            raise InvalidRequestError(f"{field}: send the picture as a file part of this name")
        return [Upload(await part.read(), (part.filename or "")[:_MAX_NAME] or None) for part in parts]
    finally:
        await form.close()


async def read_json(request: Request) -> object:
    """The body as JSON.

    Raises:
        HTTPException: 400 for a body that is none.
    """
    try:
        return json.loads(await request.body())
    except (ValueError, RecursionError) as error:
        raise HTTPException(MALFORMED_BODY.status, "the body is no JSON") from error


def media_type(request: Request) -> str:
    """What the client says that the body is, without parameters."""
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


def require(request: Request, expected: str, hint: str) -> None:
    """Refuse another kind of body.

    Raises:
        HTTPException: 415.
    """
    if media_type(request) != expected:
        raise HTTPException(UNSUPPORTED_MEDIA_TYPE.status, hint)
