"""``<model>.runbook``: what a person on call does by one trigger: halt, resume, pin, unpin, withdraw.

- `halt`: the red button. No training starts, a running one registers nothing, nothing is deployed; what serves stays.
- `resume`: the halt is over. A training that waited goes on; of what was skipped, clear the tasks.
- `pin`: the version that serves stays, whatever passes its gates.
- `unpin`: the next version that passes its gates is deployed again.
- `withdraw`: no version answers, for when none is good. Callers are refused at once, and use what they have for that.

Who did it is the user who triggers it. None of them needs the registry. To go back or forward, or to keep bad data out:
`<model>.rollback`, `<model>.roll_through`, `<model>.exclude`. To train now: `<model>.train`.
"""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any

from airflow.sdk import Param

from airflow_mlops.assets import champion_asset
from airflow_mlops.operators.exclusions import ExcludeWindowOperator, LiftExclusionOperator
from airflow_mlops.operators.mlflow import MLflowSetAliasOperator
from airflow_mlops.operators.mlflow_registry import MLflowDeleteAliasOperator
from airflow_mlops.operators.roll_through import TFServingRollThroughOperator
from airflow_mlops.operators.runbook import ChooseOperator, HaltModelOperator, ResumeModelOperator
from airflow_mlops.operators.tf_serving import (
    TFServingPinVersionOperator,
    TFServingRollbackOperator,
    TFServingUnpinVersionOperator,
)
from airflow_mlops.operators.withdraw import TFServingWithdrawModelOperator
from airflow_mlops.templates.base import pipeline_dag, result

if TYPE_CHECKING:
    from airflow.sdk import DAG

    from airflow_mlops.pipeline import ModelPipeline

# Airflow's form does not let itself be sent while a text that may not be null is empty.
TEXT = ["null", "string"]
UNTIL = "{{ params.until or '' }}"

ROLLBACK = """``<model>.rollback``: an earlier version answers again, and is pinned.

Without a version it is the last one that served well. Where the data went bad on a known day, name that day in
`trained_before`: then it is the newest one that knows nothing of it. Exclude the bad days too (`<model>.exclude`), or
the next training learns them again. The registry's alias follows when it can.
"""

EXCLUDE = """``<model>.exclude``: keep a window of bad data out of every training set, or lift that.

It holds for every training of every model that reads the feed, also scheduled and backfilled ones, until it is lifted.
Then trigger `<model>.backfill` for these days: it says which models learned from them, and computes again the features
that read them. For one training only, there is a field in the form of `<model>.train`.
"""

ROLL_THROUGH = """``<model>.roll_through``: go forward through a bad time, not back: train now, deploy what passes.

For when the world has changed and older versions are no better. It lifts the pin, and the hold on deployments after
two rollbacks within a week. No gate is passed over, and what was rolled back stays out.
"""


def runbook_dag(pipeline: ModelPipeline) -> DAG:
    """Return the DAG of what holds until somebody ends it."""
    # What is pressed in an emergency does not wait until somebody unpauses a DAG: so none of these four is paused.
    with pipeline_dag(
        pipeline,
        "runbook",
        __doc__,
        schedule=None,
        is_paused_upon_creation=False,
        start_date=pipeline.source.starts_at,
        # A halt does not queue behind a pin that waits for a database.
        max_active_runs=16,
        params={
            "action": Param("halt", enum=["halt", "resume", "pin", "unpin", "withdraw"], title="Action"),
            "reason": _reason(),
            "until": _until("When it runs out by itself. Empty: when somebody ends it."),
            "confirm": _confirm("Only to withdraw: write the name of the model."),
        },
    ) as dag:
        person, serving = _person(pipeline), _serving(pipeline)
        halt = HaltModelOperator(task_id="halt", until=UNTIL, **person)
        resume = ResumeModelOperator(task_id="resume", **person)
        pin = TFServingPinVersionOperator(task_id="pin", until=UNTIL, **serving)
        unpin = TFServingUnpinVersionOperator(task_id="unpin", **serving)
        withdraw = TFServingWithdrawModelOperator(task_id="withdraw", confirm="{{ params.confirm or '' }}", **serving)
        ChooseOperator(task_id="choose", chosen="{{ params.action }}") >> [halt, resume, pin, unpin, withdraw]
        withdraw >> MLflowDeleteAliasOperator(
            task_id="drop_champion",
            model=pipeline.model,
            alias="champion",
            mlflow_conn_id=pipeline.mlflow_conn_id,
            execution_timeout=timedelta(minutes=2),
        )
    return dag


