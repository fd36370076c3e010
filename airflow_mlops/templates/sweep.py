"""``mlops.sweep``: remove what is older than it need be, of all models that share a home folder. One DAG for all."""

from __future__ import annotations

from datetime import UTC, datetime

from airflow.sdk import DAG, Param
from airflow.sdk.definitions.param import ParamsDict

from airflow_mlops.hooks.ledger import LedgerHook
from airflow_mlops.operators.retention import SweepHomeOperator
from airflow_mlops.templates.base import TASK_DEFAULTS


def sweep_dag(
    keep: str,
    *,
    keep_data: str | None = None,
    cron: str | None = "@weekly",
    dag_id: str = "mlops.sweep",
    ledger_conn_id: str = LedgerHook.default_conn_name,
) -> DAG:
    """Return the DAG that keeps disks from filling.

    A DAG file needs no more than ``sweep = sweep_dag("90d")``.

    :param keep: Age that stays, such as ``90d``.
    :param keep_data: Age of the days of data that stay; None keeps all days.
    :param cron: When it runs; None is by hand only.
    :param ledger_conn_id: Airflow connection of type ``mlops_ledger``.
    """
    with DAG(
        dag_id=dag_id,
        description="Remove what is older than it need be, and what no kept model needs.",
        doc_md=SweepHomeOperator.__doc__,
        schedule=cron,
        start_date=datetime(2013, 1, 1, tzinfo=UTC),
        catchup=False,
        max_active_runs=1,
        default_args=TASK_DEFAULTS,
        tags={"mlops"},
    ) as dag:
        SweepHomeOperator(
            task_id="sweep",
            keep="{{ params.keep }}",
            keep_data="{{ params.keep_data or '' }}",
            only_say="{{ params.only_say }}",
            ledger_conn_id=ledger_conn_id,
        )
    dag.params = ParamsDict(
        {
            "keep": Param(keep, type="string", title="Keep", description="What is younger stays, such as 90d."),
            "keep_data": Param(
                keep_data,
                type=["null", "string"],
                title="Keep days of data",
                description="Days of sealed data that are younger stay. Empty: all days stay.",
            ),
            "only_say": Param(
                False, type="boolean", title="Only say it", description="Say in the log what would go; remove nothing."
            ),
        }
    )
    return dag
