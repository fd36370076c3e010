"""Policies of this installation: Airflow applies them when it parses a DAG file."""

from __future__ import annotations

from datetime import timedelta
from typing import Any


def task_policy(task: Any) -> None:
    """Train where the GPU is, and take up soon what a killed worker left.

    A queue that the DAG file names stays as it is.
    """
    if task.task_type == "TensorFlowTrainOperator" and task.queue == "default":
        task.queue = "gpu"
    if type(task).__module__.startswith("airflow_mlops."):
        task.retry_delay = min(task.retry_delay, timedelta(seconds=15))
