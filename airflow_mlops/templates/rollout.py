"""``<fleet>.rollout``: train and deploy the first member of a fleet, and then all others.

The others are trained once the version that the first one's training made serves. If it fails its gates, or its
deployment fails, they keep what they have, and this run fails. Then mend the cause, clear the first member's run and
its task here; or, to let the others follow all the same, mark the task `serves` of the first as success.

A member that fails stops no other. To go on with it, clear its run and its task here.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from typing import TYPE_CHECKING

from airflow.sdk import CronTriggerTimetable, TaskGroup, TriggerRule

from airflow_mlops.durations import parse_duration
from airflow_mlops.operators.start_training import StartTrainingOperator
from airflow_mlops.sensors.fleet import TrainedModelServesSensor
from airflow_mlops.templates.base import pipeline_dag, text_field

if TYPE_CHECKING:
    from airflow.sdk import DAG

    from airflow_mlops.fleet import Fleet
    from airflow_mlops.pipeline import ModelPipeline

RUN = "rollout__{{ run_id }}"
"""Run of a member's training: the same however often a task of the rollout is tried."""
_SLACK = timedelta(hours=1)
"""For what waits: for data, for a slot, for the deployment to begin."""


def rollout_dag(fleet: Fleet, members: Mapping[str, ModelPipeline]) -> DAG:
    """Return the DAG that brings a new version, or a retraining, to one member first and then to all.

    :param members: Member → its pipeline, of those whose configuration is right.
    """
    base, cron = fleet.base, fleet.base.retrain.cron
    first, others = fleet.model_of(fleet.first), {name: one for name, one in members.items() if name != fleet.first}
    names = ", ".join(f"`{one.model}`" for one in others.values())
    with pipeline_dag(
        base,
        "rollout",
        f"{__doc__}\nFirst `{first}`; then {names or 'nobody: no other member has a configuration that is right'}.\n",
        schedule=CronTriggerTimetable(cron, timezone="UTC") if cron else None,
        start_date=base.source.starts_at,
        params={"reason": text_field("Why", "Kept in the ledger with each training, and in the models' manifests.")},
    ) as dag:
        with TaskGroup("first", tooltip=f"{first}, before all others") as group:
            _member(first, members.get(fleet.first, base))
        if others:
            with TaskGroup("others", tooltip="All other members, each for itself") as follow:
                for name, pipeline in others.items():
                    with TaskGroup(name, tooltip=pipeline.model):
                        _member(pipeline.model, pipeline)
            group >> follow
    return dag


def _member(model: str, pipeline: ModelPipeline) -> None:
    """Add the two tasks of a member: its training, and that what it made serves."""
    longest = parse_duration(pipeline.train.timeout) + parse_duration(pipeline.deploy.timeout) + _SLACK
    train = StartTrainingOperator(
        task_id="train",
        doc_md="Start the training of the member, and wait for it. One that this run has started already is not "
        "started again: then this is skipped.",
        trigger_dag_id=f"{model}.train",
        trigger_run_id=RUN,
        logical_date=None,
        conf={"reason": "{{ dag.dag_id }}: {{ params.reason or run_id }}"},
        note="{{ dag.dag_id }}: {{ params.reason or run_id }}",
        skip_when_already_exists=True,
        fail_when_dag_is_paused=True,
        wait_for_completion=True,
        deferrable=True,
        poke_interval=10,
        execution_timeout=None,  # the training has its own
    )
    serves = TrainedModelServesSensor(
        task_id="serves",
        model=model,
        run_id=RUN,
        tf_serving_conn_id=pipeline.deploy.server,
        ledger_conn_id=pipeline.ledger_conn_id,
        deferrable=True,
        poke_interval=10,
        timeout=longest.total_seconds(),
        execution_timeout=None,
        trigger_rule=TriggerRule.NONE_FAILED,  # a training that was started already is skipped
    )
    train >> serves
