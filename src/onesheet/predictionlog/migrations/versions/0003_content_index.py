"""An index that finds the answers about a picture."""

from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    """Create it."""
    op.create_index("ix_predictions_content_sha256", "predictions", ["content_sha256"])


def downgrade() -> None:
    """Remove it."""
    op.drop_index("ix_predictions_content_sha256", "predictions")
