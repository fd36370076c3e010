"""Base of the hooks: find the connection, refuse the wrong one, say how to make the right one."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, ClassVar

from airflow.sdk import BaseHook
from airflow.sdk.exceptions import AirflowNotFoundException

from airflow_mlops.exceptions import ConfigError, MlopsError

if TYPE_CHECKING:
    from airflow.sdk import Connection


class MlopsHook(BaseHook):
    """A hook over one connection of one type.

    Subclasses set ``conn_type``, ``default_conn_name``, ``conn_name_attr`` and ``hook_name`` (Airflow's own
    names) and implement :meth:`check`, which the Test button of the connection form calls.

    :param conn_id: Airflow connection id.
    """

    conn_type: ClassVar[str]
    conn_name_attr: ClassVar[str]
    default_conn_name: ClassVar[str]
    hook_name: ClassVar[str]

    def __init__(self, conn_id: str) -> None:
        super().__init__()
        self.conn_id = conn_id
        self._connection: Connection | None = None

    @property
    def connection(self) -> Connection:
        """The connection, looked up once.

        :raises ConfigError: when there is none of that id, or it has another type.
        """
        if self._connection is None:
            try:
                self._connection = self._typed(self.get_connection(self.conn_id))
            except AirflowNotFoundException:
                raise self._missing() from None
        return self._connection

    async def prefetch(self) -> None:
        """Look the connection up from a trigger's event loop, so that :attr:`connection` does not block it."""
        try:
            self._connection = self._typed(await self.aget_connection(self.conn_id))
        except AirflowNotFoundException:
            raise self._missing() from None

    @property
    def extra(self) -> dict[str, Any]:
        """The connection's extra fields."""
        return dict(self.connection.extra_dejson)

    def check(self) -> str:
        """Talk to the service once and return what it answered, in words.

        :raises MlopsError: when it does not answer.
        """
        raise NotImplementedError

    def test_connection(self) -> tuple[bool, str]:
        """Answer the Test button of the connection form."""
        try:
            return True, self.check()
        except MlopsError as error:
            return False, str(error)

    def _missing(self) -> ConfigError:
        return ConfigError(
            f"There is no Airflow connection {self.conn_id!r}.",
            detail=f"{type(self).__name__} needs a connection of type {self.conn_type!r}",
            hint=f"Add one under Admin → Connections, or set AIRFLOW_CONN_{self.conn_id.upper()}; "
            f"the form of type {self.conn_type!r} says what it needs.",
        )

    def _typed(self, connection: Connection) -> Connection:
        if connection.conn_type != self.conn_type:
            raise ConfigError(
                f"Connection {self.conn_id!r} has type {connection.conn_type!r}, not {self.conn_type!r}.",
                detail=f"{type(self).__name__} was given conn_id={self.conn_id!r}",
                hint=f"Point it at a connection of type {self.conn_type!r}, or change this one's type.",
            )
        return connection


def expand(value: str) -> str:
    """Expand environment variables and ``~`` in a path or URL taken from a connection."""
    return os.path.expandvars(os.path.expanduser(value))  # noqa: PTH111  pathlib would halve the // of a URL
