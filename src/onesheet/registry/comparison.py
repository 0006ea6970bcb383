"""Two bundles on the same posters, which neither has seen: what each is worth, and how sure the difference is."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Collection, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from onesheet.bundle import Bundle
from onesheet.data.labels import IMAGES_FOLDER, LABELS_FILE
from onesheet.data.split import NEAR_DISTANCE
from onesheet.errors import DataError
from onesheet.evaluation.bootstrap import Resampled, bootstrap
from onesheet.evaluation.evaluate import Evaluation, Scored, evaluate, reference_ids
from onesheet.evaluation.metrics import multilabel_metrics
from onesheet.evaluation.robustness import CORRUPTIONS, robustness
from onesheet.parquet import read_table
from onesheet.predictor import Predictor

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from onesheet.data.manifest import Entry, Manifest

    Progress = Callable[[str], AbstractContextManager[Callable[[int, int | None], None]]]

# Of each corruption the one that a person notices and does not mind.
_SEVERITY: Final = 2
_ROBUSTNESS_POSTERS: Final = 300
_PARITY_POSTERS: Final = 128
_TIMED_POSTERS: Final = 20
_ROUNDS: Final = 5


@dataclass(frozen=True, slots=True)
class Contender:
    """One side.

    Attributes:
        name: Whom a table means.
        bundle: The model.
        trained_on: The manifest of its training; None: nobody knows.
    """

    name: str
    bundle: Bundle
    trained_on: Manifest | None


@dataclass(frozen=True, slots=True)
class Measured:
    """What a contender is worth.

    Attributes:
        metrics: As in `multilabel_metrics`, over the genres that both know.
        resampled: The same on resamples; those of both sides are of the same posters.
        corrupted: mAP on corrupted posters, the mean over the corruptions; and on the same posters untouched.
        latency_ms: Median of a poster that goes through the network alone, on one thread.
        baseline: mAP of the training frequencies.
        difference: Largest one between a probability that the bundle promises of its validation posters and the one
            that it gives here; None where those posters are not at hand.
        compared: How many posters that is from.
    """

    metrics: dict[str, Any]
    resampled: Resampled
    corrupted: tuple[float, float]
    latency_ms: float
    baseline: float
    difference: float | None
    compared: int


@dataclass(frozen=True, slots=True)
class Comparison:
    """A contender beside the one that it wants to replace.

    Attributes:
        posters: How many decide.
        seen: Test posters that one of the two has seen, which were left out.
        genres: Those that both know.
        challenger: The one.
        champion: The other; None: there is none.
        challenger_worth: What it is worth.
        champion_worth: The same of the other.
    """

    posters: int
    seen: int
    genres: tuple[str, ...]
    challenger: Contender
    champion: Contender | None
    challenger_worth: Measured
    champion_worth: Measured | None


def compare(
    challenger: Contender,
    champion: Contender | None,
    manifest: Manifest,
    progress: Progress,
    threads: int | None = None,
) -> Comparison:
    """Measure both sides on the test posters of a manifest that neither has seen.

    Args:
        challenger: The one that wants to be promoted.
        champion: The one that is; None: the challenger stands alone.
        manifest: Of the present data.
        progress: Shows each of the long steps.
        threads: Worker threads; default: the cores that this process may use.

    Raises:
        DataError: No poster is left, or the labels lack a genre.
    """
    sides = [side for side in (challenger, champion) if side]
    test = manifest.split("test").entries
    posters = unseen(test, sides)
    if not posters:
        raise DataError(f"all {len(test)} test posters were seen by one of the two in training")
    known = [set(side.bundle.metadata.genres) for side in sides]
    genres = tuple(genre for genre in challenger.bundle.metadata.genres if all(genre in each for each in known))
    latencies = _latencies(sides, [manifest.picture(entry) for entry in posters[:_TIMED_POSTERS]])
    worth = [
        _measure(side, manifest, posters, genres, latency, progress, threads)
        for side, latency in zip(sides, latencies, strict=True)
    ]
    return Comparison(
        posters=worth[0].metrics["n"],
        seen=len(test) - len(posters),
        genres=genres,
        challenger=challenger,
        champion=champion,
        challenger_worth=worth[0],
        champion_worth=worth[1] if champion else None,
    )


def unseen(posters: Sequence[Entry], sides: Collection[Contender]) -> list[Entry]:
    """Those that no side was trained or tuned on, nor on a near-identical picture."""
    trained = [
        entry
        for side in sides
        for entry in (side.trained_on.entries if side.trained_on else ())
        if entry.split in ("train", "validation")
    ]
    films = {entry.id for entry in trained} | {film for side in sides for film in reference_ids(side.bundle)}
    if not trained:
        return [entry for entry in posters if entry.id not in films]
    hashes = _hashes(trained)
    near = [bool((np.bitwise_count(hashes ^ own) <= NEAR_DISTANCE).any()) for own in _hashes(posters)]
    return [entry for entry, known in zip(posters, near, strict=True) if not known and entry.id not in films]


def _hashes(entries: Sequence[Entry]) -> NDArray[np.uint64]:
    return np.array([int(entry.phash or "0", 16) for entry in entries], np.uint64)


def _measure(
    side: Contender,
    manifest: Manifest,
    posters: Sequence[Entry],
    genres: tuple[str, ...],
    latency: float,
    progress: Progress,
    threads: int | None,
) -> Measured:
    raw = manifest.root
    with progress(f"Judging {side.name}") as advance:
        evaluation = evaluate(
            side.bundle,
            raw / LABELS_FILE,
            raw / IMAGES_FOLDER,
            only={entry.id for entry in posters},
            threads=threads,
            on_poster=advance,
        )
    scored = evaluation.scored
    judged = _of_genres(scored, genres)
    predictor = Predictor(side.bundle, threads=threads)
    with progress(f"Corrupting posters for {side.name}") as advance:
        corrupted = _corrupted(predictor, scored, advance)
    difference, compared = _difference(predictor, manifest)
    return Measured(
        metrics=multilabel_metrics(*judged, genres),
        resampled=bootstrap(*judged),
        corrupted=corrupted,
        latency_ms=latency,
        baseline=_baseline(evaluation),
        difference=difference,
        compared=compared,
    )


def _of_genres(
    scored: Scored, genres: tuple[str, ...]
) -> tuple[NDArray[np.float32], NDArray[np.bool_], NDArray[np.bool_]]:
    """Probabilities, truth and decisions of some genres, in their order."""
    columns = [scored.genres.index(genre) for genre in genres]
    return scored.probabilities[:, columns], scored.targets[:, columns], scored.decisions[:, columns]


def _baseline(evaluation: Evaluation) -> float:
    return max(metrics["map_macro"] or 0.0 for metrics in evaluation.baselines.values())


def _corrupted(predictor: Predictor, scored: Scored, advance: Callable[[int, int], None]) -> tuple[float, float]:
    """Mean average precision on corrupted posters, and on the same untouched."""
    variants = [(name, min(_SEVERITY, len(kind.amounts))) for name, kind in CORRUPTIONS.items()]
    found = robustness(predictor, scored.first(_ROBUSTNESS_POSTERS), advance, variants)
    on_each = [row["map_macro"] or 0.0 for row in found["corrupted"]]
    return statistics.fmean(on_each), found["untouched"]["map_macro"] or 0.0


def _latencies(sides: Sequence[Contender], paths: Sequence[Path]) -> list[float]:
    """Milliseconds of the network alone, one poster at a time; the sides take turns, so that noise meets both."""
    predictors = [Predictor(side.bundle, threads=1) for side in sides]
    pictures = [[predictor.read(path).pixels[None] for path in paths] for predictor in predictors]
    taken: list[list[float]] = [[] for _ in sides]
    for round_ in range(_ROUNDS + 1):
        for number in range(len(paths)):
            for predictor, own, times in zip(predictors, pictures, taken, strict=True):
                started = time.perf_counter()
                predictor.run(own[number])
                if round_:  # the first one warms up
                    times.append((time.perf_counter() - started) * 1e3)
    return [statistics.median(times) for times in taken]


def _difference(predictor: Predictor, manifest: Manifest) -> tuple[float | None, int]:
    """Between the probabilities that a bundle promises of its validation posters and those that it gives here."""
    reference = {row["id"]: row for row in read_table(predictor.reference).to_pylist()}
    found = [
        entry
        for entry in manifest.entries
        if entry.id in reference and entry.sha256 == reference[entry.id].get("sha256", entry.sha256)
    ][:_PARITY_POSTERS]
    if not found:
        return None, 0
    given = predictor.predict([manifest.picture(entry) for entry in found])
    differences = [
        np.abs(np.asarray(reference[entry.id]["probabilities"]) - answer.probabilities).max()
        for entry, answer in zip(found, given, strict=True)
    ]
    return float(max(differences)), len(found)
