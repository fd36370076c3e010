"""From sealed days to a judged version in the registry."""

from airflow.sdk import DAG

from airflow_mlops.operators.feast.training_data import FeastGetTrainingDataOperator
from airflow_mlops.operators.gx import GXValidateDataOperator
from airflow_mlops.operators.mlflow import MLflowJudgeModelOperator, MLflowRegisterModelOperator
from airflow_mlops.operators.tensorflow import TensorFlowEvaluateModelOperator, TensorFlowTrainOperator
from airflow_mlops.sensors.readiness import TrainingDataSensor

with DAG("example_train", schedule=None, params={"as_of": "2024-02-15T00:00:00+00:00", "seed": 0}) as dag:
    ready = TrainingDataSensor(
        task_id="ready",
        model="shop",
        sources=[{"dataset": "orders", "start": "2024-01-01"}],
        as_of="{{ params.as_of }}",
    )
    snapshot = FeastGetTrainingDataOperator(
        task_id="snapshot",
        model="shop",
        entity="order_id",
        event_time="ordered_at",
        service="shop_v1",
        source_dataset="orders",
        label_dataset="orders",
        label_column="returned",
        label_known_at="decided_at",
        matures_after="7d",
        keys=["price"],
        transform="shop_features:compute",
        start="2024-01-01",
        window="30d",
        validation="5d",
        test="10d",
        as_of=ready.output["as_of"],
    )
    validate = GXValidateDataOperator(
        task_id="validate",
        suite="shop_model:training_set",
        dataset="shop.snapshot",
        key=snapshot.output["id"],
        data=snapshot.output["uri"],
    )
    train = TensorFlowTrainOperator(
        task_id="train",
        model="shop",
        snapshot=snapshot.output["id"],
        validation=validate.output,
        entrypoint="shop_model:build",
        epochs=2,
        seed="{{ params.seed }}",
    )
    evaluate = TensorFlowEvaluateModelOperator(task_id="evaluate", model="shop", training=train.output["training"])
    register = MLflowRegisterModelOperator(
        task_id="register", model="shop", training=train.output["training"], evaluation=evaluate.output["uri"]
    )
    MLflowJudgeModelOperator(
        task_id="judge",
        model="shop",
        version=register.output["version"],
        evaluation=evaluate.output["uri"],
        gates=[{"metric": "log_loss", "max": 2.0}],
    )
