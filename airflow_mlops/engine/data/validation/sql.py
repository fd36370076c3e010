"""Great Expectations' engine for SQL, on one connection to DuckDB or PostgreSQL."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, ClassVar

import sqlalchemy as sa
from great_expectations.exceptions import MetricResolutionError
from great_expectations.execution_engine import SqlAlchemyExecutionEngine
from great_expectations.execution_engine.sqlalchemy_batch_data import SqlAlchemyBatchData

_TABLE = "mlops_batch"


class SqlEngine(SqlAlchemyExecutionEngine):
    """The library's engine, which by itself takes a new connection for every query.

    DuckDB's metrics all fail that way ("list index out of range": a result is gone with its connection), and
    queries on PostgreSQL would see different states of the table.
    """

    _connection: sa.Connection | None

    @contextmanager
    def get_connection(self) -> Iterator[sa.Connection]:
        """Yield the one connection."""
        if self._connection is None:
            self._connection = self.engine.connect()
        yield self._connection

    def close(self) -> None:
        """Do nothing: the library calls this when the engine is garbage, and others may use its database by then."""

    def execute_query(self, query: Any) -> sa.CursorResult[Any]:
        """Run a query; after one that fails, the connection is good for the next."""
        with self.get_connection() as connection:
            try:
                return connection.execute(query)
            except sa.exc.DBAPIError:
                connection.rollback()
                raise

    def resolve_metric_bundle(self, metric_fn_bundle: Iterable[Any]) -> dict[Any, Any]:
        """Compute the aggregates of each domain in one query, and keep times as times.

        The library's own turns them into text, and logs whole tracebacks with their values.
        """
        resolved: dict[Any, Any] = {}
        for query in self._organize_metrics_by_domain(metric_fn_bundle):
            domain = self._selectable(query["domain_kwargs"])
            row = self.execute_query(sa.select(*query["select"]).select_from(domain)).one()
            resolved.update(zip(query["metric_ids"], row, strict=True))
        return resolved

    def resolve_metrics(
        self, metrics_to_resolve: Iterable[Any], metrics: Any = None, runtime_configuration: Any = None
    ) -> dict[Any, Any]:
        """Compute some metrics as pandas does, or faster than the library; leave the others to it."""
        ours = self._OURS | (self._OURS_ON_DUCKDB if self.dialect_name == "duckdb" else {})
        wanted = list(metrics_to_resolve)
        theirs = [metric for metric in wanted if metric.metric_name not in ours]
        resolved = super().resolve_metrics(theirs, metrics, runtime_configuration)
        for metric in wanted:
            if metric.metric_name in ours:
                where, value = metric.metric_domain_kwargs, metric.metric_value_kwargs
                try:
                    resolved[metric.id] = ours[metric.metric_name](self, self._selectable(where), where, value)
                except sa.exc.DBAPIError as error:
                    raise MetricResolutionError(message=type(error).__name__, failed_metrics=(metric,)) from error
        return resolved

    def _repeated(self, domain: Any, where: Mapping[str, Any], _: Mapping[str, Any]) -> int:
        """Count rows whose value occurs again, by grouping alone: the library joins the groups to the table again.

        In several columns a null equals a null, as in pandas.
        """
        names = where["column_list"] if "column_list" in where else [where["column"]]
        columns: list[sa.ColumnClause[Any]] = [sa.column(name) for name in names]
        present: sa.ColumnElement[bool] = columns[0].is_not(None) if "column" in where else sa.true()
        if self.dialect_name == "duckdb":
            # Equal values have equal hashes. Few others do, so that hardly any values must be kept to be compared:
            # a third less memory.
            hashed = sa.func.hash(*columns)
            suspects = sa.select(hashed).select_from(domain).where(present).group_by(hashed)
            present = present & hashed.in_(suspects.having(sa.func.count() > 1))
        groups = sa.select(sa.func.count().label("rows")).select_from(domain).where(present).group_by(*columns)
        repeated = groups.having(sa.func.count() > 1).subquery()
        return self._number(sa.select(sa.func.coalesce(sa.func.sum(repeated.c.rows), 0)))

    def _not_greater(self, domain: Any, where: Mapping[str, Any], value: Mapping[str, Any]) -> int:
        """Count rows that do not hold; with one value missing a row does not, to the library's SQL it does."""
        a: sa.ColumnClause[Any] = sa.column(where["column_A"])
        b: sa.ColumnClause[Any] = sa.column(where["column_B"])
        holds = a >= b if value.get("or_equal") else a > b
        return self._number(
            sa.select(sa.func.count()).select_from(domain).where(sa.not_(sa.func.coalesce(holds, sa.false())))
        )

    def _quantiles(self, domain: Any, where: Mapping[str, Any], value: Mapping[str, Any]) -> list[Any]:
        """Return the values of nearest rank, as pandas' ``interpolation="nearest"``; SQL's own is the rank below."""
        column: sa.ColumnClause[Any] = sa.column(where["column"])
        count = self._number(sa.select(sa.func.count(column)).select_from(domain))
        if not count:
            return [None for _ in value["quantiles"]]
        ranks = ", ".join(str((round((count - 1) * quantile) + 0.5) / count) for quantile in value["quantiles"])
        found = sa.func.percentile_disc(sa.literal_column(f"ARRAY[{ranks}]")).within_group(column)
        return list(self.execute_query(sa.select(found).select_from(domain)).scalar_one())

    def _median(self, domain: Any, where: Mapping[str, Any], _: Mapping[str, Any]) -> float | None:
        """Return the median without sorting the column, which the library's own query does."""
        column: sa.ColumnClause[Any] = sa.column(where["column"])
        found = sa.func.percentile_cont(sa.literal_column("0.5")).within_group(column)
        median = self.execute_query(sa.select(found).select_from(domain)).scalar_one()
        return None if median is None else float(median)

    def _column_types(self, *_: Any) -> list[dict[str, Any]]:
        """Return names and types as DuckDB knows them; the library reads a row of all columns to find out."""
        rows = self.execute_query(sa.text(f"DESCRIBE {_TABLE}")).mappings()
        return [{"name": row["column_name"], "type": row["column_type"]} for row in rows]

    def _column_names(self, *_: Any) -> list[str]:
        return [column["name"] for column in self._column_types()]

    _OURS: ClassVar[dict[str, Callable[..., Any]]] = {
        "column_values.unique.unexpected_count": _repeated,
        "compound_columns.unique.unexpected_count": _repeated,
        "column_pair_values.a_greater_than_b.unexpected_count": _not_greater,
        "column.median": _median,
        "column.quantile_values": _quantiles,
    }
    _OURS_ON_DUCKDB: ClassVar[dict[str, Callable[..., Any]]] = {
        "table.columns": _column_names,
        "table.column_types": _column_types,
    }

    def _number(self, query: sa.Select[Any]) -> int:
        return int(self.execute_query(query).scalar_one())

    def _selectable(self, domain_kwargs: dict[str, Any]) -> Any:
        selectable = self.get_domain_records(domain_kwargs=domain_kwargs)
        return selectable.subquery() if isinstance(selectable, sa.Select) else selectable


