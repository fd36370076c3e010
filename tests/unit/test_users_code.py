"""Which errors of the user's code are tried again."""

from __future__ import annotations

import io
import socket
import sqlite3
import ssl
import urllib.error
from email.message import Message
from pathlib import Path

import asyncpg
import botocore.exceptions
import duckdb
import grpc
import httpx
import psycopg2
import pytest
import requests
import sqlalchemy
import sqlalchemy.exc
from airflow.sdk.exceptions import AirflowFailException

from airflow_mlops.engine.users_code import is_transient, users_code
from airflow_mlops.exceptions import ConfigError, DataError, TransientError


def raised(call, *arguments) -> Exception:
    """What a call really raises."""
    with pytest.raises(Exception) as caught:
        call(*arguments)
    return caught.value


def answered(status: int) -> list[Exception]:
    """What the usual clients raise over an answer of a server."""
    request = httpx.Request("GET", "http://lake/")
    response = requests.Response()
    response.status_code = status
    return [
        urllib.error.HTTPError("http://lake/", status, "no", Message(), io.BytesIO()),
        raised(httpx.Response(status, request=request).raise_for_status),
        raised(response.raise_for_status),
        botocore.exceptions.ClientError({"ResponseMetadata": {"HTTPStatusCode": status}}, "GetObject"),
    ]


def wrapped(error: Exception) -> Exception:
    try:
        raise RuntimeError("the rates are not there") from error
    except RuntimeError as outer:
        return outer


def in_own_words(error: Exception) -> Exception:
    """What is raised while another one is handled, without saying from which."""
    try:
        try:
            raise error
        except Exception:
            raise RuntimeError("the rates are not there")  # noqa: B904
    except RuntimeError as outer:
        return outer


def unreachable() -> None:
    with grpc.insecure_channel("127.0.0.1:1") as channel:
        channel.unary_unary("/a/b")(b"", timeout=2)


def like(module: str, name: str) -> Exception:
    """An error of a library that is not installed here, by its names."""
    return type(name, (Exception,), {"__module__": module})()


def locked(folder: Path) -> Exception:
    first, second = (sqlite3.connect(folder / "rates.db", timeout=0, isolation_level=None) for _ in range(2))
    first.execute("CREATE TABLE rates (day)")
    first.execute("BEGIN EXCLUSIVE")
    error = raised(second.execute, "SELECT * FROM rates")
    first.close()
    second.close()
    return error


NOBODY = "postgresql+psycopg2://nobody@127.0.0.1:1/none"


def test_what_does_not_answer_is_tried_again(tmp_path):
    errors = [
        TransientError("not yet"),
        TimeoutError(),
        ConnectionResetError(),
        OSError(28, "No space left on device"),
        raised(socket.create_connection, ("127.0.0.1", 1)),
        raised(socket.getaddrinfo, "no.such.host.invalid", 80),
        raised(psycopg2.connect, "postgresql://nobody@127.0.0.1:1/none"),
        raised(sqlalchemy.create_engine(NOBODY).connect),
        sqlalchemy.exc.TimeoutError("the pool is empty"),
        sqlalchemy.exc.DisconnectionError(),
        raised(httpx.get, "http://127.0.0.1:1/"),
        raised(requests.get, "http://127.0.0.1:1/"),
        raised(duckdb.sql, "SELECT * FROM read_csv('/no/such/*.csv')"),
        botocore.exceptions.EndpointConnectionError(endpoint_url="http://127.0.0.1:1"),
        botocore.exceptions.ReadTimeoutError(endpoint_url="http://127.0.0.1:1"),
        locked(tmp_path),
        *answered(503),
        *answered(429),
        requests.ReadTimeout(),
        requests.exceptions.ProxyError(),
        asyncpg.ConnectionDoesNotExistError(),
        asyncpg.CannotConnectNowError(),
        raised(unreachable),
        like("snowflake.connector.errors", "OperationalError"),
        like("pyodbc", "OperationalError"),
        like("google.api_core.exceptions", "ServiceUnavailable"),
        wrapped(ConnectionResetError()),
        in_own_words(ConnectionResetError()),
        ExceptionGroup("two", [TimeoutError(), ConnectionResetError()]),
    ]
    assert [error for error in errors if not is_transient(error)] == []


def test_what_will_be_raised_again_is_final(tmp_path):
    in_memory = sqlalchemy.create_engine("sqlite://").connect()
    errors = [
        KeyError("carrier"),
        ValueError("no"),
        DataError("no"),
        raised(Path("/no/such/file").read_bytes),
        raised(tmp_path.read_bytes),
        raised(tmp_path.mkdir),
        PermissionError(13, "no"),
        ssl.SSLCertVerificationError("self-signed certificate"),
        io.UnsupportedOperation("not readable"),
        raised(requests.get, "lake/rates"),
        raised(sqlite3.connect(":memory:").execute, "SELECT * FROM rates"),
        raised(in_memory.execute, sqlalchemy.text("SELECT * FROM rates")),
        raised(duckdb.sql, "SELECT * FROM rates"),
        botocore.exceptions.NoCredentialsError(),
        *answered(404),
        *answered(401),
        requests.exceptions.MissingSchema(),
        AirflowFailException("no"),
        like("snowflake.connector.errors", "ProgrammingError"),
        wrapped(KeyError("carrier")),
        in_own_words(KeyError("carrier")),
        ExceptionGroup("two", [TimeoutError(), KeyError("carrier")]),
    ]
    assert [error for error in errors if is_transient(error)] == []


def test_an_error_of_the_users_code_keeps_its_words():
    told = (DataError, "The code", "day 1", "Mend it.")
    words = r"The code raised KeyError(.|\n)*day 1: 'carrier'(.|\n)*fix: +Mend it"
    with pytest.raises(DataError, match=words), users_code(*told):
        raise KeyError("carrier")
    with pytest.raises(TransientError, match=r"The code raised TimeoutError(.|\n)*tried again"), users_code(*told):
        raise TimeoutError
    with pytest.raises(ConfigError, match=r"^Mine\.$"), users_code(DataError, "The code"):
        raise ConfigError("Mine.")


def test_it_says_where_in_the_users_code():
    with pytest.raises(DataError, match=r"test_users_code\.py:\d+, in looks"), users_code(DataError, "The code"):

        def looks() -> None:
            raise KeyError("carrier")

        looks()


@pytest.mark.parametrize("library", ["adbc_driver_manager", "hdbcli.dbapi", "pymssql", "pg8000.exceptions"])
def test_every_driver_says_it_in_the_words_of_pep_249(library: str):
    told: dict[str, type[Exception]] = {"Error": type("Error", (Exception,), {"__module__": library})}
    for name, base in (("DatabaseError", "Error"), ("InterfaceError", "Error"), ("OperationalError", "DatabaseError")):
        told[name] = type(name, (told[base],), {"__module__": library})
    wrong = type("ProgrammingError", (told["DatabaseError"],), {"__module__": library})
    for name in ("InterfaceError", "OperationalError"):
        assert is_transient(told[name]("gone"))
        assert is_transient(sqlalchemy.exc.OperationalError("SELECT 1", {}, told[name]("gone")))
    assert not is_transient(wrong("no such column"))
    assert not is_transient(sqlalchemy.exc.ProgrammingError("SELECT 1", {}, wrong("no such column")))
    assert not is_transient(type("OperationalError", (Exception,), {"__module__": "theirs"})("who knows what it means"))
