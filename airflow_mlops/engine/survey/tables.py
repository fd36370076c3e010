"""A table that nobody has described: its columns, from when to when it goes, and its newest rows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from functools import cached_property
from itertools import islice
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from airflow_mlops.engine.data.fitting import TIME, common, fit
from airflow_mlops.engine.data.tables.database import Database, driver_of
from airflow_mlops.engine.data.tables.postgres import NUMERIC
from airflow_mlops.engine.data.tables.query import Selection, as_utc, named, quoted
from airflow_mlops.engine.data.tables.reading import opened
from airflow_mlops.exceptions import DataError

_BATCHES = 64
_BACK = timedelta(days=400)
_ISO = r"^\d{4}-\d{2}-\d{2}[ T]\d{2}:\d{2}(:\d{2}(\.\d+)?)?(Z|[+-]\d{2}(:?\d{2})?)?$"


class Table:
    """A table of a database.

    :param table: Its name, with its schema where needed.
    :param zone: Of times without one.
    """

    def __init__(self, database: Database, connection: Any, table: str, zone: str) -> None:
        self._database, self._connection, self._table, self._zone = database, connection, table, zone

    @cached_property
    def columns(self) -> list[str]:
        """The names of its columns."""
        return named(self._asked("SELECT * FROM {table} LIMIT 0")[0])

    def batches(self, time: str) -> list[pa.Table]:
        """Return the newest rows, in one schema: of the 400 days before the last row.

        :param time: Column of the event times.
        :raises DataError: when there is no row with a time.
        """
        selection = Selection(time, table=self._table)
        first, last = self.span(time)
        last = min(last, datetime.now(UTC))
        within = (max(first, last - _BACK), last + timedelta(microseconds=1))
        where = f"{self._database.name}:{self._table}"
        table = opened(self._connection, selection, within, where, zone=self._zone)
        # A numeric of any number of digits is a float here; what Arrow has no match for, nobody can learn from.
        numerics = {one.name: pa.float64() for one in table.columns if one.type is None and one.oid == NUMERIC}
        columns = [one for one in table.columns if one.type is not None or one.name in numerics]
        table = table._replace(names=[one.name for one in columns] or table.names, columns=columns)
        _, rows = table.rows(within, numerics)
        batches = [_with_times(batch) for batch in islice(rows, _BATCHES)]
        schema = common({f"{where}, {n}": batch.schema for n, batch in enumerate(batches)})
        return [fit(batch, schema, zone=self._zone, where=where) for batch in batches]

    def span(self, time: str) -> tuple[datetime, datetime]:
        """Return the first and the last event time.

        :raises DataError: when there is none.
        """
        Selection(time, table=self._table).checked(self.columns, f"{self._database.name}:{self._table}")
        _, row = self._asked(f"SELECT min({self._quoted(time)}), max({self._quoted(time)}) FROM {{table}}")
        first, last = (as_utc(found, self._zone) for found in row)
        if first is None or last is None:
            raise DataError(
                f"No row of the table has a time in {time!r}." if row[0] is None else f"{time!r} is no time.",
                detail=f"{self._database.name}:{self._table}",
                hint="Name the column that says when a row happened: --time. A text is a time as ISO 8601 writes it: "
                "2024-01-15 10:00:00.",
            )
        return first, last

    @cached_property
    def count(self) -> int:
        """How many rows there are."""
        return int(self._asked("SELECT count(*) FROM {table}")[1][0])

    def renamed(self, names: Mapping[str, str], time: str) -> str:
        """Return a query for one partition, in which columns have other names.

        :param names: Column → its name.
        :param time: Column of the event times.
        """
        columns = ",\n".join(f"                {self._quoted(old)} AS {new}" for old, new in names.items())
        at, table = self._quoted(time), quoted(self._table, driver_of(self._connection))
        return (
            f"            SELECT\n{columns}\n            FROM {table}\n"
            f"            WHERE {at} >= {{start}} AND {at} < {{end}}"
        )

    def _quoted(self, name: str) -> str:
        return quoted(name, driver_of(self._connection), whole=True)

    def _asked(self, statement: str) -> tuple[Any, Any]:
        """Return what the cursor says of the columns of an answer, and its first row."""
        rows = Selection("", table=self._table).all_rows(driver_of(self._connection))
        cursor = self._connection.cursor()
        try:
            cursor.execute(statement.replace("{table}", rows))
            return cursor.description, cursor.fetchone()
        finally:
            cursor.close()
            self._connection.rollback()  # what reads a partition begins a transaction of its own


@contextmanager
def open_table(database: Database, table: str, *, zone: str) -> Iterator[Table]:
    """Open a table.

    :raises ConfigError: when it is not there, or the database refuses.
    :raises TransientError: when it does not answer.
    """
    with database.session(table) as connection:
        yield Table(database, connection, table, zone)


def _with_times(batch: pa.Table) -> pa.Table:
    """Make times of texts that all are: some databases have no other kind."""
    for n, field in enumerate(batch.schema):
        if not pa.types.is_string(field.type):
            continue
        there = batch[field.name].drop_null()
        if len(there) and pc.all(pc.match_substring_regex(there, _ISO)).as_py():
            zoned = pc.any(pc.match_substring_regex(there, r":\d{2}[.\d]*(Z|[+-]\d{2}(:?\d{2})?)$")).as_py()
            batch = batch.set_column(n, field.name, batch[field.name].cast(TIME if zoned else pa.timestamp("us")))
    return batch
