"""Hold two sealed feeds against each other."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypedDict

from airflow_mlops.hooks.ledger import LedgerHook
from airflow_mlops.links.gx import GXValidationReportLink
from airflow_mlops.moments import parse_day
from airflow_mlops.operators.base import MlopsOperator, required_key
from airflow_mlops.operators.data import PARTITION_KEY
from airflow_mlops.operators.other_runs import WaitsForOtherRuns
from airflow_mlops.operators.reports import publish_report
from airflow_mlops.parts import Reconcile

if TYPE_CHECKING:
    from airflow.sdk import Context


class ReconciledPartition(TypedDict):
    """A day whose rows found their partners: how many rows it has, and the warnings, as outcomes."""

    left: str
    right: str
    key: str
    rows: int
    failed: list[dict[str, Any]]


class ReconcilePartitionsOperator(WaitsForOtherRuns):
    """Check that the rows of a sealed day find their partners in another feed that tells of the same things.

    Two feeds can be perfect each by itself while no row of one finds its partner in the other: then a join yields
    nothing, without an error.

    :param reconcile: Arguments of :class:`~airflow_mlops.parts.Reconcile`.
    :param start: First day of the right feed (ISO).
    :param key: Partition key.
    :param ledger_conn_id: Airflow connection of type ``mlops_ledger``.
    """

    template_fields = (*MlopsOperator.template_fields, "reconcile", "start", "key", "ledger_conn_id")
    operator_extra_links = (GXValidationReportLink(),)

    def __init__(
        self,
        *,
        reconcile: Mapping[str, Any],
        start: str,
        key: str = PARTITION_KEY,
        ledger_conn_id: str = LedgerHook.default_conn_name,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.reconcile = reconcile
        self.start = start
        self.key = key
        self.ledger_conn_id = ledger_conn_id

    def perform(self, context: Context) -> ReconciledPartition:
        """Compare, record, and refuse a day whose rows find no partner."""
        from airflow_mlops.engine.data.checks import reconcile_partitions
        from airflow_mlops.engine.data.validation import enforce, explain

        key = required_key(self.key)
        how = Reconcile(**self.reconcile)
        ledger = LedgerHook(self.ledger_conn_id).get_conn()
        with self.other_runs_minded(context):
            result = reconcile_partitions(
                self.partition_store(ledger), ledger, key, how, start=parse_day(self.start, "start")
            )
        ledger.record("validation", f"{how.left}.{how.right}", result.model_dump(mode="json"), key=key)
        publish_report(self, context, result)
        enforce(result)
        if result.failed:
            self.log.warning("%s passes with warnings:\n%s", result.batch, explain(result))
        for outcome in result.outcomes:
            self.log.info("%s: %s", outcome.expectation, outcome.note)
        failed = [outcome.model_dump(mode="json") for outcome in result.failed]
        return ReconciledPartition(left=how.left, right=how.right, key=key, rows=result.rows, failed=failed)
