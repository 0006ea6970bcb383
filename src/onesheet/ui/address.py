"""Where the API is: at an address, or behind the name of a Cloud Run service."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

from onesheet.errors import ApiError, InvalidRequestError, MissingExtraError

if TYPE_CHECKING:
    from google.cloud.run_v2 import ServicesClient

_CLOUD_RUN: Final = "cloudrun"
_EXPECTED: Final = "the address of the API is http://…, https://… or cloudrun://PROJECT/REGION/SERVICE"


def find_api(url: str, client: ServicesClient | None = None) -> str:
    """The http(s) address that a setting names.

    Args:
        url: `http://…`, `https://…`, or `cloudrun://PROJECT/REGION/SERVICE`, looked up in the list of services.
        client: Of Cloud Run; default: with the credentials of this machine.

    Raises:
        InvalidRequestError: It is neither.
        ApiError: There is no such service, or the list cannot be read.
        MissingExtraError: Google's client is not installed.
    """
    try:
        parts = urlsplit(url)
        has_host = parts.hostname is not None and parts.port != 0
    except ValueError as error:  # of brackets or a port that cannot be
        raise InvalidRequestError(_EXPECTED) from error
    if parts.scheme in {"http", "https"} and has_host:
        return url.rstrip("/")
    path = parts.path.strip("/").split("/")
    if parts.scheme == _CLOUD_RUN and parts.netloc and len(path) == 2:
        return _look_up(client or _client(), parts.netloc, *path)
    raise InvalidRequestError(_EXPECTED)


def _client() -> ServicesClient:
    try:
        from google.auth.exceptions import GoogleAuthError
        from google.cloud.run_v2 import ServicesClient
    except ImportError as error:
        raise MissingExtraError("Cloud Run needs Google's client: install onesheet[cloudrun]") from error
    try:
        return ServicesClient()
    except GoogleAuthError as error:
        raise ApiError("there are no Google credentials here; run `gcloud auth application-default login`") from error


def _look_up(client: ServicesClient, project: str, region: str, service: str) -> str:
    from google.api_core.exceptions import GoogleAPIError

    try:
        services: list[Any] = list(client.list_services(parent=f"projects/{project}/locations/{region}"))
    except GoogleAPIError as error:
        raise ApiError(f"the services of project {project} in {region} cannot be listed: {error}") from error
    found = next((one.uri for one in services if one.name.rpartition("/")[2] == service), None)
    if not found:
        raise ApiError(f"there is no Cloud Run service {service} in project {project}, region {region}")
    return str(found)
