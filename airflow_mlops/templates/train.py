"""``<model>.train``: wait for data that is complete and announced healthy, snapshot, validate it, train, evaluate,
register the challenger, judge it.

A challenger that passes its gates wakes `<model>.deploy`. Triggered by hand as the form opens, it trains on the latest
data that is complete; with `as_of`, on what was known at a past moment: the same `as_of` gives the same snapshot and
the same model.
"""

from __future__ import annotations

from dataclasses import asdict
from datetime import timedelta
from typing import TYPE_CHECKING

from airflow.sdk import CronTriggerTimetable, Param

from airflow_mlops.assets import challenger_asset
from airflow_mlops.durations import parse_duration
from airflow_mlops.operators.feast import FeastGetTrainingDataOperator
from airflow_mlops.operators.gx import GXValidateDataOperator
from airflow_mlops.operators.mlflow import MLflowJudgeModelOperator, MLflowRegisterModelOperator
from airflow_mlops.operators.tensorflow import TensorFlowEvaluateModelOperator
from airflow_mlops.operators.tensorflow_launch import training_tasks
from airflow_mlops.sensors.readiness import TrainingDataSensor
from airflow_mlops.templates.base import pipeline_dag, refused_as, remind_of_pin, result
from airflow_mlops.templates.slack import warn_of_missing_slack

if TYPE_CHECKING:
    from airflow.sdk import DAG

    from airflow_mlops.pipeline import ModelPipeline

# Scheduled and backfilled runs stand for a moment; any other, by hand or by a DAG, means the latest complete data.
AS_OF = (
    "{{ params.as_of or ('' if dag_run.run_type not in ('scheduled', 'backfill') else "
    "(dag_run.logical_date or dag_run.run_after).isoformat()) }}"
)
# One that waits for its data does not hold up another whose data is there.
RUNS = 4


def train_dag(pipeline: ModelPipeline) -> DAG:
    """Return the DAG that makes and judges a challenger."""
    source, label, features, train = pipeline.source, pipeline.label, pipeline.features, pipeline.train
    cron = pipeline.retrain.cron
    matured = parse_duration(label.matures_after)
    timeout = parse_duration(train.timeout)
    warn_of_missing_slack(pipeline)
    with pipeline_dag(
        pipeline,
        "train",
        __doc__,
        schedule=CronTriggerTimetable(cron, timezone="UTC") if cron else None,
        start_date=source.starts_at,
        end_date=source.ends_at + matured + timedelta(days=8) if source.ends_at else None,
        max_active_runs=RUNS,
        params={
            "as_of": Param(
                None,
                type=["null", "string"],
                format="date-time",
                title="As of",
                description="Train on what was known at this moment. Empty: on the latest data that is complete.",
            )
        },
    ) as dag:
        ready = TrainingDataSensor(
            task_id="wait_data",
            sources=[
                {
                    "dataset": feed.dataset,
                    "start": feed.start.isoformat(),
                    "end": feed.end.isoformat() if feed.end else "",
                    "ahead": "ahead" if feed.dataset in pipeline.ahead else "",
                }
                for feed in pipeline.feeds
            ],
            as_of=AS_OF,
            model=pipeline.model,
            deferrable=True,
            poke_interval=30,
            ledger_conn_id=pipeline.ledger_conn_id,
        )
        snapshot = FeastGetTrainingDataOperator(
            task_id="snapshot",
            model=pipeline.model,
            entity=pipeline.entity,
            source_dataset=source.dataset,
            event_time=source.event_time,
            keys=list(features.keys),
            service=features.name,
            label_dataset=pipeline.label_feed.dataset,
            label_column=label.column,
            label_known_at=label.known_at,
            problem=label.problem,
            heads=dict(label.heads),
            weight=label.weight,
            group=label.group,
            matures_after=label.matures_after,
            window=train.window,
            validation=train.validation,
            test=train.test,
            start=pipeline.begins_on.isoformat(),
            as_of=result(ready, "as_of"),
            split=train.split,
            split_column=train.split_column,
            transform=features.transform,
            slices=list(source.checks.slices),
            min_joined=label.min_joined,
            max_join_drop=label.max_join_drop,
            feast_conn_id=features.conn_id,
            ledger_conn_id=pipeline.ledger_conn_id,
            **features.resources.as_arguments(),
        )
        validate = GXValidateDataOperator(
            task_id="validate",
            data=result(snapshot, "uri"),
            suite=features.suite,
            dataset=f"{pipeline.model}.snapshot",
            key=result(snapshot, "id"),
            ledger_conn_id=pipeline.ledger_conn_id,
        )
        fit = training_tasks(
            launcher=train.launcher,
            resources=train.resources,
            model=pipeline.model,
            snapshot=result(snapshot, "id"),
            validation=validate.output,
            entrypoint=train.entrypoint or "",
            fit=train.fit or "",
            script=train.script,
            args=list(train.args),
            python=train.python,
            seed=train.seed,
            epochs=train.epochs,
            batch_size=train.batch_size,
            model_params=train.params,
            golden=train.golden,
            transform=train.transform or "",
            timeout=timeout.total_seconds(),
            stall_timeout=parse_duration(train.stall_timeout).total_seconds(),
            mlflow_conn_id=pipeline.mlflow_conn_id,
            ledger_conn_id=pipeline.ledger_conn_id,
        )
        evaluate = TensorFlowEvaluateModelOperator(
            task_id="evaluate",
            model=pipeline.model,
            training=result(fit, "training"),
            slices=sorted({gate.by.column for gate in pipeline.gates if gate.by}),
            mlflow_conn_id=pipeline.mlflow_conn_id,
            ledger_conn_id=pipeline.ledger_conn_id,
            **train.resources.beside(),
        )
        register = MLflowRegisterModelOperator(
            task_id="register",
            model=pipeline.model,
            training=result(fit, "training"),
            evaluation=result(evaluate, "uri"),
            mlflow_conn_id=pipeline.mlflow_conn_id,
            ledger_conn_id=pipeline.ledger_conn_id,
        )
        MLflowJudgeModelOperator(
            task_id="judge",
            model=pipeline.model,
            version=result(register, "version"),
            evaluation=result(evaluate, "uri"),
            gates=[asdict(gate) for gate in pipeline.gates],
            mlflow_conn_id=pipeline.mlflow_conn_id,
            ledger_conn_id=pipeline.ledger_conn_id,
            outlets=[challenger_asset(pipeline.model, pipeline.owner)],
            **refused_as(pipeline, "challenger_rejected"),
        )
        remind_of_pin(pipeline)
        # Each takes what the one before returned: ready >> snapshot >> validate >> fit >> evaluate >> register >> judge
    return dag
