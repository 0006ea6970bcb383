"""The routes of `Insights`: why, what is similar, and what has been asked."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Query, Request

from onesheet.errors import InvalidRequestError, LogUnavailableError, MissingExtraError, ModelError, OverloadedError
from onesheet.serving.insights import Insights, chosen_genres
from onesheet.serving.problems import problem_responses
from onesheet.serving.schemas import ExplainAnswer, GenreExplanation, ModelId, SimilarAnswer, SimilarPoster
from onesheet.serving.shares import client_of
from onesheet.serving.uploads import BAD_BODY, BAD_PICTURE, NO_MODEL, POSTER_BODY, Service, operation_id, read_poster

router = APIRouter(generate_unique_id_function=operation_id)

Hours = Annotated[float, Query(gt=0, le=24 * 366, allow_inf_nan=False, description="How far back to look.")]
Buckets = Annotated[int, Query(ge=1, le=500, description="Into how many equal spans of time to part them.")]


@router.post(
    "/explain",
    tags=["insights"],
    summary="Which parts of a poster speak for a genre",
    openapi_extra=POSTER_BODY,
    responses=problem_responses(*BAD_PICTURE, *BAD_BODY, ModelError, OverloadedError, *NO_MODEL),
)
async def explain(
    request: Request,
    service: Service,
    genre: Annotated[list[str] | None, Query(description="Only these, as `/model` names them; default: all.")] = None,
) -> ExplainAnswer:
    """Covers one part after the other and asks the model again, so it takes as long as a hundred answers."""
    predictor = service.predictor
    places = chosen_genres(predictor, genre or [])
    upload = await read_poster(request)
    found = await insights_of(request).explain(predictor, upload.data, client_of(request.scope))
    explanations = [
        GenreExplanation(
            label=predictor.genres[place],
            probability=round(float(found.probabilities[place]), 6),
            effects=found.effects[place].round(4).tolist(),
        )
        for place in sorted(places, key=lambda place: -found.probabilities[place])
    ]
    return ExplainAnswer(explanations=explanations, model=ModelId.of(predictor))


@router.post(
    "/similar",
    tags=["insights"],
    summary="The known posters that are most like this one",
    openapi_extra=POSTER_BODY,
    responses=problem_responses(*BAD_PICTURE, *BAD_BODY, ModelError, OverloadedError, MissingExtraError, *NO_MODEL),
)
async def similar(
    request: Request, service: Service, k: Annotated[int, Query(ge=1, le=100, description="How many.")] = 6
) -> SimilarAnswer:
    """Among those that the model was chosen with; their pictures are not kept, only what the model made of them."""
    predictor = service.predictor
    upload = await read_poster(request)
    found = await insights_of(request).similar(predictor, upload.data, k, client_of(request.scope))
    posters = [SimilarPoster(**neighbour.to_dict()) for neighbour in found]
    return SimilarAnswer(similar=posters, model=ModelId.of(predictor))


@router.get(
    "/activity",
    tags=["insights"],
    summary="What has been asked and answered",
    responses=problem_responses(InvalidRequestError, LogUnavailableError, OverloadedError),
)
async def activity(request: Request, hours: Hours = 24, buckets: Buckets = 48) -> dict[str, Any]:
    """Of the prediction log: answers, latency, confidence and genres over time, and what people said of them."""
    found = await insights_of(request).activity(hours, buckets, client_of(request.scope))
    return found.to_dict()


def insights_of(request: Request) -> Insights:
    """Of the application that was asked."""
    insights: Insights = request.app.state.insights
    return insights
