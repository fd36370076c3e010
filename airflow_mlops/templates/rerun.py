"""``<model>.rerun``: train a registered version again, and say whether the same comes out.

Trigger it with a `version`. Nothing is registered and nothing is deployed. The run fails, and says why, when the
weights or the metrics are others than the version's, or when what it was trained from is not there any more.
"""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

from airflow.sdk import Param

from airflow_mlops.durations import parse_duration
from airflow_mlops.operators.tensorflow_rerun import TensorFlowRerunOperator
from airflow_mlops.templates.base import pipeline_dag

if TYPE_CHECKING:
    from airflow.sdk import DAG

    from airflow_mlops.pipeline import ModelPipeline


def rerun_dag(pipeline: ModelPipeline) -> DAG:
    """Return the DAG that repeats a training."""
    timeout = parse_duration(pipeline.train.timeout)
    with pipeline_dag(
        pipeline,
        "rerun",
        __doc__,
        schedule=None,
        start_date=pipeline.source.starts_at,
        params={"version": Param(1, type="integer", minimum=1, title="Version", description="As the registry has it.")},
    ) as dag:
        TensorFlowRerunOperator(
            task_id="rerun",
            model=pipeline.model,
            version="{{ params.version }}",
            timeout=timeout.total_seconds(),
            execution_timeout=timeout + timedelta(minutes=10),
            mlflow_conn_id=pipeline.mlflow_conn_id,
            **pipeline.train.resources.as_arguments(),
        )
    return dag
