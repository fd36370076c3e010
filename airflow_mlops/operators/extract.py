"""Extract a partition of a table: what `stage` is to files that landed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from airflow_mlops.exceptions import ConfigError
from airflow_mlops.feeds import check_bounds
from airflow_mlops.hooks.databases import database
from airflow_mlops.operators.base import MlopsOperator, require, required_key, said
from airflow_mlops.operators.data import PARTITION_KEY
from airflow_mlops.operators.stage import StagedPartition
from airflow_mlops.partitioning import Partitioning

if TYPE_CHECKING:
    from airflow.sdk import Context

    from airflow_mlops.contracts import Partition


class ExtractPartitionOperator(MlopsOperator):
    """Write the rows of one partition of a table, or of a query, to Parquet: ready to be validated and sealed.

    Use it in place of :class:`~airflow_mlops.operators.stage.StagePartitionOperator` where data is in a database and
    not in files.

    One statement reads them, by the hook of the database's own provider; PostgreSQL sends them by ``COPY``. Types are
    those of the table, or of the contract. The same rows as those that are sealed make no new revision, in whatever
    order they come.

    :param dataset: Name of the dataset.
    :param sql_conn_id: Airflow connection of the database.
    :param event_time: Column of the event times.
    :param table: Table or view, with its schema where needed.
    :param query: Instead of it, a query with ``{start}`` and ``{end}``, which are bound as parameters.
    :param columns: Columns of the table to read; default is all.
    :param updated_at: Column of when a row was last changed.
    :param contract: ``module:function`` beside the DAG file that returns the dataset's ``SchemaContract``: its types
        are what columns become.
    :param naive_times: Zone of times without one; default is that of the partitions.
    :param row_id_column: Column that names the rows which do not fit, in the error.
    :param key: Partition key.
    :param partitioning: Of which ``key`` is one: ``daily``, ``hourly@Europe/Berlin``.
    """

    template_fields = (
        *MlopsOperator.template_fields,
        "dataset",
        "sql_conn_id",
        "event_time",
        "table",
        "query",
        "columns",
        "updated_at",
        "contract",
        "key",
    )
    template_fields_renderers = {"query": "sql"}

    def __init__(
        self,
        *,
        dataset: str,
        sql_conn_id: str,
        event_time: str,
        table: str = "",
        query: str = "",
        columns: Sequence[str] = (),
        updated_at: str = "",
        contract: str | None = None,
        naive_times: str = "",
        row_id_column: str = "",
        key: str = PARTITION_KEY,
        partitioning: str = "daily",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.dataset = dataset
        self.sql_conn_id = sql_conn_id
        self.event_time = event_time
        self.table = table
        self.query = query
        self.columns = columns
        self.updated_at = updated_at
        self.contract = contract
        self.naive_times = naive_times
        self.row_id_column = row_id_column
        self.key = key
        self.partitioning = partitioning

    def perform(self, context: Context) -> StagedPartition:
        """Extract, and say what was done."""
        from airflow_mlops.engine.data.checks.partition import load_contract
        from airflow_mlops.engine.data.tables.extract import extract
        from airflow_mlops.engine.data.tables.query import Selection

        key, partitioning = required_key(self.key), Partitioning.parse(self.partitioning)
        dataset = require(self.dataset, "dataset", "Name the dataset.")
        table, query = said(self.table), said(self.query)
        if bool(table) == bool(query):
            raise ConfigError(
                "There is not one thing to extract.",
                detail=f"table={table!r}, query={'...' if query else ''!r}",
                hint="Name a table, or a query with {start} and {end}.",
            )
        check_bounds(query)
        staged = extract(
            database(require(self.sql_conn_id, "sql_conn_id", "Name the Airflow connection of the database.")),
            Selection(self.event_time, table, query, tuple(self.columns), said(self.updated_at)),
            key,
            self.home_path / "staged" / dataset / key,
            partitioning=partitioning,
            contract=load_contract(said(self.contract) or None, self.code_path),
            naive_times=said(self.naive_times),
            row_id=said(self.row_id_column) or None,
            sealed=self._sealed(dataset, key),
            store=self.partition_store(),
        )
        for note in staged.notes:
            self.log.info("%s", note)
        return StagedPartition(dataset=dataset, key=key, uri=staged.uri, rows=staged.rows, notes=list(staged.notes))

    def _sealed(self, dataset: str, key: str) -> Partition | None:
        store = self.partition_store()
        if not store.partitioning(dataset).is_key(key) or store.current(dataset, key) is None:
            return None
        return store.get(dataset, key)
