"""Facts and pointers, as the releases without migrations made them: their databases have these tables already."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    """Create what is not there."""
    op.create_table(
        "mlops_fact",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("kind", sa.String, nullable=False),
        sa.Column("subject", sa.String, nullable=False),
        sa.Column("at", sa.String, nullable=False),
        sa.Column("payload", sa.JSON, nullable=False),
        if_not_exists=True,
    )
    op.create_index("ix_mlops_fact_kind", "mlops_fact", ["kind"], if_not_exists=True)
    op.create_index("ix_mlops_fact_subject", "mlops_fact", ["subject"], if_not_exists=True)
    op.create_table(
        "mlops_pointer",
        sa.Column("name", sa.String, primary_key=True),
        sa.Column("revision", sa.Integer, nullable=False),
        sa.Column("value", sa.JSON, nullable=False),
        if_not_exists=True,
    )
