"""The identity of rows, whatever their order: a table has none."""

from __future__ import annotations

from typing import Any

import duckdb
import pyarrow as pa

from airflow_mlops.contracts import content_hash
from airflow_mlops.engine.data.parquet import column_types

_FEW = 1 << 128


class Digest:
    """The sum of the hashes of rows.

    A release of DuckDB that hashes otherwise makes a new revision of the same rows at most.

    :param schema: Of the rows.
    """

    def __init__(self, schema: pa.Schema) -> None:
        self._schema, self._rows, self._sum = schema, 0, 0
        columns = ", ".join('"' + name.replace('"', '""') + '"' for name in schema.names)
        self._sum_of = f"SELECT sum(hash({columns})::HUGEINT) FROM batch"
        self._connection: Any = None

    def add(self, table: pa.Table) -> None:
        """Add rows."""
        if self._connection is None:  # not before there are rows: the database is at work meanwhile
            self._connection = duckdb.connect(config={"threads": 1})
        if table.num_rows:
            self._connection.register("batch", table)
            self._sum = (self._sum + int(self._connection.execute(self._sum_of).fetchall()[0][0])) % _FEW
            self._rows += table.num_rows

    def value(self) -> str:
        """Return the identity of all rows added."""
        return content_hash([column_types(self._schema), self._rows, str(self._sum)])
