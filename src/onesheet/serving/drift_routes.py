"""The routes that tell what comparisons with the reference found; they are made elsewhere, see `onesheet drift`."""

from __future__ import annotations

from typing import Annotated, Final
from uuid import UUID

from fastapi import APIRouter, Query, Request, Response

from onesheet.errors import InvalidRequestError, LogUnavailableError, OverloadedError, UnknownDriftRunError
from onesheet.predictionlog import DriftRun
from onesheet.serving.insight_routes import insights_of
from onesheet.serving.problems import problem_responses
from onesheet.serving.schemas import DriftHistory, DriftSummary, ModelId
from onesheet.serving.shares import client_of
from onesheet.serving.uploads import operation_id

router = APIRouter(generate_unique_id_function=operation_id)

Limit = Annotated[int, Query(ge=1, le=100, description="How many runs to list.")]

# A report brings its own scripts, and nothing else: it may not ask anybody, nor act in this address's name.
_REPORT_HEADERS: Final = {
    "Content-Security-Policy": "sandbox allow-scripts allow-downloads; default-src 'none'; img-src data:; "
    "font-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline' 'unsafe-eval'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}


@router.get(
    "/drift",
    tags=["insights"],
    summary="Whether what is asked still looks like what the model was judged on",
    responses=problem_responses(InvalidRequestError, LogUnavailableError, OverloadedError),
)
async def drift(request: Request, limit: Limit = 30) -> DriftHistory:
    """The last comparisons, newest first, and all that the newest one found."""
    runs = await insights_of(request).drift_runs(limit, client_of(request.scope))
    return DriftHistory(runs=[_summary(run) for run in runs], latest=runs[0].result if runs else None)


@router.get(
    "/drift/{run_id}/report",
    tags=["insights"],
    summary="The report of a comparison",
    response_class=Response,
    responses={
        200: {"content": {"text/html": {"schema": {"type": "string"}}}, "description": "One page with histograms."},
        **problem_responses(InvalidRequestError, UnknownDriftRunError, LogUnavailableError, OverloadedError),
    },
)
async def drift_report(request: Request, run_id: UUID) -> Response:
    """One page that needs nothing else; kept of the latest runs only."""
    return report_response(await insights_of(request).drift_report(run_id, client_of(request.scope)))


def report_response(report: bytes | None) -> Response:
    """A report as a page that can do nothing but show itself.

    Raises:
        UnknownDriftRunError: There is none.
    """
    if report is None:
        raise UnknownDriftRunError("there is no such comparison, or its report is not kept")
    return Response(report, media_type="text/html; charset=utf-8", headers=_REPORT_HEADERS)


def _summary(run: DriftRun) -> DriftSummary:
    return DriftSummary(
        id=run.id,
        time=run.time,
        verdict=run.verdict,
        n=run.result["n"],
        pictures=run.result["pictures"],
        summary=run.result["summary"],
        model=ModelId(name=run.model_name, version=run.model_version),
        has_report=run.has_report,
    )
