"""The upstream of the example, simulated: lands one day of real flights and weather a run."""

from __future__ import annotations

from datetime import UTC, date, datetime
from typing import TYPE_CHECKING

from airflow.sdk import DAG, CronPartitionTimetable, task

if TYPE_CHECKING:
    from airflow_mlops.demo.flights import Feed, Landed

with DAG(
    dag_id="flight_delay.land",
    schedule=CronPartitionTimetable("0 0 * * *", timezone="UTC", run_offset=-1, key_format="%Y-%m-%d"),
    start_date=datetime(2013, 1, 1, tzinfo=UTC),
    end_date=datetime(2013, 12, 31, tzinfo=UTC),  # the weather ends a day before the year
    catchup=False,
    tags=["mlops", "flight_delay"],
    doc_md=__doc__,
):

    @task
    def land(feed: Feed, partition_key: str | None = None) -> Landed:
        """Land one feed's day."""
        from airflow_mlops.demo.flights import land as land_feed
        from airflow_mlops.operators.base import beneath, open_home

        if partition_key is None:
            raise ValueError('This run has no partition key: trigger it with {"partition_key": "2013-01-15"}.')
        return land_feed(beneath(open_home(), "lake"), date.fromisoformat(partition_key), feed)

    departures = land.override(task_id="departures")("departures")
    departures >> [land.override(task_id="arrivals")("arrivals"), land.override(task_id="weather")("weather")]
