"""What a person does with a model that serves: keep it, leave days out, stop it, go back, let none answer."""

from airflow.sdk import DAG

from airflow_mlops.operators.exclusions import ExcludeWindowOperator, LiftExclusionOperator
from airflow_mlops.operators.runbook import HaltModelOperator, RemindOfPinOperator, ResumeModelOperator
from airflow_mlops.operators.tf_serving import (
    TFServingPinVersionOperator,
    TFServingRollbackOperator,
    TFServingUnpinVersionOperator,
)
from airflow_mlops.operators.withdraw import TFServingWithdrawModelOperator

with DAG("example_runbook", schedule=None, params={"reason": "an example"}) as dag:
    why = {"model": "shop", "reason": "{{ params.reason }}"}
    pin = TFServingPinVersionOperator(task_id="pin", **why)
    remind = RemindOfPinOperator(task_id="remind", model="shop", notify=["ml-team@example.com"])
    unpin = TFServingUnpinVersionOperator(task_id="unpin", **why)
    halt = HaltModelOperator(task_id="halt", **why)
    resume = ResumeModelOperator(task_id="resume", **why)
    back = TFServingRollbackOperator(task_id="back", **why)
    days = {"dataset": "orders", "first": "2024-01-05", "last": "2024-01-06", "confirm": "shop", **why}
    exclude = ExcludeWindowOperator(task_id="exclude", **days)
    lift = LiftExclusionOperator(task_id="lift", **days)
    withdraw = TFServingWithdrawModelOperator(task_id="withdraw", confirm="shop", **why)
    pin >> remind >> unpin >> exclude >> lift >> halt >> resume >> back >> withdraw
