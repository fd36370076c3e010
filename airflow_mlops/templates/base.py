"""What all DAGs of a pipeline share."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from airflow.sdk import DAG, Param, TaskGroup
from airflow.sdk.definitions.param import ParamsDict

from airflow_mlops.operators.runbook import RemindOfPinOperator

if TYPE_CHECKING:
    from airflow.sdk import BaseOperator

    from airflow_mlops.notifications import Event
    from airflow_mlops.pipeline import ModelPipeline

# Everything these tasks do is idempotent, so retrying is safe; errors that a retry cannot cure fail at once.
TASK_DEFAULTS: dict[str, Any] = {
    "retries": 2,
    "retry_delay": timedelta(seconds=30),
    "execution_timeout": timedelta(hours=1),
}


def result(task: BaseOperator, key: str) -> Any:
    """Return a template for one entry of what ``task`` will push."""
    output: Any = task.output
    return output[key]


def refused_as(pipeline: ModelPipeline, event: Event) -> dict[str, Any]:
    """Return the argument of a task that refuses what it is given, so that this is told as what it is."""
    if not pipeline.notify:
        return {}
    from airflow_mlops.notifications import on_failure

    return on_failure(pipeline, event)


@contextmanager
def pipeline_dag(
    pipeline: ModelPipeline,
    name: str,
    doc: str | None,
    *,
    params: Mapping[str, Param] | None = None,
    max_active_runs: int = 1,
    model: str = "",
    **kwargs: Any,
) -> Iterator[DAG]:
    """Open the DAG ``<model>.<name>`` for its tasks, with the defaults that all of a pipeline's DAGs share.

    :param doc: What it does. Its first sentence is what the list of DAGs shows.
    :param params: Its trigger form. The DAG gets it last: every task made before would carry a copy of it, that
        Airflow validates, compares and stores each time the file is parsed. A run has the DAG's params anyway.
    :param max_active_runs: One at a time, where watermarks, labels and aliases move forward in order.
    :param model: Of which model it is; default is the pipeline's own.
    """
    model = model or pipeline.model
    if pipeline.notify and name in pipeline.deadlines:
        from airflow_mlops.notifications import deadline_alert

        kwargs["deadline"] = deadline_alert(pipeline, name)
    dag = DAG(
        dag_id=f"{model}.{name}",
        doc_md=doc,
        description=_first_sentence(doc or ""),
        catchup=False,
        max_active_runs=max_active_runs,
        default_args=_defaults(pipeline),
        tags={"mlops", model, *pipeline.tags},
        **kwargs,
    )
    with dag:
        yield dag
    # Not by `dag.params =`, which checks each field's schema anew: a sixth of all that a pipeline's DAGs take to build.
    # tests/unit/test_stage_groups.py checks them.
    object.__setattr__(dag, "params", ParamsDict({**(params or {})}))


class Stage(TaskGroup):
    """The tasks of one stage of a pipeline, in a DAG of one's own.

    ``output`` is what its last task returns, for a task behind it.
    """

    output: Any = None


@contextmanager
def stage(pipeline: ModelPipeline, group_id: str, macros: Mapping[str, Any]) -> Iterator[Stage]:
    """Open the group of a stage in the DAG that is being written, with the defaults of the pipeline's own DAGs.

    :param macros: What its templates call, beside Airflow's.
    """
    defaults: Any = _defaults(pipeline)
    group = Stage(group_id, default_args=defaults)
    with group:
        yield group
    group.dag.user_defined_macros = {**macros, **(group.dag.user_defined_macros or {})}


def _defaults(pipeline: ModelPipeline) -> dict[str, Any]:
    """Return what all tasks of a pipeline are given that say nothing else."""
    defaults = {**TASK_DEFAULTS, **({"owner": pipeline.owner} if pipeline.owner else {})}
    if pipeline.notify:
        from airflow_mlops.notifications import on_failure

        defaults |= on_failure(pipeline)
    return defaults


def _first_sentence(doc: str) -> str:
    """Return the first sentence of a template's docstring, without the id of the DAG that it begins with."""
    sentence = " ".join(doc.partition("``: ")[2].partition("\n\n")[0].split()).partition(". ")[0].rstrip(".")
    return f"{sentence[:1].upper()}{sentence[1:]}."


def span_form(pipeline: ModelPipeline, *, to: str) -> dict[str, Param]:
    """Return the fields of a form that names days of a pipeline's source, and how many partitions a task has.

    :param to: What an empty last day means.
    """
    start, end = pipeline.source.start.isoformat(), pipeline.source.end and pipeline.source.end.isoformat()
    last = f"Last day. Empty: {to}."
    return {
        "first": Param(start, type="string", format="date", title="From", description="First day."),
        "last": Param(end, type=["null", "string"], format="date", title="To", description=last),
        "partitions": Param(100, type="integer", minimum=1, title="Partitions a task"),
    }


def text_field(title: str, description: str) -> Param:
    """Return a text of a trigger form that may stay empty."""
    return Param(None, type=["null", "string"], title=title, description=description)


def sources_of(pipeline: ModelPipeline) -> list[dict[str, str]]:
    """Return the feeds that must be complete for a training, in plain values."""
    return [
        {
            "dataset": feed.dataset,
            "start": feed.start.isoformat(),
            "end": feed.end.isoformat() if feed.end else "",
            "ahead": "ahead" if feed.dataset in pipeline.ahead else "",
        }
        for feed in pipeline.feeds
    ]


def remind_of_pin(pipeline: ModelPipeline) -> None:
    """Add the task that tells the pipeline's notifiers of a pin that is about to run out, if there are any."""
    if pipeline.notify:
        RemindOfPinOperator(
            task_id="remind_of_pin",
            model=pipeline.model,
            notify=pipeline.notify,
            tf_serving_conn_id=pipeline.deploy.server,
            ledger_conn_id=pipeline.ledger_conn_id,
        )
