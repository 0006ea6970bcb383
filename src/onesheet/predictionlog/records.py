"""What the log keeps of an answer, and of what people say about it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Literal, TypeAlias
from uuid import UUID

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

Role: TypeAlias = Literal["answered", "shadow"]


@dataclass(frozen=True, slots=True)
class LoggedPrediction:
    """One answer. The picture itself is not in the log.

    Attributes:
        id: The `prediction_id` that the client got.
        time: When it was answered, UTC.
        role: `answered`, or `shadow`: scored by the model that is being tried, and shown to nobody.
        model_name: Name of the bundle.
        model_version: Version of the bundle.
        genres: The bundle's genres, in the order of `probabilities`.
        probabilities: float32 `[G]`.
        embedding: float32 `[D]`; kept as float16.
        threshold: The one that was asked for; None: the bundle's own.
        predicted: The genres of the answer.
        statistics: Of the picture, see `onesheet.image_statistics.STATISTICS`.
        latency_ms: From the request's arrival until the answer was known.
        file_name: As the client named the file, if it did.
        content_sha256: Of the encoded picture, in hexadecimal.
        request_id: As in the service's log.
    """

    id: UUID
    time: datetime
    role: Role
    model_name: str
    model_version: str
    genres: tuple[str, ...]
    probabilities: NDArray[np.float32]
    embedding: NDArray[np.floating]
    threshold: float | None
    predicted: tuple[str, ...]
    statistics: Mapping[str, float]
    latency_ms: float
    file_name: str | None
    content_sha256: str
    request_id: str | None


@dataclass(frozen=True, slots=True)
class Feedback:
    """The true genres of a film, as somebody says.

    Attributes:
        prediction_id: Which answer it is about.
        time: When it was given, UTC.
        genres: The true ones; none is an answer too.
    """

    prediction_id: UUID
    time: datetime
    genres: tuple[str, ...]
