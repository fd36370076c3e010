"""What is asked of a table for one partition: a statement, whose bounds are parameters and never part of its text."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Any, Literal, NamedTuple
from zoneinfo import ZoneInfo

from airflow_mlops.engine.data.parquet import listing
from airflow_mlops.engine.data.tables.database import Driver
from airflow_mlops.exceptions import ConfigError, did_you_mean

Kind = Literal["aware", "naive", "text", "text T"]
"""What a database keeps its event times as: with a zone, without one, or as a text, with a space or a T in it."""

_BOUND = re.compile(r"\{(\w+)\}")
_PLAIN = re.compile(r"[A-Za-z_][\w$]*")
_MINUTE = timedelta(minutes=1)


class Bound(NamedTuple):
    """A statement as a driver takes it, and its parameters."""

    text: str
    parameters: Any


@dataclass(frozen=True)
class Selection:
    """A table or a query, and the columns that matter.

    :param event_time: Column of the event times.
    :param table: Table, with its schema where needed.
    :param query: Instead of it, a query with ``{start}`` and ``{end}``.
    :param columns: Columns of the table; none means all.
    :param updated_at: Column of when a row was last changed.
    """

    event_time: str
    table: str = ""
    query: str = ""
    columns: Sequence[str] = ()
    updated_at: str = ""

    @property
    def name(self) -> str:
        """How it is called in receipts and errors."""
        return self.table or f"query {hashlib.sha256(self.query.encode()).hexdigest()[:8]}"

    def all_rows(self, driver: Driver) -> str:
        """Return what is selected from to see which columns there are."""
        return quoted(self.table, driver) if self.table else f"({self._query})"

    def statement(self, names: Sequence[str], driver: Driver, kind: Kind) -> str:
        """Return the statement for the rows of one partition, with ``{start}`` and ``{end}`` in it."""
        if self.query:
            return self._query
        at = self.compared(driver, kind)
        columns = ", ".join(quoted(name, driver, whole=True) for name in names)
        return f"SELECT {columns} FROM {self.all_rows(driver)} WHERE {at} >= {{start}} AND {at} < {{end}}"

    def compared(self, driver: Driver, kind: Kind) -> str:
        """Return the event time as it is compared with a bound: of texts what SQLite reads from them."""
        at = quoted(self.event_time, driver, whole=True)
        return f"datetime({at})" if kind.startswith("text") else at

    def checked(self, found: Sequence[str], where: str) -> list[str]:
        """Return the columns to read, of those that are there.

        :raises ConfigError: when one is missing, or two have one name.
        """
        repeated = [name for name in dict.fromkeys(found) if list(found).count(name) > 1]
        if repeated:
            raise ConfigError(
                f"The query returns the column {listing(map(repr, repeated))} more than once.",
                detail=f"{where}: {len(found)} columns, {len(set(found))} different names",
                hint="Name the columns of the joined tables, and rename those that are named alike: SELECT o.id, c.id "
                "AS customer_id.",
            )
        wanted = [*self.columns, self.event_time, *filter(None, [self.updated_at])]
        for name in wanted:
            if name not in found:
                raise ConfigError(
                    f"There is no column {name!r}.{_meant(name, found)}",
                    detail=f"{where} has: {listing(sorted(found))}",
                    hint="Correct event_time=, updated_at= or columns=; names are taken as the database keeps them.",
                )
        return list(self.columns or found)

    @property
    def _query(self) -> str:
        return self.query.strip().rstrip(";").rstrip() + "\n"  # a comment at its end does not swallow what follows


def quoted(name: str, driver: Driver, *, whole: bool = False) -> str:
    """Return a name as it is written in a statement.

    :param whole: A dot in it is part of the name, and does not come after a schema.
    :raises ConfigError: when it cannot be.
    """
    parts = [name] if whole else name.split(".")
    mark = driver.quote
    if mark and all(parts) and "\0" not in name:
        return ".".join(f"{mark}{part.replace(mark, mark * 2)}{mark}" for part in parts)
    if all(_PLAIN.fullmatch(part) for part in parts):
        return ".".join(parts)
    raise ConfigError(
        f"{name!r} cannot be the name of a table or column here.",
        detail=f"driver {driver.name}: letters, digits and '_' only",
        hint="Write a query instead: SQLSource(query=...).",
    )


def bind(statement: str, parameters: Mapping[str, Any], driver: Driver) -> Bound:
    """Return a statement as a driver takes it, with its ``{name}`` as parameters."""
    percent = driver.paramstyle in ("format", "pyformat")
    text, values, last = "", [], 0
    names: dict[str, Any] = {}
    for found in _BOUND.finditer(statement):
        if (name := found[1]) not in parameters:
            continue
        plain = statement[last : found.start()]
        values.append(parameters[name])
        names[name] = parameters[name]
        mark = {"qmark": "?", "numeric": f":{len(values)}", "named": f":{name}", "format": "%s"}
        text += (plain.replace("%", "%%") if percent else plain) + mark.get(driver.paramstyle, f"%({name})s")
        last = found.end()
    rest = statement[last:]
    text += rest.replace("%", "%%") if percent else rest
    return Bound(text, names if driver.paramstyle in ("named", "pyformat") else values)


def bounds(start: datetime, end: datetime, kind: Kind, zone: str) -> dict[str, Any]:
    """Return the bounds of a partition as values of a database."""
    return {"start": value(start, kind, zone), "end": value(end, kind, zone)}


def value(moment: datetime, kind: Kind, zone: str) -> Any:
    """Return a moment as a database compares it with its event times."""
    if kind == "aware":
        return moment
    naive = wall(moment, zone)
    return naive if kind == "naive" else naive.isoformat("T" if kind == "text T" else " ")


def wall(moment: datetime, zone: str) -> datetime:
    """Return the first time on a zone's clock that does not mean an earlier moment.

    Times that the clock has twice mean the first. So the second hour of the same name in November, in which no time
    can lie then, begins and ends where that hour ends.

    >>> wall(datetime(2013, 11, 3, 6, tzinfo=UTC), "America/New_York").isoformat()
    '2013-11-03T02:00:00'
    """
    local = moment.astimezone(ZoneInfo(zone))
    naive = local.replace(tzinfo=None, fold=0)
    while local.fold and _is_twice(naive, zone):
        naive += _MINUTE
    return naive


def as_utc(found: Any, zone: str) -> datetime | None:
    """Return a time that a database or Arrow gave, in UTC; None when it is none.

    :param zone: Of times without one.
    """
    if isinstance(found, str):
        try:
            found = datetime.fromisoformat(found)
        except ValueError:
            return None
    if isinstance(found, datetime):
        return (found if found.tzinfo else found.replace(tzinfo=ZoneInfo(zone))).astimezone(UTC)
    return as_utc(datetime(found.year, found.month, found.day), zone) if isinstance(found, date) else None  # noqa: DTZ001


def kind_of_text(text: str) -> tuple[Kind, bool]:
    """Return how a text has its time, and whether with a zone.

    :raises ConfigError: when it is no time.
    """
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise ConfigError(
            "The event time is a text that is no time.",
            detail=f"it looks like {re.sub(r'[0-9]', '9', text)[:40]!r}",
            hint="Let a query make times of it as ISO 8601 writes them: 2013-01-15 10:00:00.",
        ) from None
    return ("text T" if "T" in text else "text"), moment.tzinfo is not None


def _meant(name: str, found: Sequence[str]) -> str:
    """Return which column may be meant: first the one that differs by upper and lower case only."""
    same = [one for one in found if one.casefold() == name.casefold()]
    return f" Did you mean {same[0]!r}?" if same else did_you_mean(name, found)


def _is_twice(naive: datetime, zone: str) -> bool:
    local = naive.replace(tzinfo=ZoneInfo(zone))
    return local.utcoffset() != local.replace(fold=1).utcoffset()


def named(columns: Iterable[Any]) -> list[str]:
    """Return the names of a cursor's columns."""
    return [str(column[0]) for column in columns]
