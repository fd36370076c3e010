"""What all DAGs of a pipeline share."""

from __future__ import annotations

from datetime import UTC, date, datetime, time, timedelta
from typing import TYPE_CHECKING, Any

from airflow.sdk import DAG

if TYPE_CHECKING:
    from airflow.sdk import BaseOperator

    from airflow_mlops.pipeline import ModelPipeline

# Everything these tasks do is idempotent, so retrying is safe; errors that a retry cannot cure fail at once.
TASK_DEFAULTS: dict[str, Any] = {
    "retries": 2,
    "retry_delay": timedelta(seconds=30),
    "execution_timeout": timedelta(hours=1),
}


def midnight(day: date) -> datetime:
    """Return the UTC midnight at which a day starts."""
    return datetime.combine(day, time(), tzinfo=UTC)


def result(task: BaseOperator, key: str) -> Any:
    """Return a template for one entry of what ``task`` will push."""
    output: Any = task.output
    return output[key]


def pipeline_dag(pipeline: ModelPipeline, name: str, doc: str | None, **kwargs: Any) -> DAG:
    """Return an empty DAG ``<model>.<name>`` with the defaults that all of them share.

    One run at a time: the DAGs move watermarks, labels and aliases forward, in order.
    """
    return DAG(
        dag_id=f"{pipeline.model}.{name}",
        doc_md=doc,
        catchup=False,
        max_active_runs=1,
        default_args=TASK_DEFAULTS,
        tags={"mlops", pipeline.model, *pipeline.tags},
        **kwargs,
    )
