"""The ledger: two tables that outlive every run.

*Facts* are appended and never changed: what was sealed, judged, deployed, rolled back, on which inputs.
*Pointers* are the few values that move, such as what a server should serve; they move by compare-and-set, so
that of two writers exactly one wins and the other knows.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import JSON, Engine, create_engine, event, insert, select, update
from sqlalchemy.exc import DBAPIError, IntegrityError, OperationalError, ProgrammingError
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from airflow_mlops.exceptions import TransientError


class _Base(DeclarativeBase):
    type_annotation_map = {dict[str, Any]: JSON}


class _FactRow(_Base):
    __tablename__ = "mlops_fact"

    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=True)
    kind: Mapped[str] = mapped_column(index=True)
    subject: Mapped[str] = mapped_column(index=True)
    at: Mapped[str]
    payload: Mapped[dict[str, Any]]


class _PointerRow(_Base):
    __tablename__ = "mlops_pointer"

    name: Mapped[str] = mapped_column(primary_key=True)
    revision: Mapped[int]
    value: Mapped[dict[str, Any]]


@dataclass(frozen=True)
class Fact:
    """Something that happened. ``at`` is UTC."""

    id: int
    kind: str
    subject: str
    at: datetime
    payload: dict[str, Any]


@dataclass(frozen=True)
class Pointer:
    """The present value of something that moves; ``revision`` counts its moves."""

    value: dict[str, Any]
    revision: int


class Ledger:
    """Facts and pointers in SQLite or PostgreSQL. Instances are cheap; tables are made on first use.

    :param url: SQLAlchemy URL, ``sqlite:///…`` or ``postgresql+psycopg2://…``.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        self._engine: Engine | None = None

    def record(self, kind: str, subject: str, payload: Mapping[str, Any]) -> int:
        """Append a fact and return its id.

        :param kind: What sort of fact: ``verdict``, ``deployment``, ``partition``, …
        :param subject: What it is about: a model, a dataset.
        :param payload: JSON-able details.
        :raises TransientError: when the database does not answer.
        """
        row = {"kind": kind, "subject": subject, "at": datetime.now(UTC).isoformat(), "payload": dict(payload)}
        with self._begin() as connection:
            return int(connection.execute(insert(_FactRow).returning(_FactRow.id), row).scalar_one())

    def facts(self, kind: str, subject: str, limit: int = 100) -> list[Fact]:
        """Return the newest facts of a kind about a subject, newest first."""
        query = (
            select(_FactRow.__table__)
            .where(_FactRow.kind == kind, _FactRow.subject == subject)
            .order_by(_FactRow.id.desc())
            .limit(limit)
        )
        with self._begin() as connection:
            rows = connection.execute(query).mappings().all()
        return [Fact(**{**row, "at": datetime.fromisoformat(row["at"])}) for row in rows]

    def pointer(self, name: str) -> Pointer | None:
        """Return a pointer's present value, or None when it was never set."""
        query = select(_PointerRow.value, _PointerRow.revision).where(_PointerRow.name == name)
        with self._begin() as connection:
            row = connection.execute(query).first()
        return None if row is None else Pointer(value=row.value, revision=row.revision)

    def swap(self, name: str, value: Mapping[str, Any], expected: Pointer | None) -> bool:
        """Set a pointer if nobody moved it since ``expected`` was read (None: it was not set).

        :returns: False when somebody did; read it again and decide anew.
        """
        try:
            with self._begin() as connection:
                if expected is None:
                    row = {"name": name, "revision": 1, "value": dict(value)}
                    connection.execute(insert(_PointerRow), row)
                    return True
                moved = connection.execute(
                    update(_PointerRow)
                    .where(_PointerRow.name == name, _PointerRow.revision == expected.revision)
                    .values(value=dict(value), revision=expected.revision + 1)
                )
                return moved.rowcount == 1
        except IntegrityError:
            return False

    def check(self) -> str:
        """Connect once and say to what."""
        with self._begin() as connection:
            connection.execute(select(1))
            return f"{connection.dialect.name} answers"

    def _begin(self) -> Any:
        try:
            return self._connected().begin()
        except OperationalError as error:
            raise self._down(error) from None

    def _connected(self) -> Engine:
        if self._engine is None:
            engine = create_engine(self.url, pool_pre_ping=True)
            if engine.dialect.name == "sqlite":
                event.listen(engine, "connect", _prepare_sqlite)
            try:
                _create_tables(engine)
            except OperationalError as error:
                raise self._down(error) from None
            self._engine = engine
        return self._engine

    def _down(self, error: DBAPIError) -> TransientError:
        return TransientError(
            "The ledger's database does not answer.",
            detail=str(error.orig).strip().splitlines()[0],
            hint="Check the connection of type mlops_ledger and that its database is up.",
        )


def _prepare_sqlite(connection: Any, _record: Any) -> None:
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA busy_timeout=30000")


def _create_tables(engine: Engine) -> None:
    """Create the tables. Several processes may come first at once: the losers find them made."""
    try:
        _Base.metadata.create_all(engine)
    except (IntegrityError, ProgrammingError, OperationalError):
        _Base.metadata.create_all(engine)
