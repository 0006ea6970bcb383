"""The routes: each reads, asks the service, and answers."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Annotated, Any, Final

from fastapi import APIRouter, Depends, Query, Request
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse

from onesheet.errors import (
    BundleCorruptError,
    BundleNotFoundError,
    BundleSchemaError,
    CorruptImageError,
    EmptyImageError,
    ImageError,
    ImageShapeError,
    ImageTooLargeError,
    InvalidRequestError,
    LogUnavailableError,
    NotAnImageError,
    NotReadyError,
    OverloadedError,
    UnknownPredictionError,
    UnsupportedImageError,
    UrlFetchError,
    UrlNotAllowedError,
)
from onesheet.serving.body import BodyReader, Upload, media_type, require
from onesheet.serving.fetch import ImageFetcher
from onesheet.serving.problems import (
    BODY_TOO_LARGE,
    MALFORMED_BODY,
    REQUEST_TIMEOUT,
    UNSUPPORTED_MEDIA_TYPE,
    problem_responses,
)
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
from onesheet.serving.service import Answered, PredictionService

if TYPE_CHECKING:
    from fastapi.routing import APIRoute


def operation_id(route: APIRoute) -> str:
    """Clients generated from the OpenAPI document name their methods after this."""
    return route.name


router = APIRouter(generate_unique_id_function=operation_id)

_MULTIPART: Final = "multipart/form-data"
_JSON: Final = "application/json"
# Of a form with several files the last one of the right name counts, as it always has.
_MAX_FILES: Final = 8
_NO_MODEL: Final = (NotReadyError, BundleNotFoundError, BundleCorruptError, BundleSchemaError)
_BAD_BODY: Final = (
    MALFORMED_BODY,
    REQUEST_TIMEOUT,
    BODY_TOO_LARGE,
    UNSUPPORTED_MEDIA_TYPE,
    InvalidRequestError,
)
_BAD_PICTURE: Final = (
    EmptyImageError,
    NotAnImageError,
    CorruptImageError,
    ImageTooLargeError,
    UnsupportedImageError,
    ImageShapeError,
)

_FILE: Final = {"type": "string", "format": "binary", "description": "JPEG, PNG, WebP or GIF, told by content."}
_PREDICT_BODY: Final = {
    "requestBody": {
        "required": True,
        "content": {
            _MULTIPART: {"schema": {"type": "object", "required": ["file"], "properties": {"file": _FILE}}},
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
_BATCH_BODY: Final = {
    "requestBody": {
        "required": True,
        "content": {
            _MULTIPART: {
                "schema": {
                    "type": "object",
                    "required": ["files"],
                    "properties": {"files": {"type": "array", "minItems": 1, "items": _FILE}},
                }
            }
        },
    }
}


async def _get_service(request: Request) -> PredictionService:
    service: PredictionService = request.app.state.service
    return service


Service = Annotated[PredictionService, Depends(_get_service)]
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
    openapi_extra=_PREDICT_BODY,
    responses=problem_responses(
        *_BAD_PICTURE,
        *_BAD_BODY,
        UrlNotAllowedError,
        UrlFetchError,
        OverloadedError,
        LogUnavailableError,
        *_NO_MODEL,
    ),
)
async def predict(request: Request, service: Service, threshold: Threshold = None, topk: TopK = None) -> JSONResponse:
    """Upload a poster as the multipart field `file`; its genres come back with calibrated probabilities."""
    state = request.app.state
    arrived = time.perf_counter()
    try:
        # Before anything is read: who would be refused afterwards need not send his picture.
        service.engine.predictor.check_options(threshold, topk)
        async with state.body.room_for(request):
            upload = await _poster(request, state.body, state.fetcher)
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
    responses=problem_responses(*_BAD_BODY, OverloadedError, *_NO_MODEL),
)
async def predict_batch(
    request: Request, service: Service, threshold: Threshold = None, topk: TopK = None
) -> BatchAnswer:
    """Upload posters as the multipart field `files`; each gets an answer or an error of its own, in their order."""
    state = request.app.state
    arrived = time.perf_counter()
    service.engine.predictor.check_options(threshold, topk)
    require(request, _MULTIPART, "send the pictures as multipart/form-data, field `files`")

    async def item(upload: Upload) -> BatchItem:
        try:
            answered = await service.answer(upload, threshold, topk, arrived=arrived, request_id=request.state.id)
        except (ImageError, OverloadedError, LogUnavailableError) as error:
            state.metrics.prediction_error.inc()
            return BatchItem(file=upload.file_name, error=ItemError(**error.to_dict()))
        return BatchItem(file=upload.file_name, answer=PredictAnswer(**answer_content(answered, threshold)))

    async with state.body.room_for(request):
        uploads = await state.body.files(request, "files", at_most=state.settings.max_batch_files)
        items = await asyncio.gather(*(item(upload) for upload in uploads))
    return BatchAnswer(results=items)


@router.post(
    "/feedback",
    tags=["predict"],
    summary="The true genres of a poster that was answered",
    status_code=201,
    responses=problem_responses(
        MALFORMED_BODY, UnknownPredictionError, InvalidRequestError, LogUnavailableError, *_NO_MODEL
    ),
)
async def feedback(service: Service, body: FeedbackBody) -> FeedbackAnswer:
    """Say what an answer should have been; it is kept beside the answer and read when the model is judged."""
    await service.keep_feedback(body.prediction_id, body.genres)
    return FeedbackAnswer(prediction_id=body.prediction_id)


@router.get("/model", tags=["model"], summary="The model card", responses=problem_responses(*_NO_MODEL))
async def model_card(service: Service) -> dict[str, Any]:
    """All of the bundle's `bundle.json` but its hashes: data, genres, preprocessing, thresholds, quality."""
    return service.predictor.metadata.summary()


