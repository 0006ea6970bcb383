"""What operators ask: metrics, and another model."""

from __future__ import annotations

import hmac
from typing import Annotated

from fastapi import APIRouter, Depends, Request, Response
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from starlette.exceptions import HTTPException

from onesheet.errors import BundleError, InvalidRequestError
from onesheet.monitoring.metrics import CONTENT_TYPE
from onesheet.serving.problems import (
    ADMIN_CLOSED,
    BUNDLE_REFUSED,
    MALFORMED_BODY,
    ROUTE_NOT_FOUND,
    UNAUTHORIZED,
    problem_response,
    problem_responses,
)
from onesheet.serving.schemas import ModelId, SwapBody
from onesheet.serving.uploads import operation_id


async def _require_admin_port(request: Request) -> None:
    """Where operators have a port of their own, the others show nothing of these routes."""
    port = request.app.state.settings.admin_port
    if port is not None and (request.scope["server"] or (None, None))[1] != port:
        raise HTTPException(ROUTE_NOT_FOUND.status, ROUTE_NOT_FOUND.title)


router = APIRouter(dependencies=[Depends(_require_admin_port)], generate_unique_id_function=operation_id)

_BEARER = HTTPBearer(auto_error=False, description="The admin token.")


def _require_token(
    request: Request, credentials: Annotated[HTTPAuthorizationCredentials | None, Depends(_BEARER)]
) -> None:
    token = request.app.state.settings.admin_token
    if token is None:
        raise HTTPException(ADMIN_CLOSED.status, "this server has no admin token, so nobody may")
    given = credentials.credentials if credentials else ""
    if not hmac.compare_digest(given.encode(), token.get_secret_value().encode()):
        raise HTTPException(UNAUTHORIZED.status, "send the admin token: `Authorization: Bearer TOKEN`")


@router.get("/metrics", tags=["admin"], summary="Prometheus metrics", response_class=Response)
async def metrics(request: Request) -> Response:
    """Of all worker processes together."""
    return Response(await request.app.state.rendered_metrics.get(), media_type=CONTENT_TYPE)


@router.post(
    "/admin/model",
    response_model=ModelId,
    tags=["admin"],
    summary="Let another bundle answer",
    dependencies=[Depends(_require_token)],
    responses=problem_responses(MALFORMED_BODY, UNAUTHORIZED, ADMIN_CLOSED, BUNDLE_REFUSED, InvalidRequestError),
)
async def swap_model(request: Request, body: SwapBody) -> ModelId | Response:
    """Loads, verifies and warms the bundle beside the one that answers, then switches; no request is dropped.

    A bundle that cannot be used leaves the old one answering.
    """
    try:
        predictor = await request.app.state.service.replace(body.bundle)
    except BundleError as error:
        return problem_response(BUNDLE_REFUSED, error.message, request.scope)
    return ModelId.of(predictor)
