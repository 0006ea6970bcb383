"""The log as a Parquet file, for whoever wants to look at it with other tools."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Final

from onesheet.errors import DataError
from onesheet.files import whole
from onesheet.image_statistics import STATISTICS
from onesheet.predictionlog.records import LoggedPrediction
from onesheet.predictionlog.store import PredictionLog

if TYPE_CHECKING:
    import pyarrow as pa

_ROWS: Final = 5000


def export_parquet(
    log: PredictionLog,
    out: str,
    *,
    since: datetime | None = None,
    until: datetime | None = None,
    model_version: str | None = None,
    on_rows: Callable[[int], None] | None = None,
) -> int:
    """Write answers, and what was last said of each, in the order of their times and in bounded memory.

    Args:
        log: To read.
        out: A path, or an address such as `gs://bucket/log.parquet` (needs the `gcs` extra).
        since: The first moment.
        until: The moment after the last.
        model_version: Only this model's.
        on_rows: Called with the number of rows written so far.

    Returns:
        How many rows were written.

    Raises:
        DataError: It cannot be written there, or the log has no such answers.
        LogUnavailableError: The log cannot be read.
    """
    from pyarrow import parquet

    predictions = log.predictions(since=since, until=until, model_version=model_version)
    schema, rows = _schema(), 0
    batch = list(islice(predictions, _ROWS))
    if not batch:
        raise DataError("the log holds no predictions of this time and model version: nothing was written")
    try:
        with _target(out) as file, parquet.ParquetWriter(file, schema, compression="zstd") as writer:
            while batch:
                writer.write_table(_table(log, batch, schema))
                rows += len(batch)
                if on_rows:
                    on_rows(rows)
                batch = list(islice(predictions, _ROWS))
    except (OSError, ImportError, ValueError) as error:
        raise DataError(f"cannot write {out}: {error}") from error
    return rows


def _table(log: PredictionLog, batch: Sequence[LoggedPrediction], schema: pa.Schema) -> pa.Table:
    import pyarrow as pa

    said = log.latest_feedback([prediction.id for prediction in batch])
    return pa.Table.from_pylist([_row(prediction, said.get(prediction.id)) for prediction in batch], schema)


def _row(prediction: LoggedPrediction, feedback: Sequence[str] | None) -> dict[str, Any]:
    return {
        "prediction_id": str(prediction.id),
        "time": prediction.time,
        "role": prediction.role,
        "model_name": prediction.model_name,
        "model_version": prediction.model_version,
        "genres": prediction.genres,
        "probabilities": prediction.probabilities,
        "embedding": prediction.embedding,
        "threshold": prediction.threshold,
        "predicted": prediction.predicted,
        **prediction.statistics,
        "latency_ms": prediction.latency_ms,
        "file_name": prediction.file_name,
        "content_sha256": prediction.content_sha256,
        "request_id": prediction.request_id,
        "feedback": feedback,
    }


def _schema() -> pa.Schema:
    import pyarrow as pa

    return pa.schema(
        [
            ("prediction_id", pa.string()),
            ("time", pa.timestamp("us", "UTC")),
            ("role", pa.string()),
            ("model_name", pa.string()),
            ("model_version", pa.string()),
            ("genres", pa.list_(pa.string())),
            ("probabilities", pa.list_(pa.float32())),
            ("embedding", pa.list_(pa.float32())),
            ("threshold", pa.float64()),
            ("predicted", pa.list_(pa.string())),
            *((name, pa.float64()) for name in STATISTICS),
            ("latency_ms", pa.float64()),
            ("file_name", pa.string()),
            ("content_sha256", pa.string()),
            ("request_id", pa.string()),
            ("feedback", pa.list_(pa.string())),
        ]
    )


@contextmanager
def _target(out: str) -> Iterator[BinaryIO]:
    """A file to write to, which appears under its name when it is whole."""
    if "://" in out:
        import fsspec

        with fsspec.open(out, "wb") as file:
            yield file
        return
    path = Path(out)
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole(path) as scratch, scratch.open("wb") as file:
        yield file
