"""Predictions of a sealed day: in the task, and by the model server."""

from airflow.sdk import DAG

from airflow_mlops.operators.predict import TensorFlowPredictOperator, TFServingPredictOperator

ORDERS = {"model": "shop", "entity": "order_id", "source_dataset": "orders", "service": "shop_v1"}

with DAG("example_predict", schedule=None, params={"day": "2024-02-14"}) as dag:
    TensorFlowPredictOperator(task_id="in_the_task", key="{{ params.day }}", dataset="shop.offline", **ORDERS)
    TFServingPredictOperator(task_id="by_the_server", key="{{ params.day }}", dataset="shop.online", **ORDERS)
