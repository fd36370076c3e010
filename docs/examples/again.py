"""A version of the past: its data built again, trained again, judged again."""

from airflow.sdk import DAG

from airflow_mlops.operators.feast.training_data import FeastRebuildTrainingDataOperator
from airflow_mlops.operators.mlflow import MLflowRejudgeModelOperator
from airflow_mlops.operators.tensorflow_rerun import TensorFlowRerunOperator

with DAG("example_again", schedule=None, params={"version": 1, "snapshot": ""}) as dag:
    rebuild = FeastRebuildTrainingDataOperator(
        task_id="rebuild", snapshot="{{ params.snapshot }}", source_dataset="orders", label_dataset="orders"
    )
    rerun = TensorFlowRerunOperator(task_id="rerun", model="shop", version="{{ params.version }}")
    rejudge = MLflowRejudgeModelOperator(task_id="rejudge", model="shop", version="{{ params.version }}")
    rebuild >> rerun >> rejudge
