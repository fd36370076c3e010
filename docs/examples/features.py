"""Features of a day: registered, computed, put online, and fresh there."""

from airflow.sdk import DAG

from airflow_mlops.operators.feast.apply import FeastApplyOperator
from airflow_mlops.operators.feast.compute import FeastComputeFeaturesOperator
from airflow_mlops.operators.feast.materialize import FeastMaterializeOperator, FeastPlanMaterializationOperator
from airflow_mlops.sensors.feast import FeastFeatureFreshnessSensor

with DAG("example_features", schedule=None, params={"day": "2024-02-14"}) as dag:
    apply = FeastApplyOperator(task_id="apply")
    compute = FeastComputeFeaturesOperator(
        task_id="compute",
        transform="shop_features:compute",
        datasets=["orders"],
        history="30d",
        start={"orders": "2024-01-01"},
        late={"orders": ["returned", "decided_at"]},
        key="{{ params.day }}",
    )
    plan = FeastPlanMaterializationOperator(task_id="plan", service="shop_v1", key="{{ params.day }}")
    write = FeastMaterializeOperator.partial(task_id="write").expand(chunk=plan.output)
    fresh = FeastFeatureFreshnessSensor(task_id="fresh", service="shop_v1", key="{{ params.day }}")
    apply >> compute >> plan >> write >> fresh
