"""The ledger: tables that outlive every run.

*Facts* are appended and never changed: what was sealed, judged, deployed, rolled back, on which inputs.
*Pointers* are the few values that move, such as what a server should serve; they move by compare-and-set, so
that of two writers exactly one wins and the other knows.
"""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from typing import Any

from sqlalchemy import Connection, Engine, Integer, Select, bindparam, insert, select, update
from sqlalchemy.exc import DBAPIError, IntegrityError

from airflow_mlops.engine.ledger import database, schema
from airflow_mlops.engine.ledger.models import FactRow, PointerRow
from airflow_mlops.engine.ledger.payloads import as_json, check_names
from airflow_mlops.exceptions import TransientError

_MOVE_ATTEMPTS = 50
_READING: ContextVar[tuple[Ledger, Connection] | None] = ContextVar("_READING", default=None)


@dataclass(frozen=True)
class Fact:
    """Something that happened. ``at`` is UTC."""

    id: int
    kind: str
    subject: str
    key: str
    at: datetime
    payload: dict[str, Any]


@dataclass(frozen=True)
class Pointer:
    """The present value of something that moves; ``revision`` counts its moves."""

    value: dict[str, Any]
    revision: int


class Ledger:
    """Facts and pointers in SQLite or PostgreSQL. Instances are cheap; the schema is made or upgraded on first use.

    Every method raises ``TransientError`` when the database does not answer, or stays locked for 30 seconds, and
    ``ConfigError`` when it refuses us or was written by a newer release.

    :param url: SQLAlchemy URL, ``sqlite:///…`` or ``postgresql+psycopg2://…``.
    :raises ConfigError: when the URL is not one, or of another database.
    """

    def __init__(self, url: str) -> None:
        database.parse(url)
        self.url = url
        self._engine: Engine | None = None
        self._process = 0

    def record(self, kind: str, subject: str, payload: Mapping[str, Any], *, key: str = "") -> int:
        """Append a fact and return its id.

        :param kind: What sort of fact: ``verdict``, ``deployment``, ``partition``, …
        :param subject: What it is about: a model, a dataset.
        :param payload: Details; see :func:`~airflow_mlops.engine.ledger.payloads.as_json` for what it may hold.
        :param key: Which one of the subject's: a partition key, a snapshot id.
        :raises ConfigError: when the payload has no JSON form, or a name cannot be kept.
        """
        check_names(kind=kind, subject=subject, key=key)
        row = {"kind": kind, "subject": subject, "key": key, "at": datetime.now(UTC).isoformat()}
        with self.transaction(write=True) as connection:
            added = insert(FactRow).values(**row, payload=as_json(payload)).returning(FactRow.id)
            return int(connection.execute(added).scalar_one())

    def facts(
        self,
        kind: str,
        subject: str | None = None,
        *,
        key: str | None = None,
        after_key: str | None = None,
        limit: int | None = 100,
    ) -> list[Fact]:
        """Return the newest facts of a kind, newest first.

        :param subject: Only those about this one.
        :param key: Only those with this key.
        :param after_key: Only those whose keys come after this one, as those of partitions do in time.
        :param limit: At most so many; None for all.
        :raises ConfigError: when a name cannot be one of a fact.
        """
        check_names(kind=kind, subject=subject, key=key, after_key=after_key)
        values = {"kind": kind, "subject": subject, "key": key, "after_key": after_key, "limit": limit}
        given = {name: value for name, value in values.items() if value is not None}
        with self.transaction() as connection:
            rows = connection.execute(_facts_query(frozenset(given)), given).mappings().all()
        return [Fact(**{**row, "at": datetime.fromisoformat(row["at"])}) for row in rows]

    def pointer(self, name: str) -> Pointer | None:
        """Return a pointer's present value, or None when it was never set.

        :raises ConfigError: when the name cannot be one.
        """
        check_names(name=name)
        with self.transaction() as connection:
            row = connection.execute(_POINTER, {"name": name}).first()
        return None if row is None else Pointer(value=row.value, revision=row.revision)

    def pointers(self, prefix: str) -> dict[str, Pointer]:
        """Return the present values of all pointers whose names start so, in order of their names.

        :raises ConfigError: when the prefix cannot be part of a name.
        """
        check_names(prefix=prefix)
        query = select(PointerRow.name, PointerRow.value, PointerRow.revision).order_by(PointerRow.name)
        query = query.where(PointerRow.name.startswith(prefix, autoescape=True))
        with self.transaction() as connection:
            rows = connection.execute(query).all()
        return {row.name: Pointer(value=row.value, revision=row.revision) for row in rows}

    def swap(self, name: str, value: Mapping[str, Any], expected: Pointer | None) -> bool:
        """Set a pointer if nobody moved it since ``expected`` was read (None: it was not set).

        :returns: False when somebody did; read it again and decide anew.
        :raises ConfigError: when the value has no JSON form, or the name cannot be kept.
        """
        check_names(name=name)
        stored = as_json(value, "value")
        try:
            with self.transaction(write=True) as connection:
                if expected is None:
                    connection.execute(insert(PointerRow).values(name=name, revision=1, value=stored))
                    return True
                moved = connection.execute(
                    update(PointerRow)
                    .where(PointerRow.name == name, PointerRow.revision == expected.revision)
                    .values(value=stored, revision=expected.revision + 1)
                )
                return moved.rowcount == 1
        except IntegrityError:
            return False

    def move(self, name: str, change: Callable[[dict[str, Any] | None], Mapping[str, Any] | None]) -> Pointer | None:
        """Read a pointer, change its value and set it; again from the start when somebody else moved it meanwhile.

        :param change: Makes the new value of the present one (None: not set); None leaves it as it is. It may be
            called several times, so it must have no effects.
        :returns: The pointer as it is now.
        :raises TransientError: when others kept moving it.
        """
        for attempt in range(_MOVE_ATTEMPTS):
            before = self.pointer(name)
            value = change(None if before is None else before.value)
            if value is None:
                return before
            if self.swap(name, value, before):
                return Pointer(value=as_json(value), revision=1 if before is None else before.revision + 1)
            time.sleep(random.uniform(0, min(0.002 * 2**attempt, 0.2)))
        raise TransientError(
            f"The ledger's pointer {name!r} is moved by others all the time.",
            detail=f"{_MOVE_ATTEMPTS} attempts to set it were overtaken",
            hint="Try again; if it goes on, run fewer tasks at once that move it.",
        )

    def check(self) -> str:
        """Connect once; say to what, and the version of the schema there."""
        with self.transaction() as connection:
            return f"{connection.dialect.name} answers, ledger schema {schema.version(connection)}"

    @contextmanager
    def reading(self) -> Iterator[None]:
        """Let all that this thread reads within the block be of one moment, and of one transaction."""
        with self.transaction() as connection:
            token = _READING.set((self, connection))
            try:
                yield
            finally:
                _READING.reset(token)

    @contextmanager
    def transaction(self, *, write: bool = False) -> Iterator[Connection]:
        """Open a transaction for tables that have rows of their own, such as the requests for training.

        :param write: Whether it writes: on SQLite the lock for that is taken at once.
        """
        held = _READING.get()
        if held is not None and held[0] is self and not write:
            yield held[1]
            return
        try:
            if self._engine is None:
                engine = database.engine(self.url)
                schema.ensure(engine)
                self._engine, self._process = engine, os.getpid()
            elif self._process != os.getpid():
                # A fork has its parent's connections: two that speak on one would wait for each other's answers.
                self._engine.dispose(close=False)
                self._process = os.getpid()
            with self._engine.execution_options(write=write).begin() as connection:
                yield connection
        except IntegrityError:
            raise
        except DBAPIError as error:
            raise database.explained(error, self.url) from None


_POINTER = select(PointerRow.value, PointerRow.revision).where(PointerRow.name == bindparam("name"))


@cache
def _facts_query(given: frozenset[str]) -> Select[Any]:
    """Return the query for facts by the names of what is given: making one takes as long as running it."""
    query = select(FactRow.__table__).where(FactRow.kind == bindparam("kind")).order_by(FactRow.id.desc())
    if "subject" in given:
        query = query.where(FactRow.subject == bindparam("subject"))
    if "key" in given:
        query = query.where(FactRow.key == bindparam("key"))
    if "after_key" in given:
        query = query.where(FactRow.key > bindparam("after_key"))
    return query.limit(bindparam("limit", type_=Integer)) if "limit" in given else query
