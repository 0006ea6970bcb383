"""What was found when answers were compared with a reference; and an index that counts without reading rows."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """Create them."""
    op.create_table(
        "drift_runs",
        sa.Column("id", sa.Uuid, nullable=False),
        sa.Column("time", sa.DateTime(timezone=True), nullable=False),
        sa.Column("model_name", sa.String(200), nullable=False),
        sa.Column("model_version", sa.String(200), nullable=False),
        sa.Column("verdict", sa.String(20), nullable=False),
        sa.Column("result", sa.JSON, nullable=False),
        sa.Column("report", sa.LargeBinary),
        sa.PrimaryKeyConstraint("id", name="pk_drift_runs"),
    )
    op.create_index("ix_drift_runs_time", "drift_runs", ["time"])
    op.create_index("ix_predictions_time_role_model_id", "predictions", ["time", "role", "model_id"])
    op.drop_index("ix_predictions_time", "predictions")


def downgrade() -> None:
    """Remove them, with all they hold."""
    op.create_index("ix_predictions_time", "predictions", ["time"])
    op.drop_index("ix_predictions_time_role_model_id", "predictions")
    op.drop_table("drift_runs")
