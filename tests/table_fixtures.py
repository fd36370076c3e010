"""Databases with tables, real: PostgreSQL from a wheel, SQLite, and the machine's MariaDB where there is one."""

from __future__ import annotations

import contextlib
import functools
import os
import shutil
import sqlite3
import subprocess
import tempfile
import time
import uuid
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import make_url

from airflow_mlops.engine.data.tables.database import Database
from tests.ledger_fixtures import postgres_server

PASSWORD = "sw0rdfish@/secret"
MARIADB = shutil.which("mariadbd", path=f"{os.environ['PATH']}:/usr/sbin")


class Tables:
    """An empty database of one's own."""

    name = "shop_db"
    driver = ""

    def connect(self) -> Any:
        """Open a connection."""
        raise NotImplementedError

    def run(self, *statements: str) -> None:
        """Execute statements, and commit."""
        with contextlib.closing(self.connect()) as connection:
            cursor = connection.cursor()
            for statement in statements:
                cursor.execute(statement)
            connection.commit()

    @property
    def database(self) -> Database:
        """What the engine is given."""
        return Database(self.name, self.connect)


class Postgres(Tables):
    """A schema in the PostgreSQL of this process; the login has a password."""

    driver = "psycopg"

    def __init__(self) -> None:
        self.schema = f"s{uuid.uuid4().hex[:8]}"
        with contextlib.closing(self._as("postgres")) as connection:
            connection.autocommit = True
            connection.execute(f"CREATE ROLE {self.schema} LOGIN PASSWORD '{PASSWORD}'")
            connection.execute(f"CREATE SCHEMA {self.schema} AUTHORIZATION {self.schema}")

    def connect(self) -> Any:
        return self._as(self.schema)

    @property
    def host(self) -> str:
        """Folder of the server's socket."""
        return str(make_url(postgres_server()).query["host"])

    def _as(self, user: str) -> Any:
        import psycopg

        return psycopg.connect(host=self.host, user=user, password=PASSWORD, dbname="postgres")


class Psycopg2(Postgres):
    """The same by psycopg2, which is not copied from: as of Redshift, rows come by a cursor of the server's."""

    driver = "psycopg2"

    def _as(self, user: str) -> Any:
        import psycopg2

        if user == "postgres":
            return super()._as(user)
        return psycopg2.connect(host=self.host, user=user, password=PASSWORD, dbname="postgres")


class Sqlite(Tables):
    """A file."""

    driver = "sqlite3"

    def __init__(self, folder: Path) -> None:
        self.file = folder / "shop.db"

    def connect(self) -> Any:
        return sqlite3.connect(self.file)


class Mysql(Tables):
    """A database in the MariaDB of this process."""

    driver = "pymysql"

    def __init__(self) -> None:
        self.schema = f"s{uuid.uuid4().hex[:8]}"
        with contextlib.closing(self._in(None)) as connection:
            connection.cursor().execute(f"CREATE DATABASE {self.schema}")

    def connect(self) -> Any:
        return self._in(self.schema)

    def _in(self, database: str | None) -> Any:
        import pymysql

        return pymysql.connect(unix_socket=mariadb_socket(), user="root", database=database)


@functools.cache
def mariadb_socket() -> str:
    """Return the socket of a running MariaDB: one for all tests of this process, gone with it."""
    import atexit

    import pymysql

    folder = Path(tempfile.mkdtemp(prefix="mlops-tests-mariadb-"))
    (folder / "data").mkdir()
    socket = folder / "s"
    command = [MARIADB, "--no-defaults", f"--datadir={folder / 'data'}", f"--socket={socket}"]
    command += ["--skip-networking", "--skip-grant-tables", *(["--user=root"] if os.getuid() == 0 else [])]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def stop() -> None:
        server.terminate()
        server.wait(30)
        shutil.rmtree(folder, ignore_errors=True)

    atexit.register(stop)
    for _ in range(300):
        with contextlib.suppress(pymysql.OperationalError):
            pymysql.connect(unix_socket=str(socket), user="root").close()
            return str(socket)
        time.sleep(0.1)
    raise TimeoutError(socket)


needs_mariadb = pytest.mark.skipif(
    MARIADB is None and "CI" not in os.environ, reason="no MariaDB (Debian: apt-get install mariadb-server-core)"
)
EVERY = ["postgres", "psycopg2", "sqlite", pytest.param("mysql", marks=needs_mariadb)]


def made(which: str, folder: Path) -> Tables:
    """Return an empty database."""
    kinds = {"postgres": Postgres, "psycopg2": Psycopg2, "mysql": Mysql}
    return Sqlite(folder) if which == "sqlite" else kinds[which]()
