"""Policies of this installation: Airflow applies them when it parses a DAG file."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from airflow_mlops import GPU


def task_policy(task: Any) -> None:
    """Train on the worker for it, on its GPU if it has one, and take up soon what a killed worker left.

    A queue that the DAG file names stays as it is.
    """
    if task.task_type == "TensorFlowTrainOperator" and task.queue == "default":
        for name, value in GPU(1, or_cpu=True).as_arguments().items():
            setattr(task, name, value)
    if type(task).__module__.startswith("airflow_mlops."):
        task.retry_delay = min(task.retry_delay, timedelta(seconds=15))
