"""Go forward after rollbacks, and wait until the version that came of it serves."""

from airflow.sdk import DAG

from airflow_mlops.operators.roll_through import TFServingRollThroughOperator
from airflow_mlops.sensors.fleet import TrainedModelServesSensor

with DAG("example_forward", schedule=None, params={"reason": "", "confirm": ""}) as dag:
    forward = TFServingRollThroughOperator(
        task_id="forward", model="shop", reason="{{ params.reason }}", confirm="{{ params.confirm }}"
    )
    serves = TrainedModelServesSensor(task_id="serves", model="shop", run_id="roll_through__{{ run_id }}")
    forward >> serves
