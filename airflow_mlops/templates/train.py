"""``<model>.train``: wait for data that is complete and announced healthy, snapshot, validate it, train, evaluate,
register the challenger, judge it.

A challenger that passes its gates wakes `<model>.deploy`. Triggered by hand as the form opens, it trains on the latest
data that is complete; with `as_of`, on what was known at a past moment: the same `as_of` gives the same snapshot and
the same model.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from airflow.sdk import CronTriggerTimetable, Param

from airflow_mlops.assets import challenger_asset
from airflow_mlops.durations import parse_duration
from airflow_mlops.operators.admit import AdmitTrainingOperator
from airflow_mlops.operators.feast import FeastGetTrainingDataOperator
from airflow_mlops.operators.gx import GXValidateDataOperator
from airflow_mlops.operators.mlflow import MLflowJudgeModelOperator, MLflowRegisterModelOperator
from airflow_mlops.operators.tensorflow import TensorFlowEvaluateModelOperator
from airflow_mlops.operators.tensorflow_launch import training_tasks
from airflow_mlops.sensors.readiness import TrainingDataSensor
from airflow_mlops.templates.base import (
    Stage,
    pipeline_dag,
    refused_as,
    remind_of_pin,
    result,
    sources_of,
    stage,
    text_field,
)
from airflow_mlops.templates.own import OwnTask, output_of, own_task, validated_by
from airflow_mlops.templates.slack import warn_of_missing_slack

if TYPE_CHECKING:
    from airflow.sdk import DAG, BaseOperator, XComArg

    from airflow_mlops.pipeline import ModelPipeline

# Scheduled and backfilled runs stand for a moment; any other, by hand or by a DAG, means the latest complete data.
AS_OF = (
    "{{ params.as_of or ('' if dag_run.run_type not in ('scheduled', 'backfill') else "
    "(dag_run.logical_date or dag_run.run_after).isoformat()) }}"
)
ASKED = {
    # <model>.retrain says which request a run answers; any other run is a request itself.
    "request": "{{ (dag_run.conf or {}).get('request') or '' }}",
    "window": "{{ params.window or '' }}",
    "exclude": "{{ params.exclude or '' }}",
    "slices": "{{ params.slices or '' }}",
    "data": "{{ params.data or '' }}",
    "weight": "{{ params.weight or '' }}",
    "model_params": "{{ (params.model_params or {}) | tojson }}",
    "reason": "{{ params.reason or '' }}",
    "only_say": "{{ params.only_say }}",
}
# One that waits for its data does not hold up another whose data is there.
RUNS = 4


def train_dag(pipeline: ModelPipeline) -> DAG:
    """Return the DAG that makes and judges a challenger."""
    source, cron = pipeline.source, pipeline.retrain.cron
    matured = parse_duration(pipeline.label.matures_after)
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
            ),
            **_other_than_usual(pipeline),
        },
    ) as dag:
        _train(pipeline, AS_OF, ASKED)
        remind_of_pin(pipeline)
    return dag


def train_group(
    pipeline: ModelPipeline,
    group_id: str = "train",
    *,
    as_of: str = "",
    reason: str = "",
    window: str = "",
    validate: OwnTask | None = None,
    train: OwnTask | None = None,
) -> Stage:
    """Return the tasks of ``<model>.train`` as a group, for a DAG of one's own.

    Its runs are written down as requests beside those of the pipeline's own DAGs.

    :param group_id: Name of the group.
    :param as_of: Train on what was known at this moment (ISO); empty: on the latest data that is complete.
    :param reason: Why, in words; another ``window`` must have one.
    :param window: How much history is trained on; empty: as the pipeline says.
    :param validate: Validates the snapshot instead of its suite: a function that takes ``data``, its folder, and
        ``key``, its id, and returns a task, such as one decorated by ``@task``.
    :param train: Trains instead of the pipeline's ``Trainer``: a function that takes ``data``, the folder of the
        snapshot, and returns a task whose result is the folder of a SavedModel. It is held against the snapshot.
    :raises ConfigError: when one of the two makes no task.
    """
    with stage(pipeline, group_id, {}) as group:
        group.output = _train(pipeline, as_of, {"reason": reason, "window": window}, validate, train).output
    return group


def train_on_group(
    pipeline: ModelPipeline, group_id: str = "train", *, data: str | XComArg, validate: OwnTask | None = None
) -> Stage:
    """Return the tasks that make and judge a challenger from files of one's own as a group: without Feast.

    :param group_id: Name of the group.
    :param data: Parquet files with the entity, the label and the inputs of the model, and nothing else, such as what a
        task before returned; see :mod:`airflow_mlops.engine.training.own_data`.
    :param validate: Validates them instead of the suite of the features: see :func:`train_group`; ``key`` is empty.
    """
    label = pipeline.label
    files: dict[str, Any] = {
        "data": data,
        "dataset": f"{pipeline.model}.data",
        "ledger_conn_id": pipeline.ledger_conn_id,
    }
    with stage(pipeline, group_id, {}) as group:
        checked = (
            validated_by(validate, **files, key="")
            if validate
            else GXValidateDataOperator(task_id="validate", suite=pipeline.features.suite, **files)
        )
        fit = training_tasks(
            data=data,
            validation=checked.output,
            label_column=label.column,
            problem=label.problem,
            heads=dict(label.heads),
            weight=label.weight,
            group=label.group,
            entity=pipeline.entity,
            model_params=pipeline.train.params,
            **_trainer(pipeline),
        )
        group.output = _judged(pipeline, fit).output
    return group


def _train(
    pipeline: ModelPipeline,
    as_of: str,
    asked: Mapping[str, str],
    validated: OwnTask | None = None,
    fitted: OwnTask | None = None,
) -> MLflowJudgeModelOperator:
    """Add the tasks from data that is complete to a judged challenger; return the last one.

    :param as_of: Moment of which knowledge is used; a template.
    :param asked: What the run is for, and what of it is other than usual; templates.
    :param validated: What validates the snapshot instead of its suite.
    :param fitted: What trains instead of the pipeline's trainer.
    """
    source, label, features, train = pipeline.source, pipeline.label, pipeline.features, pipeline.train
    # Each takes what the one before returned:
    # ready >> admit >> snapshot >> validate >> fit >> evaluate >> register >> judge
    ready = TrainingDataSensor(
        task_id="wait_data",
        sources=sources_of(pipeline),
        as_of=as_of,
        model=pipeline.model,
        deferrable=True,
        poke_interval=30,
        ledger_conn_id=pipeline.ledger_conn_id,
    )
    admit = AdmitTrainingOperator(
        task_id="admit",
        model=pipeline.model,
        request=asked.get("request", ""),
        as_of=as_of,
        cut=result(ready, "as_of"),
        cooldown=pipeline.retrain.cooldown or "",
        source_dataset=source.dataset,
        matures_after=label.matures_after,
        start=pipeline.begins_on.isoformat(),
        usual_window=train.window,
        validation=train.validation,
        test=train.test,
        split=train.split,
        usual_params=train.params,
        usual_weight=label.weight,
        window=asked.get("window", ""),
        exclude=asked.get("exclude", ""),
        slices=asked.get("slices", ""),
        data=asked.get("data", ""),
        weight=asked.get("weight", ""),
        model_params=asked.get("model_params", ""),
        reason=asked.get("reason", ""),
        only_say=asked.get("only_say", False),
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
        weight=result(admit, "weight"),
        group=label.group,
        matures_after=label.matures_after,
        window=result(admit, "window"),
        exclude=result(admit, "exclude"),
        without_slices=result(admit, "without_slices"),
        entities=result(admit, "data"),
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
        max_active_tis_per_dag=RUNS,  # Airflow's backfill has more runs at once
        **features.resources.as_arguments(),
    )
    taken: dict[str, Any] = {
        "data": result(snapshot, "uri"),
        "dataset": f"{pipeline.model}.snapshot",
        "key": result(snapshot, "id"),
        "ledger_conn_id": pipeline.ledger_conn_id,
    }
    validate = (
        validated_by(validated, snapshot, **taken)
        if validated
        else GXValidateDataOperator(task_id="validate", suite=features.suite, **taken)
    )
    told: dict[str, Any] = {
        "snapshot": result(snapshot, "id"),
        "validation": validate.output,
        "model_params": result(admit, "model_params"),
        "skip_known": True,
    }
    if fitted is None:
        return _judged(pipeline, training_tasks(**told, **_trainer(pipeline)))
    from airflow_mlops.operators.tensorflow_adopt import TensorFlowAdoptModelOperator  # only those who use it load it

    made = own_task(fitted, "train", validate, data=result(snapshot, "uri"))
    adopt = TensorFlowAdoptModelOperator(
        task_id="adopt",
        model=pipeline.model,
        saved_model=output_of(made),
        seed=train.seed,
        golden=train.golden,
        mlflow_conn_id=pipeline.mlflow_conn_id,
        ledger_conn_id=pipeline.ledger_conn_id,
        **told,
    )
    made >> adopt
    return _judged(pipeline, adopt)


def _trainer(pipeline: ModelPipeline) -> dict[str, Any]:
    """Return how a pipeline trains, as arguments of its training's tasks."""
    train = pipeline.train
    return {
        "launcher": train.launcher,
        "resources": train.resources,
        "model": pipeline.model,
        "entrypoint": train.entrypoint or "",
        "fit": train.fit or "",
        "script": train.script,
        "args": list(train.args),
        "python": train.python,
        "seed": train.seed,
        "epochs": train.epochs,
        "batch_size": train.batch_size,
        "golden": train.golden,
        "transform": train.transform or "",
        "timeout": parse_duration(train.timeout).total_seconds(),
        "stall_timeout": parse_duration(train.stall_timeout).total_seconds(),
        "max_cost": train.max_cost,
        "min_rows_share": train.min_rows_share,
        "checkpoint_every": parse_duration(train.checkpoint_every).total_seconds() if train.checkpoint_every else None,
        "checkpoint_epochs": train.checkpoint_epochs,
        "tensorboard": train.tensorboard,
        "mlflow_conn_id": pipeline.mlflow_conn_id,
        "ledger_conn_id": pipeline.ledger_conn_id,
    }


