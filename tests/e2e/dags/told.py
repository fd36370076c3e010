"""An upstream that tells by an asset's event, for a partition, and who waits for it."""

from datetime import UTC, datetime

from airflow.sdk import Asset, CronPartitionTimetable, dag, task

from airflow_mlops.sensors.data import PartitionArrivalSensor

ROWS = Asset("told.rows")


@dag(
    schedule=CronPartitionTimetable("0 0 * * *", timezone="UTC", run_offset=-1, key_format="%Y-%m-%d"),
    start_date=datetime(2024, 1, 1, tzinfo=UTC),
    end_date=datetime(2024, 12, 31, tzinfo=UTC),
    catchup=False,
)
def tells() -> None:
    """Write an event with the run's partition key."""

    @task(outlets=[ROWS])
    def write() -> None:
        """Nothing more."""

    write()


@dag(schedule=None)
def told() -> None:
    """Wait."""
    PartitionArrivalSensor(
        task_id="wait",
        uri="lake/told",
        key="2024-03-05",
        asset="told.rows",
        marker=None,
        mode="reschedule",
        poke_interval=2,
    )


tells()
told()
