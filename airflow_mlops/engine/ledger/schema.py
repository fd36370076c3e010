"""The version of the ledger's tables, and how they get to the newest one."""

from __future__ import annotations

from sqlalchemy import Connection, Engine, func, inspect, select, text

from airflow_mlops.exceptions import ConfigError

HEAD = "0004"
# Not Alembic's default: the ledger may share a database with Airflow, which has its own.
VERSION_TABLE = "mlops_alembic_version"
_ADVISORY_LOCK = int.from_bytes(b"mlops_lg")


def version(connection: Connection) -> str | None:
    """Return the version of the tables there, or None when no migration made them."""
    if not inspect(connection).has_table(VERSION_TABLE):
        return None
    return connection.execute(text(f"SELECT version_num FROM {VERSION_TABLE}")).scalar()


def ensure(engine: Engine) -> None:
    """Create or upgrade the tables unless they are up to date, which two short queries tell.

    Of several processes that come at once one does it; the others wait for it and find it done.

    :raises ConfigError: when a newer release wrote them.
    """
    with engine.connect() as connection:
        if version(connection) == HEAD:
            return
    with engine.execution_options(write=True).begin() as connection:  # on SQLite that is the lock
        if connection.dialect.name == "postgresql":
            connection.execute(select(func.pg_advisory_xact_lock(_ADVISORY_LOCK)))
        if version(connection) != HEAD:
            _upgrade(connection)


def _upgrade(connection: Connection) -> None:
    from alembic import command
    from alembic.config import Config
    from alembic.script import ScriptDirectory

    config = Config(attributes={"connection": connection})
    config.set_main_option("script_location", "airflow_mlops.engine.ledger:migrations")
    there = version(connection)
    known = {script.revision for script in ScriptDirectory.from_config(config).walk_revisions()}
    if there is not None and there not in known:
        raise ConfigError(
            "The ledger's database was written by a newer release of airflow-mlops.",
            detail=f"its schema is {there}, this release knows up to {HEAD}",
            hint="Upgrade airflow-mlops here too; no release takes a ledger back.",
        )
    command.upgrade(config, "head")
