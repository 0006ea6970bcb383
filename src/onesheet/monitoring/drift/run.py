"""A window of production against the reference of a bundle, and a verdict that says what moved and how far."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias
from uuid import UUID, uuid4

from onesheet.errors import InvalidRequestError, ReportError
from onesheet.image_statistics import STATISTICS
from onesheet.monitoring.drift.report import Report, make_report
from onesheet.monitoring.drift.sample import Sample
from onesheet.monitoring.drift.two_samples import (
    Separation,
    domain_classifier,
    false_discovery_rates,
    kolmogorov_smirnov,
)
from onesheet.predictionlog import DriftRun, DriftRuns
from onesheet.predictionlog.activity import count_by_model

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from onesheet.bundle import Bundle
    from onesheet.predictionlog import PredictionLog

Numbers: TypeAlias = "dict[str, NDArray[np.floating]]"
Verdict: TypeAlias = Literal["ok", "warning", "drift", "not enough data"]
Kind: TypeAlias = Literal["picture", "size", "confidence", "probability", "embedding", "feedback", "quality"]

# Below, only what hardly looks like posters at all could be told from chance.
LEAST_PICTURES: Final = 50
# How often nothing but chance may be called so; half of it for the columns together, half for the embedding.
_DRIFT_RATE: Final = 0.01
_WARNING_RATE: Final = 0.05
# What is smaller does not matter, however sure it is.
_LEAST_DISTANCE: Final = 0.1
_LEAST_AREA: Final = 0.6
# Where other versions gave most of the answers, production is not what was compared.
_MOST_OTHERS: Final = 0.5
# The model sees every picture at one size; people speak rather of answers that are wrong. Neither is drift by itself.
_WARNS_ONLY: Final = frozenset({"size", "feedback"})
_SIZES: Final = frozenset({"width", "height"})


@dataclass(frozen=True, slots=True)
class Column:
    """One thing that is watched.

    Attributes:
        name: Of an image statistic; `confidence`; `probability:GENRE`; `embedding`; `agreement`; `unusable`;
            `other_versions`.
        kind: What sort of thing it is.
        verdict: `ok`, `warning` or `drift`.
        distance: Kolmogorov-Smirnov distance, 0 to 1; of `embedding` the area under the ROC curve of a classifier that
            tells the window from the reference; of `unusable` and `other_versions` the share of such answers.
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
        unusable: How many more were not, as the log holds something for them that is no number.
        other_models: How many answers of the window other models and versions gave to clients, by name and version;
            they are not compared.
        watched: All columns; none where there is not enough data.
        genres: Each genre's share of the pictures for which the model says it, there and now.
        feedback: `count`, `agreement`, `expected_agreement` (the reference's) and `precision` by genre.
        report: For people who would rather look; None where none was asked for, there is not enough data, or it failed.
        report_error: How it failed.
    """

    id: UUID
    time: datetime
    since: datetime
    until: datetime
    model: dict[str, str]
    verdict: Verdict
    n: int
    pictures: int
    unusable: int
    other_models: dict[str, int]
    watched: tuple[Column, ...]
    genres: tuple[dict[str, Any], ...]
    feedback: dict[str, Any]
    report: Report | None
    report_error: str | None

    @property
    def columns(self) -> tuple[Column, ...]:
        """Those that moved, the surest and then the farthest first."""
        moved = (column for column in self.watched if column.verdict != "ok")
        return tuple(sorted(moved, key=lambda column: (column.verdict != "drift", -column.distance)))

    @property
    def is_blind(self) -> bool:
        """Whether the verdict says nothing about most of the window."""
        others = any(column.name == "other_versions" and column.verdict != "ok" for column in self.watched)
        return others or self.verdict == "not enough data"

    @property
    def summary(self) -> str:
        """The verdict in a sentence or two."""
        return " ".join(filter(None, (self._found(), self._not_compared())))

    def _found(self) -> str:
        name = f"{self.model['name']} {self.model['version']}"
        if self.verdict == "not enough data" and not self.n:
            return f"There are no predictions of {name} in the window."
        if self.verdict == "not enough data":
            unusable = f" ({self.unusable} more are unusable)" if self.unusable else ""
            return f"{self.pictures} distinct pictures{unusable} are not enough to judge by; it takes {LEAST_PICTURES}."
        moved = [column.name for column in self.columns if column.name != "other_versions"]
        if not moved:
            return f"{self.pictures} pictures look like the reference."
        more = f" and {len(moved) - 5} more" if len(moved) > 5 else ""
        return f"In {self.pictures} pictures there moved: {', '.join(moved[:5])}{more}."

    def _not_compared(self) -> str:
        if not self.other_models:
            return ""
        listed = ", ".join(f"{count:,} of {name}" for name, count in self.other_models.items())
        return f"Not compared, as the reference is of {self.model['name']} {self.model['version']}: {listed}."

    def to_dict(self) -> dict[str, Any]:
        """The JSON contract."""
        return {
            "verdict": self.verdict,
            "n": self.n,
            "columns": [asdict(column) for column in self.columns],
            "summary": self.summary,
            "pictures": self.pictures,
            "unusable": self.unusable,
            "blind": self.is_blind,
            "other_models": self.other_models,
            "id": str(self.id),
            "time": self.time.isoformat(),
            "since": self.since.isoformat(),
            "until": self.until.isoformat(),
            "model": self.model,
            "genres": list(self.genres),
            "feedback": self.feedback,
            "watched": [asdict(column) for column in self.watched],
        }


def find_drift(
    log: PredictionLog, bundle: Bundle, since: datetime, until: datetime, *, with_report: bool = False
) -> Drift:
    """Compare a window with the bundle's reference, and keep what was found in the log's database.

    Args:
        log: Its tables must be there.
        bundle: Its reference, and whose answers to look at.
        since: The first moment of the window.
        until: The moment after its last.
        with_report: Make one too; it takes a quarter of a minute of one core. Where that fails, the rest is found and
            kept all the same.

    Raises:
        InvalidRequestError: The window is empty.
        BundleCorruptError: The bundle's reference does not hold what it should.
        LogUnavailableError: The log cannot be read or written.
    """
    if since >= until:
        raise InvalidRequestError("the window of time must end after it starts")
    reference = Sample.of_reference(bundle).usable
    window = Sample.of_window(log, bundle, reference.embeddings.shape[1], since, until)
    current = window.usable
    enough = len(current.statistics) >= LEAST_PICTURES
    separation = domain_classifier(reference.embeddings, current.embeddings) if enough else None
    by_model = count_by_model(log, since, until)
    ours = by_model.pop(f"{bundle.metadata.name} {bundle.metadata.version}", 0)
    watched = _compare(reference, window, current, separation) if separation else ()
    if watched:
        watched = (*watched, _other_versions(ours, by_model.total()))
    report, error = None, None
    if with_report and separation:
        report, error = _report(reference, window, watched, separation)
    drift = Drift(
        id=uuid4(),
        time=datetime.now(UTC),
        since=since,
        until=until,
        model={"name": bundle.metadata.name, "version": bundle.metadata.version},
        verdict=_worst(watched) if enough else "not enough data",
        n=window.answers,
        pictures=len(current.statistics),
        unusable=len(window.statistics) - len(current.statistics),
        other_models=dict(sorted(by_model.items())),
        watched=watched,
        genres=_genres(reference, current),
        feedback=_feedback(reference, current),
        report=report,
        report_error=error,
    )
    _keep(log, drift)
    return drift


def _compare(reference: Sample, window: Sample, current: Sample, separation: Separation) -> tuple[Column, ...]:
    before: Numbers = {**reference.columns}
    now: Numbers = {**current.columns}
    seen = [name for name in before if _kind(name) not in _WARNS_ONLY]
    beside = [name for name in before if _kind(name) in _WARNS_ONLY]
    if len(current.judged.true) >= LEAST_PICTURES:
        beside.append("agreement")
        before["agreement"], now["agreement"] = reference.judged.agreement, current.judged.agreement
    return (*_test(seen, before, now), _embedding(separation), *_test(beside, before, now), _unusable(window))


def _kind(name: str) -> Kind:
    if name in STATISTICS:
        return "size" if name in _SIZES else "picture"
    if name == "confidence":
        return "confidence"
    return "feedback" if name == "agreement" else "probability"


def _test(names: list[str], reference: Numbers, current: Numbers) -> list[Column]:
    """Test columns together."""
    found = [kolmogorov_smirnov(reference[name], current[name]) for name in names]
    rates = false_discovery_rates([p_value for _, p_value in found])
    return [
        Column(
            name=name,
            kind=_kind(name),
            verdict=_judge(_kind(name), rate, distance, _LEAST_DISTANCE),
            distance=distance,
            p_value=p_value,
            q_value=rate,
            reference=float(reference[name].mean()),
            current=float(current[name].mean()),
        )
        for name, (distance, p_value), rate in zip(names, found, rates, strict=True)
    ]


def _embedding(found: Separation) -> Column:
    verdict = _judge("embedding", found.p_value, found.area, _LEAST_AREA)
    return Column("embedding", "embedding", verdict, found.area, found.p_value, found.p_value, None, None)


def _unusable(window: Sample) -> Column:
    """No matter of chance: one is one too many, and nothing that the model can be trained for."""
    share = float(1 - window.is_usable.mean())
    return _quality("unusable", share, is_warning=share > 0)


def _other_versions(ours: int, others: int) -> Column:
    """Of a model that answers as a shadow alone, all that clients get is another's, and meant to be."""
    share = others / (ours + others) if ours else 0.0
    return _quality("other_versions", share, is_warning=share > _MOST_OTHERS)


def _quality(name: str, share: float, *, is_warning: bool) -> Column:
    """A share of the answers, counted and no matter of chance."""
    chance = 0.0 if is_warning else 1.0
    return Column(name, "quality", "warning" if is_warning else "ok", share, chance, chance, 0.0, share)


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


def _report(
    reference: Sample, window: Sample, watched: tuple[Column, ...], separation: Separation
) -> tuple[Report | None, str | None]:
    """It, or why there is none: what was found without it is worth keeping."""
    tested = {column.name: column.q_value for column in watched}
    try:
        return make_report(reference, window, separation, tested, _WARNING_RATE / 2), None
    except ReportError as error:
        return None, error.message


def _keep(log: PredictionLog, drift: Drift) -> None:
    name, version = drift.model["name"], drift.model["version"]
    run = DriftRun(drift.id, drift.time, name, version, drift.verdict, drift.to_dict(), has_report=bool(drift.report))
    DriftRuns(log).add(run, drift.report.html if drift.report else None)
