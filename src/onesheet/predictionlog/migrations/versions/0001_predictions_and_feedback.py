"""Answers, the models that gave them, and feedback."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None

# Spelled out: a migration describes the tables as they were on its day.
_STATISTICS = (
    "mean",
    "std",
    "min",
    "max",
    "brightness",
    "contrast",
    "colourfulness",
    "sharpness",
    "width",
    "height",
    "aspect",
)


def upgrade() -> None:
    """Create them."""
    op.create_table(
        "models",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("name", sa.String(200), nullable=False),
        sa.Column("version", sa.String(200), nullable=False),
        sa.Column("genres", sa.JSON, nullable=False),
        sa.UniqueConstraint("name", "version", name="uq_models_name_version"),
    )
    op.create_table(
        "predictions",
        sa.Column("id", sa.Uuid, nullable=False),
        sa.Column("time", sa.DateTime(timezone=True), nullable=False),
        sa.Column("role", sa.String(10), nullable=False),
        sa.Column("model_id", sa.Integer, sa.ForeignKey("models.id"), nullable=False),
        sa.Column("probabilities", sa.LargeBinary, nullable=False),
        sa.Column("embedding", sa.LargeBinary, nullable=False),
        sa.Column("threshold", sa.Float),
        sa.Column("predicted", sa.JSON, nullable=False),
        *(sa.Column(name, sa.Float, nullable=False) for name in _STATISTICS),
        sa.Column("latency_ms", sa.Float, nullable=False),
        sa.Column("file_name", sa.String(255)),
        sa.Column("content_sha256", sa.String(64), nullable=False),
        sa.Column("request_id", sa.String(64)),
        sa.PrimaryKeyConstraint("id", "role", name="pk_predictions"),
    )
    op.create_index("ix_predictions_time", "predictions", ["time"])
    op.create_table(
        "feedback",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("prediction_id", sa.Uuid, nullable=False),
        sa.Column("time", sa.DateTime(timezone=True), nullable=False),
        sa.Column("genres", sa.JSON, nullable=False),
    )
    op.create_index("ix_feedback_prediction_id", "feedback", ["prediction_id"])


def downgrade() -> None:
    """Remove them, with all they hold."""
    for table in ("feedback", "predictions", "models"):
        op.drop_table(table)
