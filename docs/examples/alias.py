"""A DAG that runs whenever the alias `champion` of a model moves."""

from airflow.providers.standard.operators.bash import BashOperator
from airflow.sdk import DAG, Asset, AssetWatcher

from airflow_mlops.triggers.mlflow import MLflowAliasEventTrigger

trigger = MLflowAliasEventTrigger(model="shop", alias="champion")
moved = Asset("shop_champion", watchers=[AssetWatcher(name="shop_champion", trigger=trigger)])

with DAG("example_alias", schedule=[moved]) as dag:
    BashOperator(task_id="tell", bash_command="echo the champion is another")