def rollback_dag(pipeline: ModelPipeline) -> DAG:
    """Return the DAG that goes back."""
    with pipeline_dag(
        pipeline,
        "rollback",
        ROLLBACK,
        schedule=None,
        is_paused_upon_creation=False,
        start_date=pipeline.source.starts_at,
        params={
            "reason": _reason(),
            "to_version": Param(
                None,
                type=["null", "integer"],
                minimum=1,
                title="To version",
                description="Any that is kept. Empty: the last one that served well.",
            ),
            "served_on": Param(
                None,
                type=TEXT,
                title="To what served on",
                description="Instead of a number: a day such as 2026-01-31, or a moment with its time zone.",
            ),
            "trained_before": Param(
                None,
                type=TEXT,
                title="To what was trained before",
                description="Instead of a number: the day from which on the data is bad.",
            ),
            "until": _until("When its pin runs out. Empty: when somebody unpins."),
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
        rollback = TFServingRollbackOperator(
            task_id="rollback",
            to="{{ '' if params.to_version is none else params.to_version }}",
            served_on="{{ params.served_on or '' }}",
            trained_before="{{ params.trained_before or '' }}",
            until=UNTIL,
            override_by="{{ params.override_by or '' }}",
            override_reason="{{ params.override_reason or '' }}",
            **_serving(pipeline),
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
        rollback >> alias
    return dag


def exclude_dag(pipeline: ModelPipeline) -> DAG:
    """Return the DAG that keeps a window of data out of every training set."""
    datasets = [feed.dataset for feed in pipeline.feeds]
    with pipeline_dag(
        pipeline,
        "exclude",
        EXCLUDE,
        schedule=None,
        is_paused_upon_creation=False,
        start_date=pipeline.source.starts_at,
        params={
            "action": Param("exclude", enum=["exclude", "lift"], title="Action"),
            "dataset": Param(datasets[0], enum=datasets, title="Feed"),
            "first": Param(None, type=TEXT, format="date", title="First day"),
            "last": Param(None, type=TEXT, format="date", title="Last day", description="Empty: one day."),
            "reason": _reason(),
            "confirm": _confirm(),
        },
    ) as dag:
        window: dict[str, Any] = {
            "dataset": "{{ params.dataset }}",
            "first": "{{ params.first or '' }}",
            "last": "{{ params.last or '' }}",
            "confirm": "{{ params.confirm or '' }}",
            **_person(pipeline),
        }
        ChooseOperator(task_id="choose", chosen="{{ params.action }}") >> [
            ExcludeWindowOperator(task_id="exclude", **window),
            LiftExclusionOperator(task_id="lift", **window),
        ]
    return dag


def roll_through_dag(pipeline: ModelPipeline) -> DAG:
    """Return the DAG that goes forward."""
    with pipeline_dag(
        pipeline,
        "roll_through",
        ROLL_THROUGH,
        schedule=None,
        is_paused_upon_creation=False,
        start_date=pipeline.source.starts_at,
        params={"reason": _reason(), "confirm": _confirm()},
    ) as dag:
        TFServingRollThroughOperator(task_id="roll_through", confirm="{{ params.confirm or '' }}", **_serving(pipeline))
    return dag


def _person(pipeline: ModelPipeline) -> dict[str, Any]:
    return {
        "model": pipeline.model,
        "reason": "{{ params.reason or '' }}",
        "ledger_conn_id": pipeline.ledger_conn_id,
    }


def _serving(pipeline: ModelPipeline) -> dict[str, Any]:
    return {**_person(pipeline), "tf_serving_conn_id": pipeline.deploy.server}


def _reason() -> Param:
    return Param(
        None, type=TEXT, title="Why", description="Kept in the ledger with your name, and shown to whoever asks."
    )


def _until(description: str) -> Param:
    return Param(None, type=TEXT, format="date-time", title="Until", description=description)


def _confirm(description: str = "Write the name of the model.") -> Param:
    return Param(None, type=TEXT, title="Confirm", description=description)
