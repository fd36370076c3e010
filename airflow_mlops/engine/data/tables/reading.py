"""The rows of one partition, however its database sends them: as Arrow tables, and at first their columns."""

from __future__ import annotations

import importlib
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import pyarrow as pa

from airflow_mlops.engine.data.complete import Span
from airflow_mlops.engine.data.tables import postgres
from airflow_mlops.engine.data.tables.database import Driver, driver_of
from airflow_mlops.engine.data.tables.query import Bound, Kind, Selection, bind, bounds, kind_of_text, named, quoted
from airflow_mlops.engine.data.tables.rows import fetched
from airflow_mlops.exceptions import ConfigError

_MYSQL = ("pymysql", "MySQLdb", "mysql")
_MYSQL_TIMESTAMP = 7
"""Type code of what MySQL keeps in UTC, beside DATETIME, which has no zone; both come as the same Python type."""

_MYSQL_DECIMALS = (0, 246)
_DIGITS = 38
_EVER = {"start": "0001-01-01", "end": "9999-12-31"}


class Opened(NamedTuple):
    """A table whose columns were looked at.

    :param connection: In which its rows are read.
    :param names: Columns to read.
    :param kind: What its event times are kept as.
    :param zone: Of times without one.
    :param columns: What PostgreSQL says of the columns; none of other databases.
    """

    connection: Any
    driver: Driver
    selection: Selection
    names: list[str]
    kind: Kind
    zone: str
    where: str
    columns: Sequence[postgres.Described] = ()

    def bound(self, statement: str, within: Span) -> Bound:
        """Return a statement with the bounds of a partition."""
        return bind(statement, bounds(*within, self.kind, self.zone), self.driver)

    def rows(self, within: Span, declared: Mapping[str, pa.DataType]) -> tuple[pa.Schema | None, Iterator[pa.Table]]:
        """Return the columns, where they are known before the rows, and the rows of a partition.

        :param declared: Columns of the contract, with their types.
        """
        bound = self.bound(self.selection.statement(self.names, self.driver, self.kind), within)
        schema: pa.Schema | None = None
        if self.columns:
            schema, in_hex = postgres.schema_of(self.connection, list(self.columns), declared, self.where)
            if postgres.copies(self.connection):
                return schema, postgres.copied(self.connection, bound, schema, in_hex, self.where)
        return None, self._fetched(bound, schema)

    def _fetched(self, bound: Bound, schema: pa.Schema | None) -> Iterator[pa.Table]:
        cursor = _streaming(self.connection, self.driver)
        try:
            cursor.execute(bound.text, bound.parameters)
            if schema is not None:
                decimals = {field.name: field.type for field in schema if pa.types.is_decimal(field.type)}
                yield from fetched(cursor, self.names, decimals, frozenset(), self.where)
                return
            names = self.selection.checked(named(cursor.description), self.where)
            decimals = {column[0]: kind for column in cursor.description if (kind := _decimal(column, self.driver))}
            utc = {column[0] for column in cursor.description if is_utc(column, self.driver)}
            yield from fetched(cursor, names, decimals, frozenset(utc), self.where)
        finally:
            cursor.close()


def opened(connection: Any, selection: Selection, within: Span, where: str, *, zone: str) -> Opened:
    """Look at the columns of a table.

    :param within: A partition, whose bounds a query is run with.
    :raises ConfigError: when a column is not there, or event times are none.
    """
    driver = driver_of(connection)
    aware = bounds(*within, "aware", zone)
    if driver.name.startswith("psycopg"):
        if postgres.copies(connection):
            postgres.begin(connection)
        look = bind(f"SELECT * FROM {selection.all_rows(driver)} AS q LIMIT 0", aware, driver)
        columns = postgres.described(connection, look)
        names = selection.checked([one.name for one in columns], where)
        by_name = {one.name: one for one in columns}
        kind = _kind_of(by_name[selection.event_time], where)
        return Opened(connection, driver, selection, names, kind, zone, where, [by_name[name] for name in names])
    cursor = connection.cursor()
    try:
        if driver.name in _MYSQL:
            cursor.execute("SET time_zone = '+00:00'")
        names, kind, zone = _looked(cursor, driver, selection, within, zone=zone, where=where)
    finally:
        cursor.close()
    return Opened(connection, driver, selection, names, kind, zone, where)


