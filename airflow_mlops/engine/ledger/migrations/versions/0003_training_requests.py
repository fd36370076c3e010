"""Requests for training: who or what asked for one, why, and what became of it."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"

_TEXTS = ("model", "key", "reason", "detail", "as_of", "asked_by", "state", "said", "run")
_TIMES = ("asked_at", "changed_at", "started_at")


def upgrade() -> None:
    """Create the table. One key of a model is one request, however often it is asked."""
    op.create_table(
        "mlops_training_request",
        sa.Column("id", sa.Integer, primary_key=True),
        *(sa.Column(name, sa.String, nullable=False) for name in (*_TEXTS, *_TIMES)),
        sa.Column("priority", sa.Integer, nullable=False),
        sa.Column("special", sa.JSON, nullable=False),
    )
    op.create_index("ux_mlops_training_request", "mlops_training_request", ["model", "key"], unique=True)
    op.create_index("ix_mlops_training_request_state", "mlops_training_request", ["model", "state"])
