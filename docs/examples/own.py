"""A training set that a task of yours has checked, and a SavedModel that another one has trained on it."""

from airflow.sdk import DAG

from airflow_mlops.operators.own_validation import RecordValidationOperator
from airflow_mlops.operators.tensorflow_adopt import TensorFlowAdoptModelOperator

with DAG("example_own", schedule=None, params={"snapshot": "", "data": "", "saved_model": ""}) as dag:
    record = RecordValidationOperator(
        task_id="record", data="{{ params.data }}", checked_by="my_checks", dataset="shop.snapshot"
    )
    TensorFlowAdoptModelOperator(
        task_id="adopt",
        model="shop",
        snapshot="{{ params.snapshot }}",
        validation=record.output,
        saved_model="{{ params.saved_model }}",
    )
