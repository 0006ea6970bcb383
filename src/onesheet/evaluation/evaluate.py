"""Quality of a bundle on labelled posters."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from onesheet.bundle import REFERENCE_FILE, Bundle, Precision
from onesheet.data.labels import Labels, read_labels
from onesheet.data.manifest import MANIFEST_FILE, read_manifest
from onesheet.data.posters import SUFFIX_RULE, PosterFolder, name_some
from onesheet.data.split import SPLITS
from onesheet.errors import DataError, ImageError
from onesheet.evaluation.baselines import baselines
from onesheet.evaluation.metrics import multilabel_metrics
from onesheet.parquet import read_table
from onesheet.predictor import Predictor

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Scored:
    """The posters that were answered, with what is true and what was said of them.

    Attributes:
        ids: N film ids.
        paths: N picture files.
        genres: G names.
        thresholds: float32 `[G]`, the bundle's own.
        targets: bool `[N, G]`, the truth.
        probabilities: float32 `[N, G]`, 0-1.
        decisions: bool `[N, G]`, the genres that were said.
    """

    ids: tuple[str, ...]
    paths: tuple[Path, ...]
    genres: tuple[str, ...]
    thresholds: NDArray[np.float32]
    targets: NDArray[np.bool_]
    probabilities: NDArray[np.float32]
    decisions: NDArray[np.bool_]

    def first(self, posters: int) -> Scored:
        """The first of them."""
        return replace(
            self,
            ids=self.ids[:posters],
            paths=self.paths[:posters],
            targets=self.targets[:posters],
            probabilities=self.probabilities[:posters],
            decisions=self.decisions[:posters],
        )


@dataclass(frozen=True, slots=True)
class Evaluation:
    """What an evaluation found.

    Attributes:
        metrics: The metrics of the contract, with the number of posters behind each.
        baselines: The same of predictors that never look at the poster.
        failed: Posters that could not be read, with the reason; they are in no metric.
        unlabelled: Posters without any genre; they are in no metric either.
        missing: Labelled films without a poster that were left out, as `allow_missing` says.
        seen: How many of the posters the bundle's thresholds and calibration were chosen on. When it is not 0 the
            figures flatter the model.
        model: Name and version of the bundle.
        scored: The posters behind the metrics, one by one.
    """

    metrics: dict[str, Any]
    baselines: dict[str, dict[str, Any]]
    failed: tuple[tuple[Path, ImageError], ...]
    unlabelled: int
    missing: int
    seen: int
    model: dict[str, str]
    scored: Scored

    @property
    def note(self) -> str | None:
        """What a reader must know before believing the figures."""
        if not self.seen:
            return None
        return (
            f"{self.seen} of these posters chose the bundle's thresholds, so more were probably trained on; "
            "these figures flatter the model. --split test measures it on posters it has never seen"
        )

    def to_dict(self) -> dict[str, Any]:
        """The JSON contract."""
        return {
            **self.metrics,
            "baselines": self.baselines,
            "failed": [{"file": str(path), "error": error.to_dict()} for path, error in self.failed],
            "unlabelled": self.unlabelled,
            "missing": self.missing,
            "seen_at_export": self.seen,
            "model": self.model,
        }


def evaluate(
    bundle: Bundle,
    labels_file: Path,
    images: Path,
    *,
    only: Collection[str] | None = None,
    threads: int | None = None,
    precision: Precision = "fp32",
    allow_missing: bool = False,
    on_poster: Callable[[int, int], None] | None = None,
) -> Evaluation:
    """Evaluate a bundle at its own thresholds, in memory bounded by the probabilities.

    Args:
        bundle: The model.
        labels_file: A label file such as `train.csv`.
        images: Folder of posters, which `PosterFolder` finds by their ids.
        only: Ids to restrict the evaluation to; default: all of the file.
        threads: Worker threads; default: the cores that this process may use.
        precision: Which graph of the bundle answers.
        allow_missing: Leave films without a poster out; else each is a failure, and most are an error.
        on_poster: Called with (done, total).

    Raises:
        DataError: The labels cannot be read, lack a genre of the bundle, most films have no poster, or none can be
            scored.
    """
    labels = read_labels(labels_file)
    genres = bundle.metadata.genres
    missing = [genre for genre in genres if genre not in labels.genres]
    if missing:
        raise DataError(f"{labels_file.name} has no column for {', '.join(missing)}")
    wanted = [film for film in labels.by_id if only is None or film in only]
    labelled = [film for film in wanted if labels.by_id[film]]
    posters = PosterFolder(images)
    left_out = set(posters.missing(labelled)) if allow_missing else set[str]()
    films = [film for film in labelled if film not in left_out]
    _check_most_are_there(posters, films, images)
    predictor = Predictor(bundle, threads=threads, precision=precision)
    paths = [posters.find(film) for film in films]
    answered, probabilities, decisions, failed = _predict_all(predictor, paths, on_poster)
    if not answered:
        reason = f": {failed[0][1].message}" if failed else ""
        raise DataError(f"none of the {len(labelled)} posters can be scored{reason}")
    ids = tuple(films[i] for i in answered)
    targets = _targets(labels, ids, genres)
    return Evaluation(
        metrics=multilabel_metrics(probabilities, targets, decisions, genres),
        baselines=baselines(bundle.metadata.data.frequencies(genres), targets, genres),
        failed=failed,
        unlabelled=len(wanted) - len(labelled),
        missing=len(left_out),
        seen=len(reference_ids(bundle).intersection(ids)),
        model={"name": bundle.metadata.name, "version": bundle.metadata.version},
        scored=Scored(
            ids=ids,
            paths=tuple(paths[i] for i in answered),
            genres=genres,
            thresholds=np.array([bundle.metadata.thresholds[genre] for genre in genres], np.float32),
            targets=targets,
            probabilities=probabilities,
            decisions=decisions,
        ),
    )


def split_ids(processed: Path, split: str) -> set[str]:
    """Ids of one split of a manifest.

    Raises:
        DataError: There is no manifest, or it has no such split.
    """
    entries = read_manifest(processed / MANIFEST_FILE, processed).split(split).entries
    if not entries:
        raise DataError(f"the manifest has no posters in the split `{split}`: {', '.join(SPLITS)}")
    return {entry.id for entry in entries}


def reference_ids(bundle: Bundle) -> set[str]:
    """Ids of the validation posters that thresholds and calibration were chosen on."""
    table = read_table(bundle.files[REFERENCE_FILE], ["id"])
    return set(table["id"].to_pylist())


def _check_most_are_there(posters: PosterFolder, films: list[str], images: Path) -> None:
    missing = posters.missing(films)
    if 2 * len(missing) > len(films):
        raise DataError(
            f"{len(missing):,} of {len(films):,} labelled films have no poster in {images} ({name_some(missing)}): "
            f"{SUFFIX_RULE}; --allow-missing goes on without them"
        )


def _predict_all(
    predictor: Predictor, paths: list[Path], on_poster: Callable[[int, int], None] | None
) -> tuple[list[int], NDArray[np.float32], NDArray[np.bool_], tuple[tuple[Path, ImageError], ...]]:
    """Which of the paths were answered, their probabilities and decisions, and why the others were not."""
    answered: list[int] = []
    failed: list[tuple[Path, ImageError]] = []
    probabilities = np.zeros((len(paths), len(predictor.genres)), np.float32)
    decisions = np.zeros(probabilities.shape, bool)
    for i, answer in enumerate(predictor.predict_each(paths)):
        if isinstance(answer, ImageError):
            failed.append((paths[i], answer))
        else:
            said = {score.label for score in answer.predicted}
            probabilities[i] = answer.probabilities
            decisions[i] = [genre in said for genre in predictor.genres]
            answered.append(i)
        if on_poster:
            on_poster(i + 1, len(paths))
    return answered, probabilities[answered], decisions[answered], tuple(failed)


def _targets(labels: Labels, films: tuple[str, ...], genres: tuple[str, ...]) -> NDArray[np.bool_]:
    return np.array([[genre in labels.by_id[film] for genre in genres] for film in films], dtype=bool)
