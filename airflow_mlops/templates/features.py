"""``<model>.features``: one run a partition. Wait for the data, validate, seal, materialise, check freshness.

Trigger by hand with a partition key such as `2013-01-15`; backfill by partition date.
"""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

from airflow.sdk import CronPartitionTimetable, TaskGroup

from airflow_mlops.assets import features_asset, partitions_asset
from airflow_mlops.operators.data import SealPartitionOperator
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
            _sealed(feed, pipeline.ledger_conn_id) >> compute
        compute >> materialize >> fresh
    return dag


def _sealed(feed: Partitions, ledger_conn_id: str) -> SealPartitionOperator:
    """Add the tasks that take one feed's day from landing to a sealed partition; return the last one."""
    with TaskGroup(feed.dataset):
        wait = PartitionArrivalSensor(
            task_id="wait",
            uri=feed.uri,
            first=feed.start.isoformat(),
            last=feed.end.isoformat() if feed.end else None,
            deferrable=True,
            poll_interval=5,
        )
        validate = GXValidateDataOperator(task_id="validate", data=result(wait, "uri"), suite=feed.suite)
        seal = SealPartitionOperator(
            task_id="seal",
            dataset=feed.dataset,
            uri=result(wait, "uri"),
            event_time=feed.event_time,
            validation=validate.output,
            ledger_conn_id=ledger_conn_id,
            outlets=[partitions_asset(feed.dataset)],
        )
        wait >> validate >> seal
    return seal
