"""``<model>.runbook``: what a person on call does by one trigger: roll back, pin, unpin, halt, resume.

- `rollback`: an earlier version answers again, and is pinned.
- `pin`: the version that serves stays, whatever passes its gates.
- `unpin`: the next version that passes its gates is deployed again.
- `halt`: the red button. No training starts, a running one registers nothing, nothing is deployed; what serves stays.
- `resume`: the halt is over. A training that waited goes on; of what was skipped, clear the tasks.

Who did it is the user who triggers it. None of them needs the registry: its aliases follow when it can.
"""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

from airflow.sdk import Param

from airflow_mlops.assets import champion_asset
from airflow_mlops.operators.mlflow import MLflowSetAliasOperator
from airflow_mlops.operators.runbook import ChooseOperator, HaltModelOperator, ResumeModelOperator
from airflow_mlops.operators.tf_serving import (
    TFServingPinVersionOperator,
    TFServingRollbackOperator,
    TFServingUnpinVersionOperator,
)
from airflow_mlops.templates.base import pipeline_dag, result

if TYPE_CHECKING:
    from airflow.sdk import DAG

    from airflow_mlops.pipeline import ModelPipeline


ACTIONS = ("rollback", "pin", "unpin", "halt", "resume")
# Airflow's form does not let itself be sent while a text that may not be null is empty.
TEXT = ["null", "string"]


def runbook_dag(pipeline: ModelPipeline) -> DAG:
    """Return the DAG of manual interventions."""
    with pipeline_dag(
        pipeline,
        "runbook",
        __doc__,
        schedule=None,
        start_date=pipeline.source.starts_at,
        # A halt does not queue behind a rollback that waits for a server.
        max_active_runs=16,
        params={
            "action": Param("rollback", enum=list(ACTIONS), title="Action"),
            "reason": Param(
                None,
                type=TEXT,
                title="Why",
                description="Kept in the ledger with your name, and shown to whoever asks.",
            ),
            "to_version": Param(
                None,
                type=["null", "integer"],
                minimum=1,
                title="Roll back to version",
                description="Any that is kept. Empty: the last one that served well.",
            ),
            "served_on": Param(
                None,
                type=TEXT,
                title="Roll back to what served on",
                description="Instead of a number: a day such as 2026-01-31, or a moment with its time zone.",
            ),
            "until": Param(
                None,
                type=TEXT,
                format="date-time",
                title="Until",
                description="When the pin of rollback and pin, or the halt, runs out. Empty: until somebody ends it.",
            ),
            "override_by": Param(
                None,
                type=TEXT,
                title="Override by",
                description="Who answers for going back to a version whose features have moved on. Empty: it is "
                "refused.",
            ),
            "override_reason": Param(None, type=TEXT, title="Override because"),
        },
    ) as dag:
        person = {
            "model": pipeline.model,
            "reason": "{{ params.reason or '' }}",
            "ledger_conn_id": pipeline.ledger_conn_id,
        }
        common = {**person, "tf_serving_conn_id": pipeline.deploy.server}
        until = "{{ params.until or '' }}"
        rollback = TFServingRollbackOperator(
            task_id="rollback",
            to="{{ '' if params.to_version is none else params.to_version }}",
            served_on="{{ params.served_on or '' }}",
            until=until,
            override_by="{{ params.override_by or '' }}",
            override_reason="{{ params.override_reason or '' }}",
            **common,
        )
        alias = MLflowSetAliasOperator(
            task_id="set_champion",
            model=pipeline.model,
            version=result(rollback, "version"),
            alias="champion",
            mlflow_conn_id=pipeline.mlflow_conn_id,
            execution_timeout=timedelta(minutes=2),
            outlets=[champion_asset(pipeline.model, pipeline.owner)],
        )
        pin = TFServingPinVersionOperator(task_id="pin", until=until, **common)
        unpin = TFServingUnpinVersionOperator(task_id="unpin", **common)
        halt = HaltModelOperator(task_id="halt", until=until, **person)
        resume = ResumeModelOperator(task_id="resume", **person)
        choose = ChooseOperator(task_id="choose", chosen="{{ params.action }}")
        choose >> [rollback, pin, unpin, halt, resume]
        rollback >> alias
    return dag
