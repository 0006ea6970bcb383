"""The routes: each reads, asks the service, and answers."""

from __future__ import annotations

import asyncio
import time
from typing import Annotated, Any, Final
from weakref import WeakKeyDictionary

from fastapi import APIRouter, Query, Request
from starlette.responses import JSONResponse, Response

from onesheet.errors import (
    ImageError,
    InvalidRequestError,
    LogUnavailableError,
    ModelError,
    OverloadedError,
    UnknownPredictionError,
)
from onesheet.predictor import Predictor
from onesheet.serving.body import Upload, read_files, require
from onesheet.serving.problems import MALFORMED_BODY, problem_responses
from onesheet.serving.rendered import Constant
from onesheet.serving.schemas import (
    BatchAnswer,
    BatchItem,
    FeedbackAnswer,
    FeedbackBody,
    Health,
    ItemError,
    Liveness,
    ModelId,
    PredictAnswer,
    Readiness,
)
from onesheet.serving.service import Answered
from onesheet.serving.uploads import (
    BAD_BODY,
    BAD_PICTURE,
    FILE,
    MULTIPART,
    NO_MODEL,
    POSTER_BODY,
    Service,
    operation_id,
    read_poster,
)

router = APIRouter(generate_unique_id_function=operation_id)

_BATCH_BODY: Final = {
    "requestBody": {
        "required": True,
        "content": {
            MULTIPART: {
                "schema": {
                    "type": "object",
                    "required": ["files"],
                    "properties": {"files": {"type": "array", "minItems": 1, "items": FILE}},
                }
            }
        },
    }
}

# The JSON of each model in use, rendered once.
_CARDS: Final = WeakKeyDictionary[Predictor, Constant]()

Threshold = Annotated[
    float | None,
    Query(
        ge=0,
        le=1,
        allow_inf_nan=False,
        description="Probability that a genre has to reach; default: the model's own, for each genre.",
    ),
]
TopK = Annotated[
    int | None,
    Query(ge=1, description="How many of the most probable genres to list, at most all; default: 5."),
]


@router.post(
    "/predict",
    response_model=PredictAnswer,
    tags=["predict"],
    summary="The genres of a poster",
    openapi_extra=POSTER_BODY,
    responses=problem_responses(
        *BAD_PICTURE,
        *BAD_BODY,
        ModelError,
        OverloadedError,
        LogUnavailableError,
        *NO_MODEL,
    ),
)
async def predict(request: Request, service: Service, threshold: Threshold = None, topk: TopK = None) -> JSONResponse:
    """Upload a poster as the multipart field `file`; its genres come back with calibrated probabilities."""
    state = request.app.state
    arrived = time.perf_counter()
    try:
        # Before anything is read: who would be refused afterwards need not send his picture.
        service.engine.predictor.check_options(threshold, topk)
        upload = await read_poster(request)
        state.metrics.stages["read"].observe(time.perf_counter() - arrived)
        answered = await service.answer(upload, threshold, topk, arrived=arrived, request_id=request.state.id)
    except Exception:
        state.metrics.prediction_error.inc()
        raise
    state.metrics.prediction_latency.observe(time.perf_counter() - arrived)
    # As it is: to build and check the model of an answer that was just made would cost more than all the rest here.
    return JSONResponse(answer_content(answered, threshold))


@router.post(
    "/predict/batch",
    tags=["predict"],
    summary="The genres of many posters",
    openapi_extra=_BATCH_BODY,
    responses=problem_responses(*BAD_BODY, OverloadedError, *NO_MODEL),
)
async def predict_batch(
    request: Request, service: Service, threshold: Threshold = None, topk: TopK = None
) -> BatchAnswer:
    """Upload posters as the multipart field `files`; each gets an answer or an error of its own, in their order."""
    state = request.app.state
    arrived = time.perf_counter()
    service.engine.predictor.check_options(threshold, topk)
    require(request, MULTIPART, "send the pictures as multipart/form-data, field `files`")

    async def item(upload: Upload) -> BatchItem:
        try:
            answered = await service.answer(upload, threshold, topk, arrived=arrived, request_id=request.state.id)
        except (ImageError, ModelError, OverloadedError, LogUnavailableError) as error:
            state.metrics.prediction_error.inc()
            return BatchItem(file=upload.file_name, error=ItemError(**error.to_dict()))
        return BatchItem(file=upload.file_name, answer=PredictAnswer(**answer_content(answered, threshold)))

    uploads = await read_files(request, "files", at_most=state.settings.max_batch_files)
    items = await asyncio.gather(*(item(upload) for upload in uploads))
    return BatchAnswer(results=items)


@router.post(
    "/feedback",
    tags=["predict"],
    summary="The true genres of a poster that was answered",
    status_code=201,
    responses=problem_responses(
        MALFORMED_BODY, UnknownPredictionError, InvalidRequestError, LogUnavailableError, *NO_MODEL
    ),
)
async def feedback(service: Service, body: FeedbackBody) -> FeedbackAnswer:
    """Say what an answer should have been; it is kept beside the answer and read when the model is judged."""
    await service.keep_feedback(body.prediction_id, body.genres)
    return FeedbackAnswer(prediction_id=body.prediction_id)


@router.get(
    "/model",
    response_model=dict[str, Any],
    tags=["model"],
    summary="The model card",
    responses=problem_responses(*NO_MODEL),
)
async def model_card(request: Request, service: Service) -> Response:
    """All of the bundle's `bundle.json` but its hashes: data, genres, preprocessing, thresholds, quality."""
    predictor = service.predictor
    if predictor not in _CARDS:
        _CARDS[predictor] = Constant(bytes(JSONResponse(predictor.metadata.summary()).body), "application/json")
    return _CARDS[predictor].response(request)


@router.get(
    "/model/card",
    tags=["model"],
    summary="The model card in words",
    response_class=Response,
    responses={200: {"content": {"text/markdown": {"schema": {"type": "string"}}}}, **problem_responses(*NO_MODEL)},
)
async def model_card_text(request: Request, service: Service) -> Response:
    """What it was trained on, how good it is for each genre, what it is not for; Markdown."""
    return Constant(service.predictor.card.encode(), "text/markdown; charset=utf-8").response(request)


@router.get("/health", tags=["health"], summary="How the service is")
async def health(request: Request, service: Service) -> Health:
    """Always answers 200; `status` says whether the model is there."""
    if service.status != "ok":
        request.app.state.metrics.health_error.inc()
    model = ModelId.of(service.predictor) if service.status == "ok" else None
    return Health(status=service.status, model=model, uptime_seconds=round(service.uptime, 3))


@router.get("/livez", tags=["health"], summary="Liveness probe")
async def livez() -> Liveness:
    """Answers as long as the process does."""
    return Liveness()


@router.get("/readyz", tags=["health"], summary="Readiness probe", responses=problem_responses(*NO_MODEL))
async def readyz(service: Service) -> Readiness:
    """Answers 200 while requests are welcome: not before the model is loaded, nor when the service is stopping."""
    service.check_ready()
    return Readiness()


def answer_content(answered: Answered, threshold: float | None) -> dict[str, Any]:
    """An answer as `PredictAnswer` describes it."""
    prediction_id = str(answered.prediction_id) if answered.prediction_id else None
    content = {"prediction_id": prediction_id, **answered.prediction.to_dict(), "threshold": threshold}
    return {name: content[name] for name in PredictAnswer.model_fields}
