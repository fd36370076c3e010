"""What is validated: Parquet files, or a table of a database. Both say their columns, and hand out rows."""

from __future__ import annotations

import tempfile
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq

from airflow_mlops.contracts import content_hash
from airflow_mlops.engine.data.files import identity, sha256
from airflow_mlops.engine.data.parquet import column_types, difference, readable
from airflow_mlops.exceptions import ConfigError, DataError, TransientError, did_you_mean

if TYPE_CHECKING:
    import pandas as pd
    import sqlalchemy as sa

    from airflow_mlops.engine.data.validation.sql import SqlEngine

Kind = Literal["number", "boolean", "instant", "clock", "date", "text", "other"]
"""Of a column's values; an ``instant`` is a time with a zone, a ``clock`` one without."""

_MEMORY = 1 << 30
"""Bytes that DuckDB may keep in memory before it writes what it is grouping to disk."""


@dataclass(frozen=True)
class ParquetBatch:
    """Some Parquet files as one table, identified by their bytes."""

    files: tuple[Path, ...]
    schema: pa.Schema
    rows: int
    hash: str

    name = "duckdb"

    @property
    def types(self) -> dict[str, str]:
        """Column name → Arrow type."""
        return column_types(self.schema)

    @property
    def kinds(self) -> dict[str, Kind]:
        """Column name → what its values can be compared with."""
        return {field.name: _arrow_kind(field.type) for field in self.schema}

    def frame(self, columns: Collection[str] | None) -> pd.DataFrame:
        """Read some columns into memory, all of them with ``None``."""
        names = [name for name in self.schema.names if columns is None or name in columns]
        tables = []
        for file in self.files:
            with readable(file), pq.ParquetFile(file, page_checksum_verification=True) as parquet:
                tables.append(parquet.read(columns=names).replace_schema_metadata())
        return pa.concat_tables(tables).to_pandas()

    @contextmanager
    def sql(self) -> Iterator[SqlEngine]:
        """Open the files as a table of an in-memory DuckDB, which reads of them what a query needs."""
        import sqlalchemy as sa

        from airflow_mlops.engine.data.validation.sql import opened

        with tempfile.TemporaryDirectory(prefix="mlops-gx-") as folder:
            config = {"memory_limit": f"{_MEMORY}B", "temp_directory": folder}
            engine = sa.create_engine("duckdb:///:memory:", poolclass=sa.StaticPool, connect_args={"config": config})
            with opened(engine, self._view(), files=self.files) as ready:
                yield ready

    def unchanged(self) -> None:
        """Refuse files that were written to since their hash was taken.

        :raises DataError: when their bytes are others now.
        """
        if _hash(self.files) != self.hash:
            raise DataError(
                "The data changed while it was validated.",
                detail=", ".join(map(str, self.files)),
                hint="Let the upstream write its marker last. Clear the task to validate what is there now.",
            )

    def _view(self) -> str:
        from airflow_mlops.engine.data.validation.sql import literal

        columns = ", ".join(_in_sql(_quoted(field.name), field.type) for field in self.schema)
        files = ", ".join(map(literal, self.files))
        # A folder called `x=1` must not become a column.
        return f"SELECT {columns} FROM read_parquet([{files}], hive_partitioning=false)"


def parquet_batch(files: Sequence[Path], *, may_be_empty: bool = False) -> ParquetBatch:
    """Look at some Parquet files: their bytes are hashed, their footers read.

    :raises DataError: when they cannot be read, disagree on their columns, repeat one, or have no rows.
    """
    schema: pa.Schema | None = None
    rows = 0
    hashed = _hash(files)
    for file in files:
        with readable(file), pq.ParquetFile(file) as parquet:
            found = parquet.schema_arrow.remove_metadata()
            rows += parquet.metadata.num_rows
        if schema is not None and not found.equals(schema):
            raise DataError(
                "The Parquet files of one batch have different columns.",
                detail=f"{file}: {difference(column_types(schema), column_types(found))}",
                hint="All files of a batch need the same columns and types.",
            )
        _check_names(found.names, str(file))
        schema = found
    if schema is None or (not rows and not may_be_empty):
        raise DataError(
            "There are no rows to validate.",
            detail=", ".join(map(str, files)) or "no files",
            hint="See why the upstream landed nothing. An empty batch would pass most expectations.",
        )
    return ParquetBatch(tuple(files), schema, rows, hashed)


