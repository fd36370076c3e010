"""``<model>.sources``: write down what the upstreams announce of their data by asset events.

While a dataset of the model is announced `degraded`, `<model>.train` holds; `ok` lets it go on. An upstream posts
an event of the asset `<dataset>.announcements` with the extra `{"state": "degraded", "reason": "…"}`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from airflow.sdk import AssetAny

from airflow_mlops.assets import announcements_asset
from airflow_mlops.operators.announcements import RecordAnnouncementsOperator
from airflow_mlops.templates.base import pipeline_dag

if TYPE_CHECKING:
    from airflow.sdk import DAG

    from airflow_mlops.pipeline import ModelPipeline


def sources_dag(pipeline: ModelPipeline) -> DAG:
    """Return the DAG that records announcements of the pipeline's feeds."""
    announced = [announcements_asset(feed.dataset) for feed in pipeline.feeds]
    with pipeline_dag(
        pipeline,
        "sources",
        __doc__,
        schedule=AssetAny(*announced),
        start_date=pipeline.source.starts_at,
    ) as dag:
        RecordAnnouncementsOperator(task_id="record", ledger_conn_id=pipeline.ledger_conn_id)
    return dag
