"""What the scheduler does when a run starts or ends: a run that trains says in its note why.

A task cannot write the note of its own run. The scheduler can: it knows at once what made the run, and at its end what
``admit`` found.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from airflow.listeners import hookimpl

if TYPE_CHECKING:
    from airflow.models.dagrun import DagRun

_ADMITS = "AdmitTrainingOperator"
_FOUND = ("why", "held")
"""What the task pushes: what it trains for, or why it does not."""


@hookimpl
def on_dag_run_running(dag_run: DagRun) -> None:
    """Say what made the run."""
    if _admitting(dag_run) and not dag_run.note:
        dag_run.note = _made_by(dag_run)


@hookimpl
def on_dag_run_success(dag_run: DagRun) -> None:
    """Say what the run trained for, and for what else that waited; or why it did not."""
    _tell(dag_run)


@hookimpl
def on_dag_run_failed(dag_run: DagRun) -> None:
    """Say the same of a run that failed."""
    _tell(dag_run)


def _tell(dag_run: DagRun) -> None:
    tasks = _admitting(dag_run)
    if not tasks:
        return
    from airflow.models.xcom import XComModel
    from sqlalchemy import select
    from sqlalchemy.orm import object_session

    session: Any = object_session(dag_run)
    if session is None:  # of dag.test()
        return
    if dag_run.note not in (None, "", _made_by(dag_run)):
        return  # somebody wrote something else there
    of_run = (XComModel.dag_id == dag_run.dag_id, XComModel.run_id == dag_run.run_id)
    pushed = select(XComModel).where(*of_run, XComModel.task_id.in_(tasks), XComModel.key.in_(_FOUND))
    found = [str(XComModel.deserialize_value(one)) for one in session.scalars(pushed)]
    dag_run.note = "; ".join(found) or _made_by(dag_run)


def _admitting(dag_run: DagRun) -> list[str]:
    """Return the tasks of a run that decide whether it trains."""
    dag: Any = dag_run.dag
    return [] if dag is None else [task.task_id for task in dag.tasks if task.task_type == _ADMITS]


def _made_by(dag_run: DagRun) -> str:
    """Return what made a run, as requests for training say it."""
    kind = str(getattr(dag_run.run_type, "value", dag_run.run_type))
    stands_for = dag_run.logical_date or dag_run.run_after
    if kind == "scheduled":
        return f"cron: the schedule, due {stands_for.isoformat()}"
    if kind == "backfill":
        return f"backfill: Airflow's backfill {dag_run.backfill_id}, for {stands_for.isoformat()}"
    reason = (dag_run.conf or {}).get("reason") or "no reason was given"
    who = f" by {dag_run.triggering_user_name}" if dag_run.triggering_user_name else ""
    return f"{'hand' if kind == 'manual' else kind}{who}: {reason}"
