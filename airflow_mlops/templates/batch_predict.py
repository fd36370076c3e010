"""``<model>.batch_predict``: predict the rows of a partition by the version that serves, and seal the predictions.

Their features are read as known at each row's time. Runs when `<model>.features` has brought a partition's features
online, or by its own schedule. Trigger by hand with a `key` such as `2013-01-15`, or without one for the last that has
ended. The same rows by the same version are not predicted twice.
"""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any

from airflow.sdk import CronPartitionTimetable, PartitionedAssetTimetable

from airflow_mlops.assets import features_asset, partitions_asset
from airflow_mlops.operators.predict import TensorFlowPredictOperator, TFServingPredictOperator
from airflow_mlops.partitioning import latest
from airflow_mlops.templates.base import pipeline_dag, refused_as, text_field

if TYPE_CHECKING:
    from airflow.sdk import DAG

    from airflow_mlops.batch import BatchPredict
    from airflow_mlops.pipeline import ModelPipeline


def batch_predict_dag(pipeline: ModelPipeline, batch: BatchPredict) -> DAG:
    """Return the DAG that predicts each partition of the source."""
    source, cut = pipeline.source, pipeline.source.partitioning
    dataset = f"{pipeline.model}.predictions"
    schedule: Any = PartitionedAssetTimetable(assets=features_asset(pipeline.model, pipeline.owner))
    if batch.cron:
        schedule = CronPartitionTimetable(
            batch.cron, timezone=cut.cron[1], run_offset=-1, key_format=cut.key_format
        )  # fmt: skip
    with pipeline_dag(
        pipeline,
        "batch_predict",
        __doc__,
        schedule=schedule,
        start_date=source.starts_at,
        # By cron, the last partition is predicted after its end.
        end_date=source.ends_at + timedelta(days=8) if source.ends_at else None,
        user_defined_macros={"latest": latest},
        params={
            "key": text_field(
                "Partition", "Such as 2013-01-15. Empty: that of the run, or the last one that has ended."
            )
        },
    ) as dag:
        asked: dict[str, Any] = {
            "task_id": "predict",
            "model": pipeline.model,
            "entity": pipeline.entity,
            "source_dataset": source.dataset,
            "event_time": source.event_time,
            "columns": list(batch.columns),
            "service": pipeline.features.name,
            "suite": batch.suite or "",
            "dataset": dataset,
            "skip_unserved": True,
            "key": f"{{{{ params.key or partition_key or latest('{cut}', '{source.end or ''}') }}}}",
            "feast_conn_id": pipeline.features.conn_id,
            "ledger_conn_id": pipeline.ledger_conn_id,
            "outlets": [partitions_asset(dataset)],
            "execution_timeout": timedelta(hours=6),
            **refused_as(pipeline, "partition_blocked"),
            **batch.resources.as_arguments(),
        }
        if batch.through == "server":
            TFServingPredictOperator(tf_serving_conn_id=pipeline.deploy.server, **asked)
        else:
            TensorFlowPredictOperator(mlflow_conn_id=pipeline.mlflow_conn_id, **asked)
    return dag