@contextmanager
def opened(
    database: sa.Engine, query: str, *, files: Iterable[Path] = (), folder: Path | None = None
) -> Iterator[SqlEngine]:
    """Yield an engine on the rows of a query, as a view that is gone at the end.

    :param database: With a ``StaticPool``: all that the library opens must be the connection that has the view.
    :param files: What DuckDB may read, whatever a suite's own SQL asks for.
    :param folder: A folder that it may read, too.
    """
    engine = SqlEngine(engine=database)
    try:
        with engine.get_connection() as connection:
            connection.exec_driver_sql("SET TimeZone = 'UTC'")  # what a time without a zone is compared in
            if database.dialect.name == "duckdb":
                _lock(connection, files, folder)
            connection.exec_driver_sql(f"CREATE TEMPORARY VIEW {_TABLE} AS {query}")
            connection.commit()
            if database.dialect.name == "duckdb":
                _quote_keywords(connection)
            engine.load_batch_data("batch", SqlAlchemyBatchData(execution_engine=engine, table_name=_TABLE))
            try:
                yield engine
            finally:
                with suppress(sa.exc.DBAPIError):  # a connection that is lost has lost its view, too
                    connection.rollback()
                    # A server drops it some time after the connection is closed, and till then nobody drops the table.
                    connection.exec_driver_sql(f"DROP VIEW {_TABLE}")
                    connection.commit()
                connection.close()
    finally:
        database.dispose()


def _lock(connection: sa.Connection, files: Iterable[Path], folder: Path | None) -> None:
    """Keep a suite's own SQL, such as an ``UnexpectedRowsExpectation``, from the rest of this machine.

    DuckDB takes none of it back while the database is open. Other connections of this process to the same database
    file share it; they must still be able to choose their time zone, so only a database in memory is locked whole.
    """
    if not connection.exec_driver_sql("SELECT current_setting('enable_external_access')").scalar_one():
        return
    connection.exec_driver_sql(f"SET allowed_paths = [{', '.join(literal(file) for file in files)}]")
    connection.exec_driver_sql(f"SET allowed_directories = [{'' if folder is None else literal(folder)}]")
    connection.exec_driver_sql("SET enable_external_access = false")
    if connection.engine.url.database == ":memory:":
        connection.exec_driver_sql("SET lock_configuration = true")


def literal(path: Path) -> str:
    """Return a path as SQL text."""
    return "'" + str(path).replace("'", "''") + "'"


def _quote_keywords(connection: sa.Connection) -> None:
    """Have columns quoted that are called as a word of DuckDB's own, such as ``at``: its dialect knows PostgreSQL's."""
    words = connection.exec_driver_sql("SELECT keyword_name FROM duckdb_keywords()").scalars()
    preparer = connection.dialect.identifier_preparer
    preparer.reserved_words = {*preparer.reserved_words, *words}
