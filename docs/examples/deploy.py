"""The newest version that passed its gates: onto the model server, proven there, and into traffic."""

from airflow.sdk import DAG

from airflow_mlops.operators.feast.parity import FeastCheckParityOperator
from airflow_mlops.operators.mlflow import MLflowFetchApprovedModelOperator, MLflowSetAliasOperator
from airflow_mlops.operators.tf_serving import (
    TFServingLoadVersionOperator,
    TFServingPromoteVersionOperator,
    TFServingPublishModelOperator,
    TFServingVerifyVersionOperator,
)
from airflow_mlops.sensors.tf_serving import TFServingVersionSensor

with DAG("example_deploy", schedule=None) as dag:
    fetch = MLflowFetchApprovedModelOperator(task_id="fetch", model="shop")
    which = {"model": "shop", "version": fetch.output["version"]}
    publish = TFServingPublishModelOperator(task_id="publish", source=fetch.output["saved_model"], **which)
    load = TFServingLoadVersionOperator(task_id="load", **which)
    wait = TFServingVersionSensor(task_id="wait", **which)
    verify = TFServingVerifyVersionOperator(task_id="verify", **which)
    parity = FeastCheckParityOperator(task_id="parity", service="shop_v1", source_dataset="orders", **which)
    promote = TFServingPromoteVersionOperator(task_id="promote", passed=fetch.output["passed"], **which)
    champion = MLflowSetAliasOperator(task_id="champion", alias="champion", **which)
    publish >> load >> wait >> verify >> parity >> promote >> champion