def _judged(pipeline: ModelPipeline, fit: BaseOperator) -> MLflowJudgeModelOperator:
    """Add the tasks from a training to a judged challenger; return the last one."""
    train = pipeline.train
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
    return MLflowJudgeModelOperator(
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


def _other_than_usual(pipeline: ModelPipeline) -> dict[str, Param]:
    """Return the fields of the form by which one training is other than usual."""
    train = pipeline.train
    return {
        "window": text_field(
            "Other window",
            f"How much history this training has, such as {train.window}; more than validation ({train.validation}) "
            f"and test ({train.test}) together. Empty: as usual.",
        ),
        "exclude": text_field(
            "Without these days", "Days that this training leaves out, such as 2013-01-05, 2013-01-07/2013-01-09."
        ),
        "slices": text_field(
            "Without these slices", "Rows that this training leaves out, such as carrier=AA, origin=JFK."
        ),
        "data": text_field(
            "From this data instead",
            "Parquet file, or folder of them, with rows of your own: entity, time, label, inputs.",
        ),
        "weight": text_field("With these weights", "Column of what a row counts in this training. Empty: as usual."),
        "model_params": Param(
            None,
            type=["null", "object"],
            title="Other parameters",
            description="Parameters of the trainer that this training replaces.",
        ),
        "reason": text_field(
            "Why", "Kept in the ledger with your name. A training that is other than usual must have it."
        ),
        "only_say": Param(
            False, type="boolean", title="Dry run", description="Only say what it would read and take; train nothing."
        ),
    }
