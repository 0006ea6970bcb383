"""The tables of the log. A change here needs a migration in `migrations/versions`."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, Final

from sqlalchemy import (
    JSON,
    Column,
    DateTime,
    Dialect,
    Float,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    UniqueConstraint,
    Uuid,
)
from sqlalchemy.types import TypeDecorator

from onesheet.image_statistics import STATISTICS


class UtcDateTime(TypeDecorator[datetime]):
    """A moment in UTC, with its zone also where the database keeps none."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:  # noqa: ARG002
        """To the database: always UTC."""
        return value.astimezone(UTC) if value else None

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:  # noqa: ARG002
        """From the database: SQLite returns it without its zone."""
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


METADATA: Final = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s",
        "pk": "pk_%(table_name)s",
    }
)

# A model and what its vectors mean, once; so that a row of the log is small.
MODELS: Final = Table(
    "models",
    METADATA,
    Column("id", Integer, primary_key=True),
    Column("name", String(200), nullable=False),
    Column("version", String(200), nullable=False),
    Column("genres", JSON, nullable=False),
    UniqueConstraint("name", "version"),
)


def _statistics() -> list[Column[Any]]:
    return [Column(name, Float, nullable=False) for name in STATISTICS]


PREDICTIONS: Final = Table(
    "predictions",
    METADATA,
    Column("id", Uuid, primary_key=True),
    Column("time", UtcDateTime, nullable=False),
    Column("role", String(10), primary_key=True),
    Column("model_id", ForeignKey("models.id"), nullable=False),
    Column(
        "probabilities", LargeBinary, nullable=False, comment="little-endian float32, in the order of models.genres"
    ),
    Column("embedding", LargeBinary, nullable=False, comment="little-endian float16"),
    Column("threshold", Float),
    Column("predicted", JSON, nullable=False),
    *_statistics(),
    Column("latency_ms", Float, nullable=False),
    Column("file_name", String(255)),
    Column("content_sha256", String(64), nullable=False, index=True),
    Column("request_id", String(64)),
    # Who counts answers need not look at them.
    Index(None, "time", "role", "model_id"),
)

FEEDBACK: Final = Table(
    "feedback",
    METADATA,
    Column("id", Integer, primary_key=True),
    Column("prediction_id", Uuid, nullable=False, index=True),
    Column("time", UtcDateTime, nullable=False),
    Column("genres", JSON, nullable=False),
)

DRIFT_RUNS: Final = Table(
    "drift_runs",
    METADATA,
    Column("id", Uuid, primary_key=True),
    Column("time", UtcDateTime, nullable=False, index=True),
    Column("model_name", String(200), nullable=False),
    Column("model_version", String(200), nullable=False),
    Column("verdict", String(20), nullable=False),
    Column("result", JSON, nullable=False),
    Column("report", LargeBinary, comment="HTML, compressed with zlib; of the latest runs only"),
)
