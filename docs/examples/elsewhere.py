"""A SavedModel that some other job wrote: registered, and fetched as whoever serves it would."""

from airflow.sdk import DAG

from airflow_mlops.operators.mlflow import MLflowSetAliasOperator
from airflow_mlops.operators.mlflow_elsewhere import MLflowFetchModelOperator, MLflowRegisterSavedModelOperator
from airflow_mlops.operators.mlflow_registry import MLflowDeleteAliasOperator

with DAG("example_elsewhere", schedule=None, params={"saved_model": ""}) as dag:
    register = MLflowRegisterSavedModelOperator(task_id="register", model="bought", source="{{ params.saved_model }}")
    shadow = MLflowSetAliasOperator(
        task_id="shadow", model="bought", version=register.output["version"], alias="shadow"
    )
    fetch = MLflowFetchModelOperator(task_id="fetch", model="bought", alias="shadow")
    away = MLflowDeleteAliasOperator(task_id="away", model="bought", alias="shadow")
    shadow >> fetch >> away
