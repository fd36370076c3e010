"""What code of the user raises: an error that may pass, which Airflow retries, or one that will not.

An error is told by the library that it comes from, by name, so nothing is imported to look for it.
"""

from __future__ import annotations

import sqlite3
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from gzip import BadGzipFile
from pathlib import Path
from typing import Any

from airflow_mlops.exceptions import MlopsError, TransientError

_FINAL = (
    FileNotFoundError,
    FileExistsError,
    IsADirectoryError,
    NotADirectoryError,
    PermissionError,
    BadGzipFile,
    ValueError,
)
"""Of ``OSError``: what is wrong with a path or a content that the code itself named, which nothing mends by itself. A
``ValueError`` that is both is a certificate that does not verify, or a file that is not open for writing."""

_PASSING: dict[str, set[str]] = {
    "aiohttp": {"ClientConnectionError", "ClientPayloadError", "ServerTimeoutError"},
    "asyncpg": {"PostgresConnectionError", "CannotConnectNowError", "InterfaceError"},
    "botocore": {"HTTPClientError", "ConnectionError", "ConnectionClosedError", "EndpointConnectionError"},
    "cassandra": {"NoHostAvailable", "OperationTimedOut"},
    "clickhouse_connect": {"OperationalError"},
    "databricks": {"OperationalError", "RequestError"},
    "_duckdb": {"IOException"},
    "duckdb": {"IOException"},
    "google": {"ServiceUnavailable", "TooManyRequests", "DeadlineExceeded", "GatewayTimeout", "RetryError"},
    "http": {"RemoteDisconnected", "IncompleteRead"},
    "httpx": {"TransportError"},
    "oracledb": {"OperationalError", "InterfaceError"},
    "psycopg": {"OperationalError", "InterfaceError"},
    "psycopg2": {"OperationalError", "InterfaceError"},
    "pymongo": {"ConnectionFailure"},
    "pyodbc": {"OperationalError", "InterfaceError"},
    "redis": {"ConnectionError", "TimeoutError"},
    "requests": {"ConnectionError", "Timeout", "ChunkedEncodingError"},
    "snowflake": {"OperationalError", "InterfaceError"},
    "sqlalchemy": {"DisconnectionError", "TimeoutError"},
    "trino": {"TrinoConnectionError"},
    "urllib3": {"TimeoutError", "ProtocolError", "MaxRetryError", "NewConnectionError"},
}
"""Library → its errors, and all that derive from them, that say that something did not answer."""

_OURS = str(Path(__file__).parent.parent)

_NO_ANSWER = {"OperationalError", "InterfaceError", "FlightUnavailableError", "FlightTimedOutError"}
"""Errors of any database driver (PEP 249), and of Arrow Flight, that say so."""

_MYSQL = {1040, 1053, 1205, 1213}
"""Too many connections, shutdown, lock wait, deadlock; from 2000 on the client lost the server."""

_SQLITE = {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_FULL}

_GRPC = {"UNAVAILABLE", "DEADLINE_EXCEEDED", "RESOURCE_EXHAUSTED", "ABORTED"}

_STATUS = {408, 425, 429}
"""HTTP: too slow, too early, too many requests; from 500 on it is the server's fault."""


TRIED_AGAIN = "What it reached for did not answer. The same may work later, so the task is tried again."


def is_transient(error: BaseException) -> bool:
    """Return whether what the user's code raised may not be raised again: then Airflow retries it.

    That is a :class:`~airflow_mlops.exceptions.TransientError`, a ``TimeoutError``, an ``OSError`` (network, disk), an
    HTTP status of a server in trouble, or that a database or a service does not answer. A file that is not there or
    may not be opened is none: code that waits for one must say so with ``TransientError``. What an error was raised
    from, or while handling, counts, so that one's own words around a lost connection are retried too.
    """
    if isinstance(error, MlopsError):
        return error.retryable
    if isinstance(error, BaseExceptionGroup):
        return all(is_transient(one) for one in error.exceptions)
    known = _known(error)
    if known is not None:
        return known
    before = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    return before is not None and is_transient(before)


@contextmanager
def users_code(kind: type[MlopsError], headline: str, detail: str = "", hint: str = "") -> Iterator[None]:
    """Turn what the user's code raises into an error in words.

    :param kind: What to raise if a retry cannot help.
    :param headline: What was being done; the error's type is added.
    :raises TransientError: when it may pass.
    """
    try:
        yield
    except MlopsError:
        raise
    except (Exception, SystemExit) as error:
        passing = is_transient(error)
        raise (TransientError if passing else kind)(
            f"{headline} raised {type(error).__name__}.",
            detail=": ".join(filter(None, [detail, f"{error}{_place(error)}"])),
            hint=TRIED_AGAIN if passing else hint,
        ) from error


def _place(error: BaseException) -> str:
    """Return where in the user's code an error was raised: the last file that is no library's."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [one for one in frames if "site-packages" not in one.filename and not one.filename.startswith(_OURS)]
    return f" ({Path(own[-1].filename).name}:{own[-1].lineno}, in {own[-1].name})" if own else ""


def _known(error: BaseException) -> bool | None:
    """Return what is known of the type of an error; None when nothing is."""
    status = _http_status(error)
    if status is not None:
        return status >= 500 or status in _STATUS
    if isinstance(error, sqlite3.Error):
        return getattr(error, "sqlite_errorcode", 0) & 0xFF in _SQLITE
    for base in type(error).__mro__:
        library = base.__module__.partition(".")[0]
        if library == "sqlalchemy" and base.__name__ == "DBAPIError":
            return _of_database(error)
        if library in ("pymysql", "MySQLdb", "mysql") and base.__name__ in ("OperationalError", "InterfaceError"):
            code = error.args[0] if error.args else 0
            return not isinstance(code, int) or code in _MYSQL or code == 0 or 2000 <= code < 3000
        if base.__name__ in _PASSING.get(library, ()):
            return True
        if library != "sqlalchemy" and base.__name__ in _NO_ANSWER and _is_driver(base):
            return True
        if library == "grpc" and base.__name__ == "RpcError":
            return getattr(getattr(error, "code", lambda: None)(), "name", "") in _GRPC
    if type(error).__module__.partition(".")[0] == "requests":
        return False  # all its errors are of OSError too, a misspelt address as well
    return not isinstance(error, _FINAL) if isinstance(error, OSError) else None


def _is_driver(kind: type[BaseException]) -> bool:
    """Return whether an error is of a database driver: PEP 249 and Arrow Flight name what theirs derive from."""
    return bool({base.__name__ for base in kind.__mro__[1:]} & {"DatabaseError", "Error", "FlightError"})


def _of_database(error: Any) -> bool:
    return bool(error.connection_invalidated) or (error.orig is not None and is_transient(error.orig))


def _http_status(error: Any) -> int | None:
    """Return the status that a server answered with, as the usual clients keep it."""
    if any(base.__name__ == "AirflowException" for base in type(error).__mro__):
        return None  # each has a status of 500, which is for Airflow's own API
    answer = getattr(error, "response", None)
    if isinstance(answer, dict):  # botocore
        found = answer.get("ResponseMetadata", {}).get("HTTPStatusCode")
    else:
        found = getattr(answer, "status_code", None) or getattr(error, "status_code", None)
        if found is None and type(error).__name__ in ("HTTPError", "ClientResponseError"):  # urllib, aiohttp
            found = getattr(error, "code", None) or getattr(error, "status", None)
    return found if isinstance(found, int) else None
