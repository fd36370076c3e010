"""DAGs for a small stack: a training for the queue `gpu` with work that needs no GPU, and the same training in two
places.
"""

from __future__ import annotations

from datetime import timedelta

from airflow.sdk import DAG, task

from airflow_mlops import GPU
from airflow_mlops.operators.tensorflow import TensorFlowTrainOperator
from airflow_mlops.operators.tensorflow_launch import training_tasks

TRAINING = {
    "model": "small",
    "data": "rows.parquet",
    "label_column": "y",
    "fit": "gpus_code:fit",
    "mlflow_conn_id": None,
    "ledger_conn_id": None,
}

with DAG("gpus", schedule=None, default_args={"retries": 1, "retry_delay": timedelta(seconds=1)}):

    @task
    def worker() -> str:
        """Return which worker this is."""
        import os

        return os.environ["WORKER"]

    train = training_tasks(gpu=GPU(1, or_cpu=True), **TRAINING)
    train >> [worker.override(task_id=f"worker_{number}")() for number in range(4)]

for where, place in {"local": {"executor": "LocalExecutor"}, "queue": {"gpu": GPU(1, or_cpu=True)}}.items():
    with DAG(f"train_{where}", schedule=None, params={"seed": 0}):
        TensorFlowTrainOperator(task_id="train", seed="{{ params.seed }}", **place, **TRAINING)
