"""Data that a task of one's own has validated."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from airflow_mlops.hooks.ledger import LedgerHook
from airflow_mlops.operators.base import MlopsOperator, said
from airflow_mlops.operators.data import located
from airflow_mlops.operators.gx_base import ValidatedBatch

if TYPE_CHECKING:
    from airflow.sdk import Context


class RecordValidationOperator(MlopsOperator):
    """Write down that a task before has validated some files, and which bytes those are.

    Use it where a task of yours checks data, in place of ``GXValidateDataOperator``.

    What comes after takes these bytes and no others, as after ``GXValidateDataOperator``. If that task fails, this one
    does not run.

    :param data: Folder, file or glob of Parquet files; a relative path starts at the home folder.
    :param checked_by: Name of the task that validated them.
    :param dataset: Subject of the result in the ledger.
    :param key: Partition key of the result in the ledger.
    :param ledger_conn_id: Airflow connection of type ``mlops_ledger``.
    """

    template_fields = (*MlopsOperator.template_fields, "data", "checked_by", "dataset", "key", "ledger_conn_id")

    def __init__(
        self,
        *,
        data: str,
        checked_by: str,
        dataset: str,
        key: str = "",
        ledger_conn_id: str = LedgerHook.default_conn_name,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.data = data
        self.checked_by = checked_by
        self.dataset = dataset
        self.key = key
        self.ledger_conn_id = ledger_conn_id

    def perform(self, context: Context) -> ValidatedBatch:
        """Count the rows, take the identity of the files, and write both down."""
        import pyarrow.parquet as pq

        from airflow_mlops.contracts import ExpectationOutcome, ValidationResult, content_hash
        from airflow_mlops.engine.data import storage
        from airflow_mlops.engine.data.parquet import parquet_files
        from airflow_mlops.engine.data.partitions import batch_hash

        where = located(self, self.data, "data")
        with storage.on_disk(list(parquet_files(where))) as files:
            result = ValidationResult(
                suite=f"task {self.checked_by}",
                suite_hash=content_hash(["task", self.checked_by]),
                batch=str(where),
                batch_hash=batch_hash(files),
                rows=sum(pq.read_metadata(file).num_rows for file in files),
                outcomes=(
                    ExpectationOutcome(expectation=self.checked_by, column=None, severity="block", success=True),
                ),
                engine="task",
            )
        ledger = LedgerHook(self.ledger_conn_id).get_conn()
        ledger.record("validation", self.dataset, result.model_dump(mode="json"), key=said(self.key))
        return ValidatedBatch(
            suite=result.suite,
            suite_hash=result.suite_hash,
            suite_version=result.suite_version,
            batch=result.batch,
            batch_hash=result.batch_hash,
            rows=result.rows,
            expectations=1,
            passed=True,
            failed=[],
        )
