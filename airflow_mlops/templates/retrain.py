"""``<model>.retrain``: look whether something asks for a training, and start one for all that does.

Every quarter of an hour, and whenever features of the model become fresh, it looks at the ledger: new rows whose labels
have matured, drift, decay, new features, events of assets. What asks becomes a request; of several, one training
answers all. Events only ring the bell: one that is lost or comes twice changes nothing.
`airflow-mlops why <model>` says what was found and decided.
"""

from __future__ import annotations

import warnings
from datetime import timedelta
from typing import TYPE_CHECKING, Any
from zlib import crc32

from airflow.sdk import Asset, AssetAny, AssetOrTimeSchedule, CronTriggerTimetable

from airflow_mlops.assets import features_asset
from airflow_mlops.durations import parse_duration
from airflow_mlops.operators.retraining import CheckServedAgeOperator, DecideTrainingOperator
from airflow_mlops.operators.start_training import StartTrainingOperator
from airflow_mlops.partitioning import Partitioning
from airflow_mlops.retraining import shortest_interval
from airflow_mlops.templates.base import pipeline_dag, result, sources_of

if TYPE_CHECKING:
    from airflow.sdk import DAG

    from airflow_mlops.pipeline import ModelPipeline

_BETWEEN_LOOKS = timedelta(minutes=15)


def looks(model: str) -> str:
    """Return the cron by which a model is looked at: each of many at a minute of its own, or all would come at once."""
    return f"{crc32(model.encode()) % 15}-59/15 * * * *"


def retrain_dag(pipeline: ModelPipeline, first: str = "") -> DAG:
    """Return the DAG that looks and starts trainings, and watches the age of what serves.

    :param first: Model of a fleet that tries new code first, if it is another one.
    """
    retrain, timetable = pipeline.retrain, CronTriggerTimetable(looks(pipeline.model), timezone="UTC")
    bells = AssetAny(
        features_asset(pipeline.model, pipeline.owner), *(Asset.ref(name=name) for name in retrain.on_assets)
    )
    warn_of_age(pipeline)
    with pipeline_dag(
        pipeline,
        "retrain",
        __doc__,
        schedule=AssetOrTimeSchedule(timetable=timetable, assets=bells) if retrain.triggers else timetable,
        start_date=pipeline.source.starts_at,
    ) as dag:
        if retrain.triggers:
            decide_and_start(pipeline, first)
        if retrain.max_age:
            CheckServedAgeOperator(
                task_id="check_served_age",
                max_age=retrain.max_age,
                notify=pipeline.notify,
                model=pipeline.model,
                tf_serving_conn_id=pipeline.deploy.server,
                ledger_conn_id=pipeline.ledger_conn_id,
            )
    return dag


def decide_and_start(pipeline: ModelPipeline, first: str) -> None:
    """Add the tasks that decide whether a training starts, and that start it."""
    retrain = pipeline.retrain
    decide = DecideTrainingOperator(
        task_id="decide",
        watch={**_watch(pipeline), **(_after(pipeline, first) if first else {})},
        cooldown=retrain.cooldown or "",
        assets=list(retrain.on_assets),
        model=pipeline.model,
        tf_serving_conn_id=pipeline.deploy.server,
        ledger_conn_id=pipeline.ledger_conn_id,
    )
    StartTrainingOperator(
        task_id="start",
        doc_md="Start the training that was decided on: a run of it that is there already is left as it is.",
        trigger_dag_id=f"{pipeline.model}.train",
        trigger_run_id=result(decide, "run_id"),
        logical_date=None,
        conf={"request": result(decide, "request")},
        note=result(decide, "why"),
        skip_when_already_exists=True,
    )


def _watch(pipeline: ModelPipeline) -> dict[str, Any]:
    retrain, label = pipeline.retrain, pipeline.label
    labels = pipeline.label_feed.dataset
    inputs = [feed.dataset for feed in pipeline.feeds if feed.dataset != labels or feed is pipeline.source]
    return {
        "source": pipeline.source.dataset,
        "labels": labels,
        "inputs": inputs,
        "entity": pipeline.entity,
        "label": label.column,
        "problem": label.problem,
        "matures_after": label.matures_after,
        "service": pipeline.features.name,
        "new_rows": retrain.new_rows,
        "drift_psi": retrain.drift_psi,
        "decay": retrain.decay,
        "on_new_features": retrain.on_new_features,
        "rollup": _rollup(pipeline),
    }


def _after(pipeline: ModelPipeline, first: str) -> dict[str, Any]:
    train = pipeline.train
    named = {"named": train.fit or train.entrypoint or "", "script": train.script}
    return {"first": first, "code": {**named, "beside": [train.golden, train.transform]}}


def _rollup(pipeline: ModelPipeline) -> dict[str, Any] | None:
    """Return the partitions that are trained on together, in plain values."""
    rollup, cut = pipeline.retrain.rollup, pipeline.source.partitioning
    if rollup is None:
        return None
    return {
        "every": str(Partitioning(rollup.every, cut.timezone)),
        "cut": str(cut),
        "sources": sources_of(pipeline),
        "minimum": rollup.minimum,
        "deadline": rollup.deadline,
    }


def warn_of_age(pipeline: ModelPipeline) -> None:
    """Warn, when the DAG file is parsed, where what serves must become older than is tolerated.

    Just before the next version serves, the one that does knows labels as old as they take to mature, and as the time
    from one training to the next, and what detection, training and deployment take at most.
    """
    retrain = pipeline.retrain
    if retrain.max_age is None:
        return
    if retrain.cron is not None:
        between = shortest_interval(retrain.cron)
    elif retrain.rollup is not None:
        between = retrain.rollup.longest
    else:
        between = parse_duration(retrain.cooldown) if retrain.cooldown else timedelta(0)
    parts = {
        "labels mature": parse_duration(pipeline.label.matures_after),
        "between trainings": between,
        "detection": _BETWEEN_LOOKS if retrain.triggers else timedelta(0),
        "training": parse_duration(pipeline.train.timeout),
        "deployment": parse_duration(pipeline.deploy.timeout),
    }
    needed = sum(parts.values(), timedelta(0))
    if needed > parse_duration(retrain.max_age):
        said = ", ".join(f"{name} {length}" for name, length in parts.items() if length)
        warnings.warn(
            f"What serves {pipeline.model} may be {retrain.max_age} old, but can be {needed} old before the next "
            f"version serves: {said}. Allow more, or train more often.",
            UserWarning,
            stacklevel=2,
        )
