"""What all DAGs of a pipeline share."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, date, datetime, time, timedelta
from typing import TYPE_CHECKING, Any

from airflow.sdk import DAG, Param
from airflow.sdk.definitions.param import ParamsDict

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


@contextmanager
def pipeline_dag(
    pipeline: ModelPipeline, name: str, doc: str | None, *, params: Mapping[str, Param] | None = None, **kwargs: Any
) -> Iterator[DAG]:
    """Open the DAG ``<model>.<name>`` for its tasks, with the defaults that all of a pipeline's DAGs share.

    One run at a time: the DAGs move watermarks, labels and aliases forward, in order.

    :param params: Its trigger form. The DAG gets it last: every task made before would carry a copy of it, that
        Airflow validates, compares and stores each time the file is parsed. A run has the DAG's params anyway.
    """
    dag = DAG(
        dag_id=f"{pipeline.model}.{name}",
        doc_md=doc,
        catchup=False,
        max_active_runs=1,
        default_args=TASK_DEFAULTS,
        tags={"mlops", pipeline.model, *pipeline.tags},
        **kwargs,
    )
    with dag:
        yield dag
    dag.params = ParamsDict({**(params or {})})