def _check_names(names: Sequence[str], where: str) -> None:
    """Refuse a column without a name, which SQL cannot ask for, and columns of one name.

    Names that differ by case alone are one to SQL, and to Great Expectations.
    """
    if "" in names:
        raise DataError(
            f"The {list(names).index('') + 1}. of {len(names)} columns has no name.",
            detail=where,
            hint="Have the upstream name or drop it: pandas, for one, writes an index that way.",
        )
    plain = [name.casefold() for name in names]
    repeated = [name for name in names if plain.count(name.casefold()) > 1]
    if repeated:
        raise DataError(
            f"The column {repeated[0]!r} is there twice.",
            detail=f"{where}: {', '.join(map(repr, repeated))}",
            hint="Have the upstream drop or rename one: nobody can tell which of them is meant.",
        )


def _hash(files: Sequence[Path]) -> str:
    digests = {}
    for file in files:
        with readable(file):
            digests[file.name] = sha256(file)
    return identity(digests)


def _arrow_kind(kind: pa.DataType) -> Kind:
    if pa.types.is_dictionary(kind):
        return _arrow_kind(kind.value_type)
    if pa.types.is_boolean(kind):
        return "boolean"
    if pa.types.is_integer(kind) or pa.types.is_floating(kind):
        return "number"
    if pa.types.is_timestamp(kind):
        return "instant" if kind.tz else "clock"
    if pa.types.is_date(kind):
        return "date"
    return "text" if pa.types.is_string(kind) or pa.types.is_large_string(kind) else "other"


def _in_sql(column: str, kind: pa.DataType) -> str:
    """Return a column as the suite sees it in DuckDB: a NaN is missing, true and false count as 1 and 0."""
    if pa.types.is_floating(kind):
        return f"CASE WHEN isnan({column}) THEN NULL ELSE {column} END AS {column}"
    return f"CAST({column} AS TINYINT) AS {column}" if pa.types.is_boolean(kind) else column


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


@dataclass(frozen=True)
class TableBatch:
    """A table or view of a PostgreSQL or DuckDB database. Its hash says what was looked at, not what was in it.

    All that SQL computes sees one state of the table, as long as no query fails. The count of the rows before, the
    rows that pandas fetches after, and what follows a failed query see the table as it is then: validate what
    nobody writes to meanwhile, such as a table of one batch.
    """

    engine: sa.Engine
    table: str
    types: Mapping[str, str]
    rows: int
    hash: str

    @property
    def name(self) -> str:
        """What kind of database answers."""
        return str(self.engine.dialect.name)

    @property
    def kinds(self) -> dict[str, Kind]:
        """Column name → what its values can be compared with."""
        return {name: _sql_kind(kind) for name, kind in self.types.items()}

    def frame(self, columns: Collection[str] | None) -> pd.DataFrame:
        """Read some columns into memory, all of them with ``None``."""
        import pandas as pd

        wanted = [_quoted(name) for name in self.types if columns is None or name in columns]
        with self.engine.connect() as connection:
            return pd.read_sql(f"SELECT {', '.join(wanted)} FROM {self.table}", connection)

    @contextmanager
    def sql(self) -> Iterator[SqlEngine]:
        """Open the table for queries, all of them on one connection."""
        from airflow_mlops.engine.data.validation.sql import opened

        columns = ", ".join(self._as_seen(name, kind) for name, kind in self.kinds.items())
        # Views of a DuckDB file may read what lies beside it.
        folder = Path(self.engine.url.database or "").absolute().parent
        with opened(self.engine, f"SELECT {columns} FROM {self.table}", folder=folder) as ready:
            yield ready

    def _as_seen(self, name: str, kind: Kind) -> str:
        """Return a column as the suite sees it: a NaN is missing, true and false count as 1 and 0."""
        column = _quoted(name)
        if self.types[name].lower() in _FLOATING:
            return f"CASE WHEN {column} = 'NaN' THEN NULL ELSE {column} END AS {column}"
        return f"CAST({column} AS INTEGER) AS {column}" if kind == "boolean" else column


