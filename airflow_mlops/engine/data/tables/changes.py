"""What a table has in each partition of a span: how many rows, and when the newest was changed. One look for many."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import NamedTuple

from airflow_mlops.engine.data.tables.database import Database
from airflow_mlops.engine.data.tables.query import Selection, as_utc, bind, quoted, value
from airflow_mlops.engine.data.tables.reading import Opened, is_utc, opened
from airflow_mlops.partitioning import Partitioning

_AT_ONCE = 64
"""Partitions a statement. A row is compared with half as many bounds."""


class State(NamedTuple):
    """The rows of a partition: how many, and when the newest of them was changed."""

    rows: int = 0
    changed_at: datetime | None = None


def states(
    database: Database, selection: Selection, keys: Sequence[str], partitioning: Partitioning, naive_times: str = ""
) -> dict[str, State]:
    """Return the state of partitions that come one after the other, by key.

    :param selection: With ``updated_at``.
    :raises TransientError: when the database does not answer.
    :raises ConfigError: when it refuses the query, or a column is not there.
    """
    zone = naive_times or partitioning.timezone
    found: dict[str, State] = {}
    with database.session(selection.name) as connection:
        for n in range(0, len(keys), _AT_ONCE):
            some = keys[n : n + _AT_ONCE]
            begin, end = partitioning.interval(some[0])[0], partitioning.interval(some[-1])[1]
            table = opened(connection, selection, (begin, end), f"{database.name}:{selection.name}", zone=zone)
            ends = [partitioning.interval(key)[1] for key in some]
            found |= {key: State() for key in some} | {
                some[which]: State(rows, changed_at) for which, rows, changed_at in _grouped(table, begin, ends, zone)
            }
    return found


def _grouped(table: Opened, begin: datetime, ends: Sequence[datetime], zone: str) -> list[tuple[int, int, datetime]]:
    selection, driver = table.selection, table.driver
    at = selection.compared(driver, table.kind) if selection.table else quoted(selection.event_time, driver, whole=True)
    which = " ".join(f"WHEN {at} < {{end{n}}} THEN {n}" for n in range(len(ends)))
    inside = f"WHERE {at} >= {{start}} AND {at} < {{end}}" if selection.table else ""
    changed = quoted(selection.updated_at, driver, whole=True)
    statement = (
        "SELECT n, count(*) AS many, max(u) AS newest FROM ("
        f"SELECT CASE {which} END AS n, {changed} AS u FROM {selection.all_rows(driver)} AS q {inside}"
        ") AS p GROUP BY n"
    )
    moments = {"start": begin, "end": ends[-1]} | {f"end{n}": moment for n, moment in enumerate(ends)}
    bound = bind(statement, {name: value(one, table.kind, table.zone) for name, one in moments.items()}, driver)
    cursor = table.connection.cursor()
    try:
        cursor.execute(bound.text, bound.parameters)
        newest = "UTC" if is_utc(cursor.description[2], driver) else zone
        rows = [tuple(row.values()) if isinstance(row, dict) else row for row in cursor.fetchall()]
        return [(int(n), int(many), as_utc(changed_at, newest)) for n, many, changed_at in rows]  # type: ignore[misc]
    finally:
        cursor.close()