def _looked(
    cursor: Any, driver: Driver, selection: Selection, within: Span, *, zone: str, where: str
) -> tuple[list[str], Kind, str]:
    """Return the columns, what event times are kept as, and the zone of their bounds, from a row at most."""
    rows = selection.all_rows(driver)
    if selection.table:
        described, _ = _one(cursor, driver, f"SELECT * FROM {rows} LIMIT 0")
        names = selection.checked(named(described), where)
        at = quoted(selection.event_time, driver, whole=True)
        [column], row = _one(cursor, driver, f"SELECT {at} FROM {rows} WHERE {at} IS NOT NULL LIMIT 1")
    else:
        # How texts are written is not known yet, so SQLite is asked for a row of any time.
        any_time = _EVER if driver.name == "sqlite3" else bounds(*within, "aware", zone)
        described, row = _one(cursor, driver, f"SELECT * FROM {rows} AS q LIMIT 1", any_time)
        names = selection.checked(_unwrapped(named(described)), where)
        n = names.index(selection.event_time)
        column, row = described[n], row[n : n + 1]
    sample = row[0] if row else None
    if is_utc(column, driver):
        return names, "naive", "UTC"
    if isinstance(sample, str) and driver.name == "sqlite3":
        kind, has_zone = kind_of_text(sample)
        return names, "text" if selection.table else kind, "UTC" if has_zone else zone
    if isinstance(sample, str | bool | int | float):
        raise ConfigError(
            f"The event time {selection.event_time!r} is no time.",
            detail=f"{where}: it is {type(sample).__name__}",
            hint="Make a time of it in a query, such as CAST(at AS timestamp) AS at; of seconds in SQLite "
            "datetime(at, 'unixepoch') AS at.",
        )
    if driver.name == "sqlite3":
        return names, "text", zone
    return names, "aware" if getattr(sample, "tzinfo", None) is not None else "naive", zone


def _one(
    cursor: Any, driver: Driver, statement: str, parameters: Mapping[str, Any] | None = None
) -> tuple[list[Sequence[Any]], Sequence[Any]]:
    """Return what a cursor says of the columns of a statement, and its first row, or none."""
    if parameters is None:
        cursor.execute(statement)
    else:
        bound = bind(statement, parameters, driver)
        cursor.execute(bound.text, bound.parameters)
    row = cursor.fetchone()
    cursor.fetchall()
    return list(cursor.description), row or ()


def _unwrapped(names: Sequence[str]) -> list[str]:
    """Return names as a query gives them: SQLite calls the second ``id`` of a subquery ``id:1``."""
    return [re.sub(r":\d+$", "", name) if re.sub(r":\d+$", "", name) in names else name for name in names]


def _kind_of(column: postgres.Described, where: str) -> Kind:
    if column.type is not None and pa.types.is_timestamp(column.type):
        return "aware" if column.type.tz else "naive"
    if column.type is not None and pa.types.is_date(column.type):
        return "naive"
    raise ConfigError(
        f"The event time {column.name!r} is no time.",
        detail=f"{where}: it is {column.type or 'of a type that Arrow has no match for'}",
        hint=f"Name another column in event_time=, or make a time of it in a query: {column.name}::timestamptz.",
    )


def _streaming(connection: Any, driver: Driver) -> Any:
    """Return a cursor that leaves on the server what was not asked for yet."""
    if driver.name.startswith("psycopg"):
        return postgres.cursor_of(connection, name="extract")
    if driver.name in ("pymysql", "MySQLdb"):
        return connection.cursor(importlib.import_module(f"{driver.name}.cursors").SSCursor)
    return connection.cursor()


def is_utc(column: Sequence[Any], driver: Driver) -> bool:
    """Return whether times of a column have no zone, and are in UTC."""
    return driver.name in _MYSQL and column[1] == _MYSQL_TIMESTAMP


def _decimal(column: Sequence[Any], driver: Driver) -> pa.DataType | None:
    """Return the Arrow type of a column of decimal numbers whose digits the driver says; None where it does not."""
    if driver.name in _MYSQL and column[1] not in _MYSQL_DECIMALS:
        return None
    precision, scale = (column[4], column[5]) if len(column) > 5 else (None, None)
    if not isinstance(precision, int) or not isinstance(scale, int) or not 0 <= scale <= precision:
        return None
    return pa.decimal128(min(precision, _DIGITS), scale) if precision else None
