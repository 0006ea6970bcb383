"""A window of production against the reference of a bundle, and a verdict that says what moved and how far."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias
from uuid import UUID, uuid4

from onesheet.errors import InvalidRequestError
from onesheet.monitoring.drift.sample import Sample
from onesheet.monitoring.drift.two_samples import domain_classifier, false_discovery_rates, kolmogorov_smirnov
from onesheet.predictionlog import DriftRun, DriftRuns
from onesheet.predictionlog.records import STATISTICS

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from onesheet.bundle import Bundle
    from onesheet.predictionlog import PredictionLog

Verdict: TypeAlias = Literal["ok", "warning", "drift", "not enough data"]
Kind: TypeAlias = Literal["picture", "size", "confidence", "probability", "embedding", "feedback"]

# Below, only what hardly looks like posters at all could be told from chance.
LEAST_PICTURES: Final = 50
# How often nothing but chance may be called so; half of it for the columns together, half for the embedding.
_DRIFT_RATE: Final = 0.01
_WARNING_RATE: Final = 0.05
# What is smaller does not matter, however sure it is.
_LEAST_DISTANCE: Final = 0.1
_LEAST_AREA: Final = 0.6
# The model sees every picture at one size; people speak rather of answers that are wrong. Neither is drift by itself.
_WARNS_ONLY: Final = frozenset({"size", "feedback"})
_SIZES: Final = frozenset({"width", "height"})


@dataclass(frozen=True, slots=True)
class Column:
    """One thing that is watched.

    Attributes:
        name: Of an image statistic; `confidence`; `probability:GENRE`; `embedding`; `agreement`.
        kind: What sort of thing it is.
        verdict: `ok`, `warning` or `drift`.
        distance: Kolmogorov-Smirnov distance, 0 to 1; of `embedding` the area under the ROC curve of a classifier that
            tells the window from the reference.
        p_value: How likely a distance of this size or more is by chance.
        q_value: The same among all that is tested together, see `false_discovery_rates`.
        reference: Its mean there; None for `embedding`.
        current: Its mean now.
    """

    name: str
    kind: Kind
    verdict: Verdict
    distance: float
    p_value: float
    q_value: float
    reference: float | None
    current: float | None


@dataclass(frozen=True, slots=True)
class Drift:
    """What was found.

    Attributes:
        id: Of the run.
        time: When it was made, UTC.
        since: The first moment of the window.
        until: The moment after its last.
        model: Name and version of the bundle.
        verdict: The worst of its columns'.
        n: How many answers the window holds.
        pictures: How many distinct pictures were compared.
        watched: All columns; none where there is not enough data.
        genres: Each genre's share of the pictures for which the model says it, there and now.
        feedback: `count`, `agreement`, `expected_agreement` (the reference's) and `precision` by genre.
    """

    id: UUID
    time: datetime
    since: datetime
    until: datetime
    model: dict[str, str]
    verdict: Verdict
    n: int
    pictures: int
    watched: tuple[Column, ...]
    genres: tuple[dict[str, Any], ...]
    feedback: dict[str, Any]

    @property
    def columns(self) -> tuple[Column, ...]:
        """Those that moved, the surest and then the farthest first."""
        moved = (column for column in self.watched if column.verdict != "ok")
        return tuple(sorted(moved, key=lambda column: (column.verdict != "drift", -column.distance)))

    @property
    def summary(self) -> str:
        """The verdict in a sentence."""
        if self.verdict == "not enough data":
            return f"{self.pictures} distinct pictures are not enough to judge by; it takes {LEAST_PICTURES}."
        if not self.columns:
            return f"{self.pictures} pictures look like the reference."
        names = ", ".join(column.name for column in self.columns[:5])
        more = f" and {len(self.columns) - 5} more" if len(self.columns) > 5 else ""
        return f"In {self.pictures} pictures there moved: {names}{more}."

    def to_dict(self) -> dict[str, Any]:
        """The JSON contract."""
        return {
            "verdict": self.verdict,
            "n": self.n,
            "columns": [asdict(column) for column in self.columns],
            "summary": self.summary,
            "pictures": self.pictures,
            "id": str(self.id),
            "time": self.time.isoformat(),
            "since": self.since.isoformat(),
            "until": self.until.isoformat(),
            "model": self.model,
            "genres": list(self.genres),
            "feedback": self.feedback,
            "watched": [asdict(column) for column in self.watched],
        }


def find_drift(log: PredictionLog, bundle: Bundle, since: datetime, until: datetime) -> Drift:
    """Compare a window with the bundle's reference, and keep what was found in the log's database.

    Args:
        log: Its tables must be there.
        bundle: Its reference, and whose answers to look at.
        since: The first moment of the window.
        until: The moment after its last.

    Raises:
        InvalidRequestError: The window is empty, or its answers are of another model of the same name and version.
        BundleCorruptError: The bundle's reference does not hold what it should.
        LogUnavailableError: The log cannot be read or written.
    """
    if since >= until:
        raise InvalidRequestError("the window of time must end after it starts")
    reference, current = Sample.of_reference(bundle), Sample.of_window(log, bundle, since, until)
    enough = len(current.statistics) >= LEAST_PICTURES
    if enough and reference.embeddings.shape[1] != current.embeddings.shape[1]:
        raise InvalidRequestError("the log holds answers of another model of this name and version")
    watched = _compare(reference, current) if enough else ()
    drift = Drift(
        id=uuid4(),
        time=datetime.now(UTC),
        since=since,
        until=until,
        model={"name": bundle.metadata.name, "version": bundle.metadata.version},
        verdict=_worst(watched) if enough else "not enough data",
        n=current.answers,
        pictures=len(current.statistics),
        watched=watched,
        genres=_genres(reference, current),
        feedback=_feedback(reference, current),
    )
    _keep(log, drift)
    return drift


def _compare(reference: Sample, current: Sample) -> tuple[Column, ...]:
    pictures = [
        ("size" if name in _SIZES else "picture", name, reference.statistics[:, place], current.statistics[:, place])
        for place, name in enumerate(STATISTICS)
    ]
    confidence = [("confidence", "confidence", reference.probabilities.max(axis=1), current.probabilities.max(axis=1))]
    probabilities = [
        ("probability", f"probability:{genre}", reference.probabilities[:, place], current.probabilities[:, place])
        for place, genre in enumerate(reference.genres)
    ]
    agreement = [("feedback", "agreement", reference.judged.agreement, current.judged.agreement)]
    seen: list[Any] = [*(one for one in pictures if one[0] == "picture"), *confidence, *probabilities]
    beside: list[Any] = [one for one in pictures if one[0] == "size"]
    if len(current.judged.true) >= LEAST_PICTURES:
        beside += agreement
    return (*_test(seen), _embedding(reference, current), *_test(beside))


def _test(family: list[tuple[Kind, str, NDArray[np.floating], NDArray[np.floating]]]) -> tuple[Column, ...]:
    """Test columns together."""
    found = [kolmogorov_smirnov(before, now) for _, _, before, now in family]
    rates = false_discovery_rates([p_value for _, p_value in found])
    return tuple(
        Column(
            name,
            kind,
            _judge(kind, rate, distance, _LEAST_DISTANCE),
            distance,
            p_value,
            rate,
            float(before.mean()),
            float(now.mean()),
        )
        for (kind, name, before, now), (distance, p_value), rate in zip(family, found, rates, strict=True)
    )


def _embedding(reference: Sample, current: Sample) -> Column:
    area, p_value = domain_classifier(reference.embeddings, current.embeddings)
    verdict = _judge("embedding", p_value, area, _LEAST_AREA)
    return Column("embedding", "embedding", verdict, area, p_value, p_value, None, None)


def _judge(kind: Kind, rate: float, distance: float, least: float) -> Verdict:
    if rate <= _DRIFT_RATE / 2 and distance >= least and kind not in _WARNS_ONLY:
        return "drift"
    return "warning" if rate <= _WARNING_RATE / 2 else "ok"


def _worst(watched: tuple[Column, ...]) -> Verdict:
    found = {column.verdict for column in watched}
    return "drift" if "drift" in found else "warning" if "warning" in found else "ok"


def _genres(reference: Sample, current: Sample) -> tuple[dict[str, Any], ...]:
    if not len(current.predicted):
        return ()
    before, now = reference.predicted.mean(axis=0), current.predicted.mean(axis=0)
    return tuple(
        {"genre": genre, "reference": float(before[place]), "current": float(now[place])}
        for place, genre in enumerate(reference.genres)
    )


def _feedback(reference: Sample, current: Sample) -> dict[str, Any]:
    judged = current.judged
    count = len(judged.true)
    said = judged.predicted.sum(axis=0) if count else []
    return {
        "count": count,
        "agreement": float(judged.agreement.mean()) if count else None,
        "expected_agreement": float(reference.judged.agreement.mean()),
        "precision": {
            genre: float((judged.predicted & judged.true)[:, place].sum() / said[place])
            for place, genre in enumerate(current.genres)
            if count and said[place]
        },
    }


def _keep(log: PredictionLog, drift: Drift) -> None:
    name, version = drift.model["name"], drift.model["version"]
    DriftRuns(log).add(DriftRun(drift.id, drift.time, name, version, drift.verdict, drift.to_dict(), has_report=False))
