"""``<model>.features``: one run a partition. Wait for the data, validate, check, seal, materialise, check freshness.

Trigger by hand with a partition key such as `2013-01-15`; backfill by partition date.
"""

from __future__ import annotations

from dataclasses import asdict
from datetime import timedelta
from typing import TYPE_CHECKING

from airflow.sdk import CronPartitionTimetable, TaskGroup

from airflow_mlops.assets import features_asset, partitions_asset
from airflow_mlops.operators.data import PARTITION_KEY, CheckPartitionOperator, SealPartitionOperator
from airflow_mlops.operators.feast import FeastComputeFeaturesOperator, FeastMaterializeOperator
from airflow_mlops.operators.gx import GXValidateDataOperator
from airflow_mlops.sensors.data import PartitionArrivalSensor
from airflow_mlops.sensors.feast import FeastFeatureFreshnessSensor
from airflow_mlops.templates.base import midnight, pipeline_dag, result

if TYPE_CHECKING:
    from airflow.sdk import DAG

    from airflow_mlops.parts import Partitions
    from airflow_mlops.pipeline import ModelPipeline


def features_dag(pipeline: ModelPipeline) -> DAG:
    """Return the DAG that turns each day's landed data into fresh features."""
    source, features = pipeline.source, pipeline.features
    dag = pipeline_dag(
        pipeline,
        "features",
        __doc__,
        schedule=CronPartitionTimetable("0 0 * * *", timezone="UTC", run_offset=-1, key_format="%Y-%m-%d"),
        start_date=midnight(source.start),
        end_date=midnight(source.end) + timedelta(days=1) if source.end else None,
    )
    feeds = (source, pipeline.label.source)
    read = {source.dataset: [source.event_time, *features.keys], pipeline.label.source.dataset: [pipeline.label.column]}
    with dag:
        compute = FeastComputeFeaturesOperator(
            task_id="compute_features",
            transform=features.transform,
            datasets=[feed.dataset for feed in feeds],
            history=features.history,
            start=source.start.isoformat(),
            feast_conn_id=features.conn_id,
            ledger_conn_id=pipeline.ledger_conn_id,
        )
        materialize = FeastMaterializeOperator(
            task_id="materialize",
            service=features.name,
            feast_conn_id=features.conn_id,
            ledger_conn_id=pipeline.ledger_conn_id,
        )
        fresh = FeastFeatureFreshnessSensor(
            task_id="check_freshness",
            service=features.name,
            max_age=features.max_age,
            feast_conn_id=features.conn_id,
            deferrable=True,
            poll_interval=10,
            timeout=600,
            outlets=[features_asset(pipeline.model)],
        )
        for feed in feeds:
            _sealed(feed, pipeline, [pipeline.entity, *read[feed.dataset]]) >> compute
        compute >> materialize >> fresh
    return dag


def _sealed(feed: Partitions, pipeline: ModelPipeline, columns_used: list[str]) -> SealPartitionOperator:
    """Add the tasks that take one feed's day from landing to a sealed partition; return the last one."""
    with TaskGroup(feed.dataset):
        wait = PartitionArrivalSensor(
            task_id="wait",
            uri=feed.uri,
            first=feed.start.isoformat(),
            last=feed.end.isoformat() if feed.end else None,
            late_after=feed.lands_within,
            deferrable=True,
            poll_interval=5,
        )
        landed = result(wait, "uri")
        validate = GXValidateDataOperator(
            task_id="validate",
            data=landed,
            suite=feed.suite,
            dataset=feed.dataset,
            key=PARTITION_KEY,
            ledger_conn_id=pipeline.ledger_conn_id,
        )
        check = CheckPartitionOperator(
            task_id="check",
            dataset=feed.dataset,
            uri=landed,
            event_time=feed.event_time,
            validation=validate.output,
            checks=asdict(feed.checks),
            model=pipeline.model,
            service=pipeline.features.name,
            columns_used=columns_used,
            feast_conn_id=pipeline.features.conn_id,
            ledger_conn_id=pipeline.ledger_conn_id,
        )
        seal = SealPartitionOperator(
            task_id="seal",
            dataset=feed.dataset,
            uri=landed,
            event_time=feed.event_time,
            validation=validate.output,
            ledger_conn_id=pipeline.ledger_conn_id,
            outlets=[partitions_asset(feed.dataset)],
        )
        wait >> validate >> check >> seal
    return seal
