"""Hook over the ledger's database."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING

from airflow_mlops.hooks.base import MlopsHook, expand

if TYPE_CHECKING:
    from airflow_mlops.engine.ledger import Ledger


class LedgerHook(MlopsHook):
    """The ledger behind an Airflow connection of type ``mlops_ledger``.

    The connection's host is either an SQLAlchemy URL of SQLite or PostgreSQL, or a PostgreSQL host with login,
    password, port and schema beside it.

    :param ledger_conn_id: Airflow connection id.
    """

    conn_type = "mlops_ledger"
    conn_name_attr = "ledger_conn_id"
    default_conn_name = "mlops_ledger_default"
    hook_name = "MLOps ledger"

    def __init__(self, ledger_conn_id: str = default_conn_name) -> None:
        super().__init__(ledger_conn_id)

    @cached_property
    def url(self) -> str:
        """The SQLAlchemy URL of the ledger's database."""
        from sqlalchemy import URL

        connection = self.connection
        host = connection.host or ""
        if "://" in host:
            return expand(host)
        return URL.create(
            "postgresql+psycopg2",
            username=connection.login,
            password=connection.password,
            host=host,
            port=connection.port,
            database=connection.schema,
        ).render_as_string(hide_password=False)

    def get_conn(self) -> Ledger:
        """Return the ledger; nothing is connected yet.

        :raises ConfigError: when the host is a URL of another database, or none that can be read.
        """
        from airflow_mlops.engine.ledger import Ledger

        return Ledger(self.url)

    def check(self) -> str:
        """Connect to the ledger's database; say which one it is and the version of its schema."""
        return self.get_conn().check()