@contextmanager
def table_batch(url: str, table: str) -> Iterator[TableBatch]:
    """Look at a table, and stay connected to its database for the block.

    :param url: SQLAlchemy URL of a PostgreSQL database, or ``duckdb:///<file>``.
    :param table: ``table`` or ``schema.table``.
    :raises ConfigError: when there is no such table, or the database is of another kind.
    :raises DataError: when it has no rows, or may not be read.
    :raises TransientError: when the database does not answer.
    """
    import sqlalchemy as sa

    engine = _connect(url)
    try:
        yield _look(engine, table)
    except sa.exc.OperationalError as error:
        raise TransientError(
            "The database does not answer.",
            detail=f"{engine.url.render_as_string(hide_password=True)}: {str(error.orig).splitlines()[0]}",
            hint="See whether it is up, and whether this machine may reach it.",
        ) from None
    except sa.exc.DatabaseError as error:
        raise DataError(
            "The table cannot be read.",
            detail=f"table {table!r}: {type(error.orig).__name__}",
            hint="See whether its user may SELECT from it. Views of a DuckDB file read nothing outside its folder.",
        ) from None
    finally:
        engine.dispose()


def _look(engine: sa.Engine, table: str) -> TableBatch:
    import sqlalchemy as sa

    with engine.connect() as connection:
        schema, _, name = table.rpartition(".")
        schema = schema or connection.execute(sa.text("SELECT current_schema()")).scalar_one()
        found = _columns(connection, schema)
        if name not in found:
            raise ConfigError(
                f"There is no table {table!r}.{did_you_mean(name, found)}",
                detail=engine.url.render_as_string(hide_password=True),
                hint="Name it as 'table' or 'schema.table'.",
            )
        quoted = f"{_quoted(schema)}.{_quoted(name)}"
        rows = connection.exec_driver_sql(f"SELECT count(*) FROM {quoted}").scalar_one()
    _check_names(list(found[name]), f"table {table!r}")
    if not rows:
        raise DataError(
            "There are no rows to validate.",
            detail=f"table {table!r} is empty",
            hint="See why the upstream loaded nothing. An empty batch would pass most expectations.",
        )
    return TableBatch(engine, quoted, found[name], rows, content_hash([table, found[name], rows]))


def _connect(url: str) -> sa.Engine:
    import sqlalchemy as sa

    options: dict[str, Mapping[str, Any]] = {
        # One snapshot for all queries of a transaction, so that their counts belong together.
        "postgresql": {"isolation_level": "REPEATABLE READ"},
        "duckdb": {"connect_args": {"read_only": True, "config": {"memory_limit": f"{_MEMORY}B"}}},
    }
    try:
        parsed = sa.make_url(url)
    except (sa.exc.ArgumentError, ValueError):  # whose text may hold the password
        raise _no_url("It is none of <database>://<user>:<password>@<host>/<name>.") from None
    dialect = parsed.get_backend_name()
    if dialect not in options:
        raise ConfigError(
            f"A table of {dialect!r} cannot be validated.",
            detail=parsed.render_as_string(hide_password=True),
            hint="PostgreSQL and DuckDB are known. Land it as Parquet instead.",
        )
    try:
        return sa.create_engine(parsed, poolclass=sa.StaticPool, **options[dialect])
    except (sa.exc.NoSuchModuleError, ImportError):
        raise _no_url(f"There is no driver {parsed.drivername!r}.") from None


def _no_url(detail: str) -> ConfigError:
    return ConfigError(
        "The URL of the database cannot be used.",
        detail=detail,
        hint="Write 'postgresql+psycopg2://user:password@host/database' or 'duckdb:////path/of/file'.",
    )


def _columns(connection: sa.Connection, schema: str) -> dict[str, dict[str, str]]:
    """Return table or view → column → SQL type. SQLAlchemy's own reflection does not know today's DuckDB."""
    import sqlalchemy as sa

    query = (
        "SELECT table_name, column_name, data_type FROM information_schema.columns "
        "WHERE table_schema = :schema ORDER BY table_name, ordinal_position"
    )
    found: dict[str, dict[str, str]] = {}
    for table, column, kind in connection.execute(sa.text(query), {"schema": schema}):
        found.setdefault(table, {})[column] = kind
    return found


# What may hold a NaN: of PostgreSQL `numeric`, too, whereas DuckDB's own `decimal` knows none.
_FLOATING = {"double", "double precision", "float", "numeric", "real"}
_SQL_KINDS: dict[Kind, tuple[str, ...]] = {
    "boolean": ("boolean",),
    "number": (*_FLOATING, "bigint", "decimal", "hugeint", "integer", "smallint", "tinyint"),
    "instant": ("timestamp with time zone",),
    "clock": ("timestamp", "timestamp without time zone"),
    "date": ("date",),
    "text": ("character", "character varying", "text", "varchar"),
}


def _sql_kind(type_name: str) -> Kind:
    plain = type_name.lower().partition("(")[0].strip()
    return next((kind for kind, names in _SQL_KINDS.items() if plain in names), "other")
