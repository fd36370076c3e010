"""Make what landed fit: any format, any layout, one schema."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypedDict

from airflow_mlops.layout import FOLDER, Layout
from airflow_mlops.operators.base import MlopsOperator, require, required_key
from airflow_mlops.operators.data import PARTITION_KEY, located
from airflow_mlops.partitioning import Partitioning

if TYPE_CHECKING:
    from airflow.sdk import Context


class StagedPartition(TypedDict):
    """Where the Parquet files of a partition are; how many rows they have, where that is known; what was done."""

    dataset: str
    key: str
    uri: str
    rows: int | None
    notes: list[str]


class StagePartitionOperator(MlopsOperator):
    """Make the files of a partition fit into one schema, as Parquet. Files that do already stay where they are.

    Use it before validation, where files are CSV or JSON, or have other types from one day to the next.

    Readable are Parquet, CSV, JSON lines and ORC, compressed or not. Without loss, numbers become wider, whole numbers
    floats and back, text plain text, times microseconds of UTC; a column that some files lack is null there. A value
    that would not be what it was fails the task, with how many there are.

    :param dataset: Name of the dataset.
    :param uri: Folder of the feed; a relative path starts at the home folder.
    :param event_time: Column of the event times.
    :param layout: Where a partition lies below ``uri``: a pattern such as ``dt={key}/*.parquet``; see
        :class:`~airflow_mlops.layout.Layout`.
    :param lands: How the upstream cuts what it lands, where that is finer: ``hourly``. ``layout`` is then of a piece.
    :param contract: ``module:function`` beside the DAG file that returns the dataset's ``SchemaContract``: its types
        are what columns become.
    :param naive_times: Zone of times without one; default is that of the partitions.
    :param reader: Options of DuckDB's ``read_csv`` or ``read_json``, such as ``{"delim": ";", "encoding": "latin-1"}``.
    :param row_id_column: Column that names the rows which do not fit, in the error.
    :param key: Partition key.
    :param partitioning: Of which ``key`` is one: ``daily``, ``hourly@Europe/Berlin``.
    """

    template_fields = (
        *MlopsOperator.template_fields,
        "dataset",
        "uri",
        "event_time",
        "contract",
        "key",
    )

    def __init__(
        self,
        *,
        dataset: str,
        uri: str,
        event_time: str,
        layout: str = FOLDER,
        lands: str = "",
        contract: str | None = None,
        naive_times: str = "",
        reader: Mapping[str, Any] | None = None,
        row_id_column: str = "",
        key: str = PARTITION_KEY,
        partitioning: str = "daily",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.dataset = dataset
        self.uri = uri
        self.event_time = event_time
        self.layout = layout
        self.lands = lands
        self.contract = contract
        self.naive_times = naive_times
        self.reader = reader
        self.row_id_column = row_id_column
        self.key = key
        self.partitioning = partitioning

    def perform(self, context: Context) -> StagedPartition:
        """Stage, and say what was done."""
        from airflow_mlops.engine.data.checks.partition import load_contract
        from airflow_mlops.engine.data.staging import stage

        key = required_key(self.key)
        dataset = require(self.dataset, "dataset", "Name the dataset.")
        staged = stage(
            located(self, self.uri, "uri"),
            key,
            self.home_path / "staged" / dataset / key,
            event_time=self.event_time,
            layout=Layout(self.layout, Partitioning.parse(self.lands) if self.lands else None),
            partitioning=Partitioning.parse(self.partitioning),
            contract=load_contract(None if self.contract in (None, "", "None") else self.contract, self.code_path),
            naive_times=self.naive_times,
            options=self.reader or {},
            row_id=self.row_id_column or None,
        )
        for note in staged.notes or ("The files fit as they are.",):
            self.log.info("%s", note)
        return StagedPartition(dataset=dataset, key=key, uri=staged.uri, rows=staged.rows, notes=list(staged.notes))
