"""What the API answers, as typed and documented models."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Literal, Self
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field, JsonValue

if TYPE_CHECKING:
    from onesheet.predictor import Predictor

_MODEL: dict[str, JsonValue] = {"name": "starter", "version": "1.0.0"}

Probability = Annotated[float, Field(ge=0, le=1, description="Calibrated probability.")]


class GenreProbability(BaseModel):
    """A genre and how probable it is."""

    label: str = Field(examples=["Drama"])
    probability: Probability


class ModelId(BaseModel):
    """The model that answers."""

    name: str = Field(examples=["starter"])
    version: str = Field(examples=["1.0.0"])

    @classmethod
    def of(cls, predictor: Predictor) -> Self:
        """The model behind a predictor."""
        return cls(name=predictor.metadata.name, version=predictor.metadata.version)


class PredictAnswer(BaseModel):
    """The genres of one poster."""

    model_config = ConfigDict(
        json_schema_extra={
            "example": {
                "prediction_id": "0f8b2c9e-6a53-4f0e-9f0b-0a4f6f1c7d21",
                "predicted": [{"label": "Drama", "probability": 0.713402}],
                "topk": [
                    {"label": "Drama", "probability": 0.713402},
                    {"label": "Romance", "probability": 0.304117},
                ],
                "threshold": None,
                "model": _MODEL,
            }
        }
    )

    prediction_id: UUID | None = Field(
        description="Names this answer, in the log too; null only where the log is down and the server answers anyway."
    )
    predicted: list[GenreProbability] = Field(
        description="The genres that reach their threshold, most probable first; may be empty."
    )
    topk: list[GenreProbability] = Field(description="The most probable genres, whatever the thresholds.")
    threshold: float | None = Field(
        description="The threshold that was asked for; null: the model's own, one for each genre."
    )
    model: ModelId


class GenreExplanation(GenreProbability):
    """Which parts of a poster speak for a genre."""

    effects: list[list[float]] = Field(
        description="Rows from top to bottom, in each the parts from left to right: by how much the log-odds of the "
        "genre fall when this part of the poster is covered. Negative: the part speaks against the genre.",
        examples=[[[0.02, 0.31], [-0.11, 0.84]]],
    )


class ExplainAnswer(BaseModel):
    """Why: the genres that were asked for, most probable first."""

    explanations: list[GenreExplanation]
    model: ModelId


class SimilarPoster(BaseModel):
    """A poster that the model knows."""

    id: str = Field(description="Of the film, as the data name it.", examples=["tt0111161"])
    title: str | None = Field(description="Null where the bundle does not know it.")
    genres: list[str] = Field(description="The true ones.")
    distance: float = Field(ge=0, le=2, description="1 - cosine similarity; 0: the model sees no difference.")


class SimilarAnswer(BaseModel):
    """The known posters that are most like this one, nearest first."""

    similar: list[SimilarPoster]
    model: ModelId


class DriftSummary(BaseModel):
    """A comparison of what was asked with what the model was judged on."""

    id: UUID
    time: datetime = Field(description="When it was made.")
    verdict: Literal["ok", "warning", "drift", "not enough data"]
    n: int = Field(description="How many answers were in its window.", ge=0)
    pictures: int = Field(description="How many distinct pictures were compared.", ge=0)
    summary: str = Field(examples=["In 200 pictures there moved: sharpness, embedding."])
    model: ModelId = Field(description="Whose answers, and whose reference.")
    has_report: bool = Field(description="Whether `/drift/{run_id}/report` has it.")


class DriftHistory(BaseModel):
    """The last comparisons, newest first."""

    runs: list[DriftSummary]
    latest: dict[str, JsonValue] | None = Field(
        description="All that the newest one found, as `onesheet drift --json` prints it; null: none was made."
    )


class ItemError(BaseModel):
    """Why one picture of many got no answer."""

    code: str = Field(description="As the last part of a problem's `type`.", examples=["not_an_image"])
    message: str


class BatchItem(BaseModel):
    """One picture of many: an answer, or an error."""

    file: str | None = Field(description="As the client named the file.")
    answer: PredictAnswer | None = None
    error: ItemError | None = None


class BatchAnswer(BaseModel):
    """The genres of many posters, in the order in which they were sent."""

    results: list[BatchItem]


class FeedbackBody(BaseModel):
    """What an answer should have been."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "example": {"prediction_id": "0f8b2c9e-6a53-4f0e-9f0b-0a4f6f1c7d21", "genres": ["Drama", "Romance"]}
        },
    )

    prediction_id: UUID
    genres: list[str] = Field(description="The true genres, as `/model` names them; may be empty.", max_length=100)


class FeedbackAnswer(BaseModel):
    """The feedback is kept."""

    prediction_id: UUID
    status: Literal["kept"] = "kept"


class SwapBody(BaseModel):
    """Which bundle shall answer."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"example": {"bundle": "models/starter"}})

    bundle: str = Field(description="A folder, a .tar.gz, `starter` or a gs:// address, as the server sees it.")


class Liveness(BaseModel):
    """The process answers."""

    status: Literal["alive"] = "alive"


class Readiness(BaseModel):
    """The model answers."""

    status: Literal["ready"] = "ready"


class Health(BaseModel):
    """How the service is; for people. Probes use `/livez` and `/readyz`."""

    model_config = ConfigDict(
        json_schema_extra={"example": {"status": "ok", "model": _MODEL, "uptime_seconds": 4211.7}}
    )

    status: Literal["ok", "loading", "failed"]
    model: ModelId | None = Field(description="Null until the model is loaded.")
    uptime_seconds: float = Field(ge=0)


class Problem(BaseModel):
    """What went wrong (RFC 9457)."""

    type: str = Field(description="Stable URI reference of the kind of problem; made for programs.")
    title: str = Field(description="The kind of problem, in words.")
    status: int = Field(description="The HTTP status, again.")
    detail: str = Field(description="What happened this time.")
    instance: str = Field(description="The path that was asked for.")
