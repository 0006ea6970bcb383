"""What the routes have in common: how a poster is sent, what may be wrong with it, and who answers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Final

from fastapi import Depends, Request
from starlette.exceptions import HTTPException

from onesheet.errors import (
    BundleCorruptError,
    BundleNotFoundError,
    BundleSchemaError,
    CorruptImageError,
    EmptyImageError,
    ImageShapeError,
    ImageTooLargeError,
    InvalidRequestError,
    NotAnImageError,
    NotReadyError,
    UnsupportedImageError,
    UrlFetchError,
    UrlNotAllowedError,
)
from onesheet.serving.body import Upload, media_type, read_files, read_json, require
from onesheet.serving.fetch import ImageFetcher
from onesheet.serving.problems import BODY_TOO_LARGE, MALFORMED_BODY, REQUEST_TIMEOUT, UNSUPPORTED_MEDIA_TYPE
from onesheet.serving.service import PredictionService

if TYPE_CHECKING:
    from fastapi.routing import APIRoute

MULTIPART: Final = "multipart/form-data"
_JSON: Final = "application/json"
# Of a form with several files the last one of the right name counts, as it always has.
_MAX_FILES: Final = 8
NO_MODEL: Final = (NotReadyError, BundleNotFoundError, BundleCorruptError, BundleSchemaError)
BAD_BODY: Final = (
    MALFORMED_BODY,
    REQUEST_TIMEOUT,
    BODY_TOO_LARGE,
    UNSUPPORTED_MEDIA_TYPE,
    InvalidRequestError,
)
BAD_PICTURE: Final = (
    EmptyImageError,
    NotAnImageError,
    CorruptImageError,
    ImageTooLargeError,
    UnsupportedImageError,
    ImageShapeError,
    UrlNotAllowedError,
    UrlFetchError,
)

FILE: Final = {"type": "string", "format": "binary", "description": "JPEG, PNG, WebP or GIF, told by content."}
POSTER_BODY: Final = {
    "requestBody": {
        "required": True,
        "content": {
            MULTIPART: {"schema": {"type": "object", "required": ["file"], "properties": {"file": FILE}}},
            _JSON: {
                "schema": {
                    "type": "object",
                    "required": ["image_url"],
                    "properties": {
                        "image_url": {
                            "type": "string",
                            "format": "uri",
                            "description": "https only; where the server allows it.",
                        }
                    },
                }
            },
        },
    }
}


async def _get_service(request: Request) -> PredictionService:
    service: PredictionService = request.app.state.service
    return service


Service = Annotated[PredictionService, Depends(_get_service)]


def operation_id(route: APIRoute) -> str:
    """Clients generated from the OpenAPI document name their methods after this."""
    return route.name


async def read_poster(request: Request) -> Upload:
    """The picture that a request brings, or names where that is allowed.

    Raises:
        InvalidRequestError: There is none.
        UrlNotAllowedError, UrlFetchError: Of its address.
        HTTPException: 400 or 415 for a body that is none.
    """
    fetcher: ImageFetcher | None = request.app.state.fetcher
    if fetcher is not None and media_type(request) == _JSON:
        content = await read_json(request)
        if not isinstance(content, dict) or not isinstance(content.get("image_url"), str):
            raise InvalidRequestError("image_url: send the address of the picture as a string")
        return Upload(await fetcher.fetch(content["image_url"], request.state.hold), None)
    if media_type(request) == _JSON:
        raise HTTPException(
            UNSUPPORTED_MEDIA_TYPE.status,
            "this server fetches no addresses; send the picture as multipart/form-data, field `file`",
        )
    require(request, MULTIPART, "send the picture as multipart/form-data, field `file`")
    return (await read_files(request, "file", at_most=_MAX_FILES))[-1]
