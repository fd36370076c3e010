"""Facts get a key and the indexes that their look-ups use; the database itself refuses to change or drop one."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"

_SQLITE = """
CREATE TRIGGER mlops_fact_no_{verb} BEFORE {verb} ON mlops_fact
BEGIN SELECT RAISE(ABORT, 'facts of the ledger are never changed or deleted'); END
"""
# REPLACE deletes without the trigger above. NEW.id is -1 while SQLite has yet to choose one.
_SQLITE_REPLACE = """
CREATE TRIGGER mlops_fact_no_replace BEFORE INSERT ON mlops_fact
WHEN NEW.id > 0 AND EXISTS (SELECT 1 FROM mlops_fact WHERE id = NEW.id)
BEGIN SELECT RAISE(ABORT, 'facts of the ledger are never changed or deleted'); END
"""
_POSTGRESQL = """
CREATE FUNCTION mlops_refuse() RETURNS trigger LANGUAGE plpgsql AS
$$BEGIN RAISE EXCEPTION 'facts of the ledger are never changed or deleted'; END$$;
CREATE TRIGGER mlops_fact_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON mlops_fact
FOR EACH STATEMENT EXECUTE FUNCTION mlops_refuse()
"""


def upgrade() -> None:
    """Add the column, the indexes and the triggers."""
    # The default also serves tasks of the release before, which may still be running.
    op.add_column("mlops_fact", sa.Column("key", sa.String, nullable=False, server_default=""))
    op.create_index("ix_mlops_fact_lookup", "mlops_fact", ["kind", "subject", "key", "id"])
    op.create_index("ix_mlops_fact_newest", "mlops_fact", ["kind", "id"])
    op.drop_index("ix_mlops_fact_kind", "mlops_fact")
    op.drop_index("ix_mlops_fact_subject", "mlops_fact")
    if op.get_bind().dialect.name == "sqlite":
        for verb in ("update", "delete"):
            op.execute(_SQLITE.format(verb=verb))
        op.execute(_SQLITE_REPLACE)
    else:
        op.execute(_POSTGRESQL)
