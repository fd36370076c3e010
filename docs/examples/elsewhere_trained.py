"""A training in a pod of Kubernetes, in the place of `TensorFlowTrainOperator`, and its two ends by themselves."""

from airflow.sdk import DAG

from airflow_mlops.operators.tensorflow_launch import (
    TensorFlowCollectTrainingOperator,
    TensorFlowPrepareTrainingOperator,
    training_tasks,
)

with DAG("example_pod", schedule=None, params={"snapshot": ""}) as pod:
    training_tasks(launcher="kubernetes", model="shop", snapshot="{{ params.snapshot }}", entrypoint="shop_model:build")

with DAG("example_own_cluster", schedule=None, params={"snapshot": ""}) as own_cluster:
    prepare = TensorFlowPrepareTrainingOperator(
        task_id="prepare",
        model="shop",
        snapshot="{{ params.snapshot }}",
        entrypoint="shop_model:build",
        image="registry.example.com/mlops/train:1.0",
    )
    # Between the two, whatever runs the container with the command in `prepare.output["command"]`.
    collect = TensorFlowCollectTrainingOperator(task_id="collect", model="shop", job=prepare.output["job"])
    prepare >> collect
