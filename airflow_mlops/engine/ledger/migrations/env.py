"""Alembic's entry: runs the migrations on the connection, and in the transaction, that ``schema.py`` hands over."""

from alembic import context

from airflow_mlops.engine.ledger.models import Base
from airflow_mlops.engine.ledger.schema import VERSION_TABLE

context.configure(
    connection=context.config.attributes["connection"], target_metadata=Base.metadata, version_table=VERSION_TABLE
)
context.run_migrations()
