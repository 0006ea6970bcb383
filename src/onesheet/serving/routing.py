"""What every route has: HEAD beside GET, a complete Allow header, and a redirect from a wrong trailing slash."""

from __future__ import annotations

from copy import copy
from http import HTTPStatus
from typing import TYPE_CHECKING

from fastapi.routing import APIRoute
from starlette.responses import RedirectResponse, Response
from starlette.routing import Match, Route

from onesheet.serving.problems import http_problem

if TYPE_CHECKING:
    from fastapi import FastAPI, Request
    from starlette.exceptions import HTTPException
    from starlette.types import Scope


def complete_routes(app: FastAPI) -> None:
    """Complete the routes that `app` has by now; OpenAPI does not list what is added."""
    for route in list(app.routes):
        if isinstance(route, APIRoute) and "GET" in (route.methods or ()):
            head = copy(route)
            head.methods, head.include_in_schema = {"HEAD"}, False
            app.router.routes.append(head)

    @app.exception_handler(HTTPStatus.METHOD_NOT_ALLOWED)
    async def method_not_allowed(request: Request, error: HTTPException) -> Response:
        error.headers = {**(error.headers or {}), "Allow": ", ".join(sorted(_methods(app, request.scope)))}
        return http_problem(error, request.scope)

    @app.exception_handler(HTTPStatus.NOT_FOUND)
    async def not_found(request: Request, error: HTTPException) -> Response:
        path = request.scope["path"]
        other = path.rstrip("/") if path.endswith("/") else f"{path}/"
        if not _methods(app, request.scope) and _methods(app, {**request.scope, "path": other}):
            # Without scheme and host, which a proxy may have changed.
            location = request.url.replace(scheme="", netloc="", path=other, fragment="")
            return RedirectResponse(str(location), HTTPStatus.TEMPORARY_REDIRECT)
        return http_problem(error, request.scope)

    app.router.redirect_slashes = False


def _methods(app: FastAPI, scope: Scope) -> set[str]:
    """Those that a path answers to; none where there is no such path."""
    matching = [route for route in app.routes if isinstance(route, Route) and route.matches(scope)[0] != Match.NONE]
    return {method for route in matching for method in route.methods or ()}
