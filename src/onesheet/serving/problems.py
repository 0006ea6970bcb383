"""Every error as an RFC 9457 problem: one shape, stable types, nothing of the server's inside shown."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Final, TypeAlias
from urllib.parse import quote

from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse

from onesheet.errors import InvalidRequestError, OnesheetError, OverloadedError, ShareExceededError
from onesheet.serving.schemas import Problem

if TYPE_CHECKING:
    from fastapi import FastAPI, Request
    from starlette.types import Scope

MEDIA_TYPE: Final = "application/problem+json"
RETRY_AFTER_SECONDS: Final = 5
_MOST_OF_A_NAME: Final = 100


@dataclass(frozen=True, slots=True)
class HttpProblem:
    """A kind of problem that only HTTP knows; described by the same three words as an `OnesheetError`."""

    code: str
    status: int
    title: str


Kind: TypeAlias = HttpProblem | type[OnesheetError]

MALFORMED_BODY: Final = HttpProblem("malformed_body", 400, "Malformed request body")
MALFORMED_REQUEST: Final = HttpProblem("malformed_request", 400, "Malformed request")
ROUTE_NOT_FOUND: Final = HttpProblem("route_not_found", 404, "No such route")
METHOD_NOT_ALLOWED: Final = HttpProblem("method_not_allowed", 405, "Method not allowed")
REQUEST_TIMEOUT: Final = HttpProblem("request_timeout", 408, "Request took too long")
BODY_TOO_LARGE: Final = HttpProblem("body_too_large", 413, "Request body too large")
UNSUPPORTED_MEDIA_TYPE: Final = HttpProblem("unsupported_media_type", 415, "Unsupported media type")
UNAUTHORIZED: Final = HttpProblem("unauthorized", 401, "API key needed")
BUNDLE_REFUSED: Final = HttpProblem("bundle_refused", 422, "Bundle refused, the old one goes on")
ADMIN_CLOSED: Final = HttpProblem("admin_closed", 403, "Not open")
RATE_LIMITED: Final = HttpProblem("rate_limited", 429, "Too many requests")
HEAD_TOO_LARGE: Final = HttpProblem("head_too_large", 431, "Request line and headers too large")
INTERNAL_ERROR: Final = HttpProblem("internal_error", 500, "Internal error")

_BY_STATUS: Final[Mapping[int, Kind]] = {
    kind.status: kind
    for kind in (
        MALFORMED_BODY,
        UNAUTHORIZED,
        ADMIN_CLOSED,
        ROUTE_NOT_FOUND,
        METHOD_NOT_ALLOWED,
        REQUEST_TIMEOUT,
        BODY_TOO_LARGE,
        UNSUPPORTED_MEDIA_TYPE,
        ShareExceededError,
        OverloadedError,
    )
}


def problem_response(kind: Kind, detail: str, scope: Scope, headers: Mapping[str, str] | None = None) -> JSONResponse:
    """One problem as a response.

    Args:
        kind: Gives `type`, `title` and `status`.
        detail: What happened, safe to show to anybody.
        scope: The request's ASGI scope.
        headers: Further headers.
    """
    # For the request's line in the log, and its count.
    scope.setdefault("state", {})["problem"] = kind.code
    retry = {"Retry-After": str(RETRY_AFTER_SECONDS)} if kind.status == HTTPStatus.SERVICE_UNAVAILABLE else {}
    return JSONResponse(
        problem_content(kind, detail, instance=quote(scope["path"])),
        kind.status,
        {**retry, **(headers or {})},
        MEDIA_TYPE,
    )


def problem_of(error: OnesheetError, scope: Scope) -> JSONResponse:
    """An error of ours as a response."""
    return problem_response(type(error), error.message, scope, retry_headers(error))


def retry_headers(error: OnesheetError) -> dict[str, str]:
    """When to come again, where the error says so."""
    return {"Retry-After": str(error.retry_after)} if isinstance(error, OverloadedError) else {}


def install_problem_handlers(app: FastAPI) -> None:
    """Make `app` answer its errors as problems (an unexpected one is `RequestContext`'s business)."""

    @app.exception_handler(OnesheetError)
    async def onesheet_error(request: Request, error: OnesheetError) -> JSONResponse:
        return problem_of(error, request.scope)

    @app.exception_handler(RequestValidationError)
    async def invalid_request(request: Request, error: RequestValidationError) -> JSONResponse:
        detail = "; ".join(_explain(item) for item in error.errors())
        return problem_response(InvalidRequestError, detail, request.scope)

    @app.exception_handler(HTTPException)
    async def http_error(request: Request, error: HTTPException) -> JSONResponse:
        return http_problem(error, request.scope)


def http_problem(error: HTTPException, scope: Scope) -> JSONResponse:
    """An error of HTTP as a response."""
    status = error.status_code
    kind = _BY_STATUS.get(status) or HttpProblem(f"http_{status}", status, HTTPStatus(status).phrase)
    return problem_response(kind, error.detail, scope, error.headers)


def problem_responses(*kinds: Kind) -> dict[int | str, dict[str, Any]]:
    """The `responses` of a route for OpenAPI: by status, with an example for each kind."""
    by_status: defaultdict[int, list[Kind]] = defaultdict(list)
    for kind in kinds:
        by_status[kind.status].append(kind)
    return {status: _documented(same_status) for status, same_status in by_status.items()}


def _documented(kinds: list[Kind]) -> dict[str, Any]:
    examples = {kind.code: {"value": problem_content(kind, kind.title, instance="/predict")} for kind in kinds}
    schema = {"$ref": f"#/components/schemas/{Problem.__name__}"}
    return {
        "description": "; ".join(kind.title for kind in kinds),
        "content": {MEDIA_TYPE: {"schema": schema, "examples": examples}},
    }


def problem_content(kind: Kind, detail: str, instance: str) -> dict[str, Any]:
    """One problem as JSON."""
    problem = Problem(
        type=f"/problems/{kind.code}", title=kind.title, status=kind.status, detail=detail, instance=instance
    )
    return problem.model_dump()


def _explain(error: Mapping[str, Any]) -> str:
    """One validation error in words; never what was sent, which may be long, or no valid JSON (NaN)."""
    place, *path = error["loc"]
    name = next((part for part in reversed(path) if isinstance(part, str)), place)
    return f"{name[:_MOST_OF_A_NAME]}: {error['msg']}"
