"""The routes: each parses, asks the model, and answers."""

from typing import Annotated, Any
from uuid import uuid4

from fastapi import APIRouter, Depends, File, Query, Request, UploadFile
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
)
from onesheet.serving.model import ModelService
from onesheet.serving.problems import (
    BODY_TOO_LARGE,
    MALFORMED_BODY,
    UNSUPPORTED_MEDIA_TYPE,
    problem_responses,
)
from onesheet.serving.schemas import Health, Liveness, ModelId, PredictAnswer, Readiness

router = APIRouter()

_NO_MODEL = (NotReadyError, BundleNotFoundError, BundleCorruptError, BundleSchemaError)


async def _get_model(request: Request) -> ModelService:
    model: ModelService = request.app.state.model
    return model


async def _require_multipart(request: Request) -> None:
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media_type != "multipart/form-data":
        raise HTTPException(UNSUPPORTED_MEDIA_TYPE.status, "send the picture as multipart/form-data, field `file`")


Model = Annotated[ModelService, Depends(_get_model)]


@router.post(
    "/predict",
    tags=["predict"],
    summary="The genres of a poster",
    dependencies=[Depends(_require_multipart)],
    responses=problem_responses(
        EmptyImageError,
        NotAnImageError,
        CorruptImageError,
        MALFORMED_BODY,
        ImageTooLargeError,
        BODY_TOO_LARGE,
        UnsupportedImageError,
        UNSUPPORTED_MEDIA_TYPE,
        InvalidRequestError,
        ImageShapeError,
        *_NO_MODEL,
    ),
)
async def predict(
    model: Model,
    file: Annotated[UploadFile, File(description="The poster: JPEG, PNG, WebP or GIF, told by content.")],
    threshold: Annotated[
        float | None,
        Query(
            ge=0,
            le=1,
            allow_inf_nan=False,
            description="Probability that a genre has to reach; default: the model's own, for each genre.",
        ),
    ] = None,
    topk: Annotated[
        int | None,
        Query(ge=1, description="How many of the most probable genres to list, at most all; default: 5."),
    ] = None,
) -> PredictAnswer:
    """Upload a poster as the multipart field `file`; its genres come back with calibrated probabilities."""
    prediction = await model.predict(await file.read(), threshold, topk)
    return PredictAnswer(prediction_id=uuid4(), threshold=threshold, **prediction.to_dict())


@router.get("/model", tags=["model"], summary="The model card", responses=problem_responses(*_NO_MODEL))
async def model_card(model: Model) -> dict[str, Any]:
    """All of the bundle's `bundle.json` but its hashes: data, genres, preprocessing, thresholds, quality."""
    return model.get().metadata.summary()


@router.get("/health", tags=["health"], summary="How the service is")
async def health(model: Model) -> Health:
    """Always answers 200; `status` says whether the model is there."""
    return Health(status=model.status, model=_model_id(model), uptime_seconds=round(model.uptime, 3))


@router.get("/livez", tags=["health"], summary="Liveness probe")
async def livez() -> Liveness:
    """Answers as long as the process does."""
    return Liveness()


@router.get("/readyz", tags=["health"], summary="Readiness probe", responses=problem_responses(*_NO_MODEL))
async def readyz(model: Model) -> Readiness:
    """Answers 200 once the model is loaded, 503 before, and 503 with the reason when it cannot be."""
    model.get()
    return Readiness()


def _model_id(model: ModelService) -> ModelId | None:
    if model.status != "ok":
        return None
    metadata = model.get().metadata
    return ModelId(name=metadata.name, version=metadata.version)
