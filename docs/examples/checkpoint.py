"""A checkpoint of a Great Expectations project of one's own."""

from airflow.sdk import DAG

from airflow_mlops.operators.gx import GXRunCheckpointOperator

with DAG("example_checkpoint", schedule=None, params={"project": "gx"}) as dag:
    GXRunCheckpointOperator(task_id="check", project="{{ params.project }}", checkpoint="orders")
