"""Indexes by which the newest facts of many subjects at once, requests and pointers by prefix are found."""

from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    """Add the indexes."""
    op.create_index("ix_mlops_fact_subject_newest", "mlops_fact", ["kind", "subject", "id"])
    op.create_index("ix_mlops_training_request_newest", "mlops_training_request", ["model", "id"])
    # PostgreSQL looks a prefix up in an index of this kind only, whatever the database's collation.
    op.create_index(
        "ix_mlops_pointer_prefix", "mlops_pointer", ["name"], postgresql_ops={"name": "varchar_pattern_ops"}
    )
