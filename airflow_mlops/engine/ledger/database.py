"""How the ledger connects: to which databases, with which timeouts, and what it says when one does not answer."""

from __future__ import annotations

import sqlite3
import time
from typing import Any

from sqlalchemy import URL, Connection, Engine, create_engine, event, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, InterfaceError, InternalError, OperationalError

from airflow_mlops.exceptions import ConfigError, MlopsError, TransientError, did_you_mean

_SUPPORTED = ("postgresql", "sqlite")
_CONNECT_SECONDS = 10
_LOCK_SECONDS = 30
_EXAMPLES = "sqlite:////absolute/path.db or postgresql+psycopg2://user:password@host:5432/database"


def parse(url: str) -> URL:
    """Return a ledger's URL, checked. Its text never shows in an error: it may hold a password.

    :raises ConfigError: when it is no URL, or of a database that the ledger does not run on.
    """
    try:
        parsed = make_url(url)
    except (ArgumentError, ValueError):  # ValueError: the port is not a number
        raise ConfigError("The ledger's URL cannot be read.", hint=f"Write {_EXAMPLES}.") from None
    name = parsed.get_backend_name()
    if name not in _SUPPORTED:
        raise ConfigError(
            f"The ledger does not run on {name!r}.{did_you_mean(name, _SUPPORTED)}",
            detail=f"supported: {', '.join(_SUPPORTED)}",
            hint=f"Write {_EXAMPLES}.",
        )
    return parsed


def engine(url: str) -> Engine:
    """Return an engine for a ledger's URL; nothing is connected yet.

    Connections that are to write say so by the execution option ``write``.

    :raises ConfigError: when the URL cannot be used, or its driver is not installed.
    """
    parsed = parse(url)
    sqlite = parsed.get_backend_name() == "sqlite"
    timeouts = {"timeout": _LOCK_SECONDS} if sqlite else {"connect_timeout": _CONNECT_SECONDS}
    ours = {name: seconds for name, seconds in timeouts.items() if name not in parsed.query}
    try:
        made = create_engine(parsed, pool_pre_ping=True, connect_args=ours)
    except (ArgumentError, ModuleNotFoundError) as error:
        raise ConfigError(
            "The driver of the ledger's database cannot be loaded.",
            detail=f"{parsed.drivername}: {error}",
            hint="Install it; for PostgreSQL: pip install psycopg2-binary.",
        ) from None
    if made.dialect.is_async:
        raise ConfigError(
            "The ledger does not use asynchronous drivers.", detail=parsed.drivername, hint=f"Write {_EXAMPLES}."
        )
    if sqlite:
        event.listen(made, "connect", _prepare_sqlite)
        event.listen(made, "begin", _begin_sqlite)
    else:
        event.listen(made, "connect", _prepare_postgresql)
    return made


def explained(error: DBAPIError, url: str) -> MlopsError:
    """Return what to raise for a driver's error: where and why, never the password."""
    parsed = make_url(url)
    said = (str(error.orig).strip() or type(error.orig).__name__).splitlines()[0]
    for secret in (parsed.password, parsed.query.get("password")):
        said = said.replace(str(secret), "***") if secret else said
    where = f"{parsed.get_backend_name()}, {parsed.host or ''}/{parsed.database or ''}: {said}"
    if _may_pass(error):
        return TransientError(
            "The ledger's database does not answer.",
            detail=where,
            hint="Check the connection of type mlops_ledger, and that its database is up and not locked.",
        )
    return ConfigError(
        "The ledger's database refuses what the ledger asks.",
        detail=where,
        hint="Point the connection of type mlops_ledger at a database in which its user may create tables.",
    )


def _may_pass(error: DBAPIError) -> bool:
    """True when the same statement may work later."""
    sqlite_error = getattr(error.orig, "sqlite_errorname", "")
    if sqlite_error.startswith(("SQLITE_ERROR", "SQLITE_READONLY")):  # no such column, no right to write
        return False
    # InternalError: a PostgreSQL that was primary a moment ago refuses to write.
    return isinstance(error, (OperationalError, InterfaceError, InternalError))


def _prepare_sqlite(connection: Any, _record: Any) -> None:
    connection.isolation_level = None  # the driver would begin by itself, and late; see _begin_sqlite
    [wait] = connection.execute("PRAGMA busy_timeout").fetchone()
    deadline = time.monotonic() + wait / 1000
    while True:
        try:
            connection.execute("PRAGMA journal_mode=WAL")
        except sqlite3.OperationalError as error:
            # To leave another mode needs the file to itself, and does not wait for it as other statements do.
            if error.sqlite_errorname != "SQLITE_BUSY" or time.monotonic() > deadline:
                raise
            time.sleep(0.02)
        else:
            return


def _begin_sqlite(connection: Connection) -> None:
    """Take the write lock at once: one that starts by reading cannot wait for it, it fails."""
    connection.exec_driver_sql("BEGIN IMMEDIATE" if connection.get_execution_options().get("write") else "BEGIN")


def _prepare_postgresql(connection: Any, _record: Any) -> None:
    with connection.cursor() as cursor:
        cursor.execute(f"SET lock_timeout = '{_LOCK_SECONDS}s'")
    connection.commit()
