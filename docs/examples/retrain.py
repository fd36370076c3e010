"""Whether something asks for a training, and whether what serves is too old."""

from airflow.sdk import DAG

from airflow_mlops.operators.admit import AdmitTrainingOperator
from airflow_mlops.operators.retraining import CheckServedAgeOperator, DecideTrainingOperator

WATCH = {
    "source": "orders",
    "labels": "orders",
    "inputs": ["orders"],
    "entity": "order_id",
    "label": "returned",
    "problem": "",
    "matures_after": "7d",
    "service": "shop_v1",
    "new_rows": 1,
    "drift_psi": None,
    "decay": None,
    "on_new_features": False,
}

with DAG("example_retrain", schedule=None, params={"cooldown": "1d"}) as dag:
    CheckServedAgeOperator(task_id="age", model="shop", max_age="36500d")
    decide = DecideTrainingOperator(task_id="decide", model="shop", watch=WATCH, cooldown="{{ params.cooldown }}")
    AdmitTrainingOperator(
        task_id="admit",
        model="shop",
        cut="2024-02-15T00:00:00+00:00",
        source_dataset="orders",
        matures_after="7d",
        start="2024-01-01",
        usual_window="30d",
        validation="7d",
        test="7d",
        request=decide.output["request"],
    )
