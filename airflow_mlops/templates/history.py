"""``<model>.history``: load months and years of landed data in one go, many partitions a task.

Each partition passes the suite and the checks that it would pass day by day. What is there is left alone: trigger the
same span again after a correction. One that is blocked, or of which other bytes have landed than are sealed, stops no
other; `report` lists them. What is sealed is replaced by `<model>.backfill`, which says who saw it. Features go
online with the next run of `<model>.features`.
"""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

from airflow_mlops.operators.base import doc_of
from airflow_mlops.operators.history import LoadHistoryOperator, PlanHistoryOperator, ReportHistoryOperator
from airflow_mlops.templates.base import pipeline_dag, span_form

if TYPE_CHECKING:
    from airflow.sdk import DAG

    from airflow_mlops.pipeline import ModelPipeline


def history_dag(pipeline: ModelPipeline) -> DAG:
    """Return the DAG that loads a history."""
    with pipeline_dag(
        pipeline,
        "history",
        __doc__,
        schedule=None,
        start_date=pipeline.source.starts_at,
        params=span_form(pipeline, to="yesterday"),
    ) as dag:
        plan = PlanHistoryOperator(
            task_id="plan",
            pipeline=pipeline,
            first="{{ params.first }}",
            last="{{ params.last or macros.ds_add(dag_run.run_after | ds, -1) }}",
            partitions="{{ params.partitions }}",
        )
        load = LoadHistoryOperator.partial(
            doc_md=doc_of(LoadHistoryOperator),
            task_id="load",
            pipeline=pipeline,
            # In order: what comes later is compared with what came before.
            max_active_tis_per_dagrun=1,
            execution_timeout=timedelta(hours=12),
            feast_conn_id=pipeline.features.conn_id,
            ledger_conn_id=pipeline.ledger_conn_id,
        ).expand(stretch=plan.output)
        report = ReportHistoryOperator(task_id="report", loaded=load.output)
        load >> report
    return dag
