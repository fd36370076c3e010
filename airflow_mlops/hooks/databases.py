"""Databases of tables that are a source: opened by the hooks that Airflow's providers have for them."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from airflow.sdk import BaseHook
from airflow.sdk.exceptions import AirflowException, AirflowNotFoundException

from airflow_mlops.exceptions import ConfigError

if TYPE_CHECKING:
    from airflow.sdk import Connection

    from airflow_mlops.engine.data.tables.database import Database

_SECRET = ("pass", "secret", "token", "key", "credential")
"""What the name of a field of a connection has in it, whose value is nobody's business."""


def database(conn_id: str) -> Database:
    """Return the database of an Airflow connection; it is opened when it is asked for something.

    :raises ConfigError: when there is no such connection, or no provider for its type.
    """
    from airflow_mlops.engine.data.tables.database import Database

    try:
        connection = BaseHook.get_connection(conn_id)
    except AirflowNotFoundException:
        raise ConfigError(
            f"There is no Airflow connection {conn_id!r}.",
            hint=f"Add one under Admin → Connections, or set AIRFLOW_CONN_{conn_id.upper()}.",
        ) from None
    return Database(conn_id, partial(_open, _hook(connection, conn_id)), _secrets(connection))


def _hook(connection: Connection, conn_id: str) -> Any:
    """Return the hook of a connection.

    :raises ConfigError: when there is none, or it is none of a database.
    """
    try:
        from airflow.providers.common.sql.hooks.sql import DbApiHook

        hook = connection.get_hook()
    except (AirflowException, ImportError):
        raise ConfigError(
            f"No provider of Airflow knows connections of type {connection.conn_type!r}.",
            detail=f"connection {conn_id!r}",
            hint="Install the provider of the database, such as apache-airflow-providers-postgres.",
        ) from None
    if not isinstance(hook, DbApiHook):
        raise ConfigError(
            f"Airflow connection {conn_id!r} is none of a database.",
            detail=f"its type is {connection.conn_type!r}, whose hook is {type(hook).__name__}",
            hint="Name the connection of the database in conn_id=.",
        )
    return hook


def _open(hook: Any) -> Any:
    return hook.get_conn()


def _secrets(connection: Connection) -> list[str]:
    """Return what a message must not have in it, of what a connection has."""
    extra = connection.extra_dejson
    found = [str(value) for name, value in extra.items() if any(part in name.lower() for part in _SECRET)]
    return [connection.password or "", *found]
