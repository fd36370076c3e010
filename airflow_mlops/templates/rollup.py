"""``<model>.rollup``: look whether a training starts, when all partitions of a week are there, or enough of them.

Airflow counts the partitions as their features become fresh, shows which are missing, and runs this once. It only
rings the bell: what is there is read from the ledger, and `<model>.retrain` looks all the same every quarter of an
hour. So partitions whose events were lost, and those that never come, keep no training from starting.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from airflow.sdk import (
    DayWindow,
    MinimumCount,
    MonthWindow,
    PartitionedAssetTimetable,
    RollupMapper,
    StartOfDayMapper,
    StartOfMonthMapper,
    StartOfWeekMapper,
    WaitForAll,
    WeekWindow,
)

from airflow_mlops.assets import features_asset
from airflow_mlops.partitioning import Partitioning
from airflow_mlops.templates.base import pipeline_dag
from airflow_mlops.templates.retrain import decide_and_start

if TYPE_CHECKING:
    from airflow.sdk import DAG

    from airflow_mlops.pipeline import ModelPipeline
    from airflow_mlops.retraining import Rollup

_PERIODS = {
    "daily": (StartOfDayMapper, DayWindow),
    "weekly": (StartOfWeekMapper, WeekWindow),
    "monthly": (StartOfMonthMapper, MonthWindow),
}


def counts(cut: Partitioning) -> bool:
    """Return whether Airflow can count such partitions.

    It takes a day for 24 hours, so the hours of a zone are left to `<model>.retrain`.
    """
    return cut.every != "hourly" or cut.timezone == "UTC"


def rollup_dag(pipeline: ModelPipeline, rollup: Rollup, first: str = "") -> DAG:
    """Return the DAG that Airflow runs when a period's partitions are there.

    :param first: Model of a fleet that tries new code first, if it is another one.
    """
    cut = pipeline.source.partitioning
    start_of, window = _PERIODS[rollup.every]
    # With a deadline, fewer than all are enough only after it: Airflow's own policy would not wait for that.
    at_once = None if rollup.deadline else rollup.minimum
    mapper = RollupMapper(
        upstream_mapper=start_of(input_format=cut.key_format, output_format=Partitioning(rollup.every).key_format),
        window=window(),
        wait_policy=MinimumCount(at_once) if at_once else WaitForAll(),
    )
    with pipeline_dag(
        pipeline,
        "rollup",
        __doc__,
        schedule=PartitionedAssetTimetable(
            assets=features_asset(pipeline.model, pipeline.owner), default_partition_mapper=mapper
        ),
        start_date=pipeline.source.starts_at,
    ) as dag:
        decide_and_start(pipeline, first)
    return dag
