"""A day of orders: waited for, read, validated, held against the days before, and sealed."""

from airflow.sdk import DAG

from airflow_mlops.operators.data import CheckPartitionOperator, SealPartitionOperator
from airflow_mlops.operators.gx import GXValidateDataOperator
from airflow_mlops.operators.stage import StagePartitionOperator
from airflow_mlops.sensors.data import PartitionArrivalSensor

ORDERS = {"uri": "{{ params.lake }}/orders", "layout": "dt={key}/*.csv", "key": "{{ params.day }}"}

with DAG("example_land", schedule=None, params={"lake": "lake", "day": "2024-01-01"}) as dag:
    wait = PartitionArrivalSensor(task_id="wait", marker=None, settle="5m", **ORDERS)
    stage = StagePartitionOperator(task_id="stage", dataset="orders", event_time="ordered_at", **ORDERS)
    day = {"dataset": "orders", "key": ORDERS["key"]}
    validate = GXValidateDataOperator(task_id="validate", suite="shop_model:orders", data=stage.output["uri"], **day)
    validated = {"uri": stage.output["uri"], "event_time": "ordered_at", "validation": validate.output, **day}
    check = CheckPartitionOperator(task_id="check", checks={"unique": ["order_id"]}, **validated)
    seal = SealPartitionOperator(task_id="seal", **validated)
    wait >> stage >> validate >> check >> seal
