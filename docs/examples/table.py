"""A day of a table: waited for until it is over, read, validated, sealed, and joined with the orders."""

from airflow.sdk import DAG

from airflow_mlops.operators.data import SealPartitionOperator
from airflow_mlops.operators.extract import ExtractPartitionOperator
from airflow_mlops.operators.gx import GXValidateDataOperator
from airflow_mlops.operators.reconcile import ReconcilePartitionsOperator
from airflow_mlops.sensors.data import PartitionEndSensor

with DAG("example_table", schedule=None, params={"day": "2024-01-01"}) as dag:
    day = {"dataset": "payments", "key": "{{ params.day }}"}
    over = PartitionEndSensor(task_id="over", key="{{ params.day }}", complete_after="2h")
    extract = ExtractPartitionOperator(
        task_id="extract", sql_conn_id="shop_db", table="payments", event_time="paid_at", **day
    )
    validate = GXValidateDataOperator(
        task_id="validate", suite="shop_model:training_set", data=extract.output["uri"], on_failure="warn", **day
    )
    seal = SealPartitionOperator(
        task_id="seal", uri=extract.output["uri"], event_time="paid_at", validation=validate.output, **day
    )
    reconcile = ReconcilePartitionsOperator(
        task_id="reconcile",
        reconcile={"left": "payments", "right": "orders", "on": ["order_id"]},
        start="2024-01-01",
        key="{{ params.day }}",
    )
    over >> extract >> validate >> seal >> reconcile
