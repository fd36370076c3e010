"""A DAG for a small stack: a training for the queue `gpu`, and work that needs no GPU."""

from __future__ import annotations

from datetime import timedelta

from airflow.sdk import DAG, task

from airflow_mlops import GPU
from airflow_mlops.operators.tensorflow import TensorFlowTrainOperator

with DAG("gpus", schedule=None, default_args={"retries": 2, "retry_delay": timedelta(seconds=1)}):

    @task
    def worker() -> str:
        """Return which worker this is."""
        import os

        return os.environ["WORKER"]

    train = TensorFlowTrainOperator(
        task_id="train",
        model="small",
        data="rows.parquet",
        label_column="y",
        fit="gpus_code:fit",
        gpu=GPU(1, or_cpu=True),
        mlflow_conn_id=None,
        ledger_conn_id=None,
    )
    train >> [worker.override(task_id=f"worker_{number}")() for number in range(4)]
