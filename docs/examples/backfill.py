"""Work on days of the past: planned, begun, tried on one day, done, and held against the plan."""

from airflow.sdk import DAG
from shop import shop

from airflow_mlops.operators.backfill import (
    BeginBackfillOperator,
    PlanBackfillOperator,
    ProbeBackfillOperator,
    RunBackfillOperator,
    VerifyBackfillOperator,
)

with DAG("example_backfill", schedule=None, params={"first": "2024-02-13", "last": "2024-02-14"}) as dag:
    plan = PlanBackfillOperator(task_id="plan", pipeline=shop, first="{{ params.first }}", last="{{ params.last }}")
    planned = {"pipeline": shop, "plan": plan.output["plan"]}
    begin = BeginBackfillOperator(task_id="begin", **planned)
    probe = ProbeBackfillOperator(task_id="probe", **planned)
    seal = RunBackfillOperator.partial(task_id="seal", work="seal", **planned).expand(share=begin.output)
    compute = RunBackfillOperator.partial(task_id="compute", work="compute", **planned).expand(share=begin.output)
    verify = VerifyBackfillOperator(task_id="verify", **planned)
    begin >> probe >> seal >> compute >> verify