@router.get("/health", tags=["health"], summary="How the service is")
async def health(request: Request, service: Service) -> Health:
    """Always answers 200; `status` says whether the model is there."""
    if service.status != "ok":
        request.app.state.metrics.health_error.inc()
    return Health(status=service.status, model=_model_id(service), uptime_seconds=round(service.uptime, 3))


@router.get("/livez", tags=["health"], summary="Liveness probe")
async def livez() -> Liveness:
    """Answers as long as the process does."""
    return Liveness()


@router.get("/readyz", tags=["health"], summary="Readiness probe", responses=problem_responses(*_NO_MODEL))
async def readyz(service: Service) -> Readiness:
    """Answers 200 while requests are welcome: not before the model is loaded, nor when the service is stopping."""
    service.check_ready()
    return Readiness()


async def _poster(request: Request, body: BodyReader, fetcher: ImageFetcher | None) -> Upload:
    if fetcher is not None and media_type(request) == _JSON:
        content = await body.json(request)
        if not isinstance(content, dict) or not isinstance(content.get("image_url"), str):
            raise InvalidRequestError("image_url: send the address of the picture as a string")
        return Upload(await fetcher.fetch(content["image_url"]), None)
    if media_type(request) == _JSON:
        raise HTTPException(
            UNSUPPORTED_MEDIA_TYPE.status,
            "this server fetches no addresses; send the picture as multipart/form-data, field `file`",
        )
    require(request, _MULTIPART, "send the picture as multipart/form-data, field `file`")
    return (await body.files(request, "file", at_most=_MAX_FILES))[-1]


def answer_content(answered: Answered, threshold: float | None) -> dict[str, Any]:
    """An answer as `PredictAnswer` describes it."""
    prediction_id = str(answered.prediction_id) if answered.prediction_id else None
    content = {"prediction_id": prediction_id, **answered.prediction.to_dict(), "threshold": threshold}
    return {name: content[name] for name in PredictAnswer.model_fields}


def _model_id(service: PredictionService) -> ModelId | None:
    if service.status != "ok":
        return None
    metadata = service.predictor.metadata
    return ModelId(name=metadata.name, version=metadata.version)
