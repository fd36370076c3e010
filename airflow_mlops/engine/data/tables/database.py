"""A database that Airflow's hooks open; what it says against a query comes back in words, without a password."""

from __future__ import annotations

import contextlib
import importlib
import re
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple
from urllib.parse import quote, quote_plus

from airflow_mlops.engine.users_code import TRIED_AGAIN, is_transient
from airflow_mlops.exceptions import ConfigError, DataError, MlopsError, TransientError

_QUOTES = {"psycopg": '"', "psycopg2": '"', "sqlite3": '"', "pymysql": "`", "MySQLdb": "`", "mysql": "`"}
_IN_ADDRESS = re.compile(r"(://[^\s:/@]*:)[^\s@]+(@)")
_IN_WORDS = re.compile(r"(?i)\b(pass(?:word|wd)?|secret|token)(\s*[=:]\s*)('[^']*'|\S+)")
_NO_ENTRY = re.compile(
    r"(?i)authentication failed|no password supplied|access denied|pg_hba|role .* does not exist"
    r"|database .* does not exist|unknown database|unable to open database file"
)
_NOT_THERE = re.compile(r"(?i)no such (table|column|function)|does not exist|doesn't exist|unknown column|not found")
_CLASSES = {
    "28": "entry", "3D": "entry", "42": "query", "3F": "query", "22": "values", "0A": "query", "25": "query",
    "1045": "entry", "1044": "entry", "1049": "entry", "1142": "query", "1146": "query", "1054": "query",
    "1064": "query",
}  # fmt: skip
_HINTS = {
    "entry": "See host, database, login and password of the Airflow connection.",
    "query": "Correct the table, the columns or the query, or let the login of the connection read them.",
    "values": "A value of the table does not go through the query: correct it there, or in the query.",
}


class Driver(NamedTuple):
    """What a DB-API module does in its own way: how it marks parameters, and how names are quoted ('' if unknown)."""

    name: str
    paramstyle: str
    quote: str


class Database:
    """A database, not opened yet.

    :param name: How it is called in errors and receipts: the id of its Airflow connection, never its address.
    :param connect: Opens a DB-API 2 connection.
    :param secrets: Texts that must be in no message.
    """

    def __init__(self, name: str, connect: Callable[[], Any], secrets: Sequence[str] = ()) -> None:
        self.name = name
        self._connect = connect
        self._secrets = sorted({form for text in secrets if text for form in _forms(text)}, key=len, reverse=True)

    @contextmanager
    def session(self, what: str = "") -> Iterator[Any]:
        """Open a connection for a block, close it after, and say in words what goes wrong in between.

        :param what: What is asked for, in errors: the table.
        :raises TransientError: when the database does not answer.
        :raises ConfigError: when it refuses the login or the query.
        :raises DataError: when a value does not go through the query.
        """
        connection = None
        try:
            connection = self._connect()
            yield connection
        except MlopsError:
            raise
        except Exception as error:
            if not _of_driver(error, connection):
                raise
            raise self._in_words(error, what, opened=connection is not None) from None
        finally:
            if connection is not None:
                with contextlib.suppress(Exception):
                    connection.close()

    def scrubbed(self, text: str) -> str:
        """Return a text without what is secret."""
        for secret in self._secrets:
            text = text.replace(secret, "***")
        return _IN_WORDS.sub(r"\1\2***", _IN_ADDRESS.sub(r"\1***\2", text))

    def _in_words(self, error: Exception, what: str, *, opened: bool) -> MlopsError:
        said = self.scrubbed("; ".join(line.strip() for line in str(error).splitlines()[:3]))
        where = f"{self.name}{':' if what else ''}{what}: {said or type(error).__name__}"
        kind = _kind(error, said)
        if kind == "entry":
            return ConfigError(
                f"The database of Airflow connection {self.name!r} refuses the login.",
                detail=where,
                hint=_HINTS[kind],
            )
        if kind is None and is_transient(error):
            return TransientError(
                f"The database of Airflow connection {self.name!r} does not answer.", detail=where, hint=TRIED_AGAIN
            )
        if not opened:
            return ConfigError(
                f"The database of Airflow connection {self.name!r} cannot be opened.",
                detail=where,
                hint=_HINTS["entry"],
            )
        refused = DataError if kind == "values" else ConfigError
        return refused(
            f"The database of Airflow connection {self.name!r} refuses the query.",
            detail=where,
            hint=_HINTS[kind or "query"],
        )


def driver_of(connection: Any) -> Driver:
    """Return what is known of the module that a connection comes from."""
    module = type(connection).__module__
    root, style = module.partition(".")[0], ""
    while module and not style:  # snowflake.connector.connection: two modules up
        with contextlib.suppress(ImportError):
            style = getattr(importlib.import_module(module), "paramstyle", "")
        module = module.rpartition(".")[0]
    return Driver(root, style or "pyformat", _QUOTES.get(root, ""))


def _of_driver(error: Exception, connection: Any) -> bool:
    """Return whether an error is the database's, and not this package's own."""
    if connection is None or isinstance(error, sqlite3.Error):
        return True
    ours = type(connection).__module__.partition(".")[0]
    return any(kind.__module__.partition(".")[0] == ours for kind in type(error).__mro__)


def _kind(error: Exception, said: str) -> str | None:
    """Return what an error is about; None where that is not known."""
    code = str(getattr(error, "sqlstate", None) or getattr(error, "pgcode", None) or "")
    number = str(error.args[0]) if error.args and isinstance(error.args[0], int) else ""
    found = _CLASSES.get(code[:2]) or _CLASSES.get(number)
    if found or code or number:
        return found
    if _NO_ENTRY.search(said):
        return "entry"
    return "query" if _NOT_THERE.search(said) else None


def _forms(secret: str) -> set[str]:
    """Return how a secret may be written in a message: plain, or as part of an address."""
    return {secret, quote(secret, safe=""), quote_plus(secret)}
