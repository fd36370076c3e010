"""Versions compared, tagged, waited for, copied, and the old ones deleted."""

from airflow.sdk import DAG

from airflow_mlops.operators.mlflow_registry import (
    MLflowCompareModelsOperator,
    MLflowCopyModelVersionOperator,
    MLflowDeleteModelTagOperator,
    MLflowDeleteModelVersionsOperator,
    MLflowSetModelTagOperator,
)
from airflow_mlops.sensors.mlflow import MLflowAliasSensor, MLflowModelVersionTagSensor, MLflowRunSensor

with DAG("example_registry", schedule=None, params={"run_id": ""}) as dag:
    over = MLflowRunSensor(task_id="over", run_id="{{ params.run_id }}")
    serves = MLflowAliasSensor(task_id="serves", model="shop", alias="champion")
    compare = MLflowCompareModelsOperator(task_id="compare", model="shop", versions=[1, "champion"])
    ask = MLflowSetModelTagOperator(task_id="ask", model="shop", version="champion", tags={"review": "ok"})
    approved = MLflowModelVersionTagSensor(
        task_id="approved", model="shop", version="champion", tag="review", value="ok"
    )
    copy = MLflowCopyModelVersionOperator(task_id="copy", model="shop", version="champion", to_model="shop_eu")
    untag = MLflowDeleteModelTagOperator(task_id="untag", model="shop", version="champion", tags=["review"])
    old = MLflowDeleteModelVersionsOperator(task_id="old", model="shop", keep=10)
    over >> serves >> compare >> ask >> approved >> copy >> untag >> old
