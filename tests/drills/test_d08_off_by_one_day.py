"""D08: partition dates are off by one day.

The upstream lands the right rows, in the right shape, under the wrong day: every expectation on their content
holds. A training that trusts the folder's name learns from tomorrow's outcomes, or from the day before twice.
"""

from __future__ import annotations

import shutil
from datetime import date, timedelta
from pathlib import Path

import pytest

from airflow_mlops.demo.flights import Feed
from airflow_mlops.engine.data import partitions
from airflow_mlops.engine.data.parquet import column_types, parquet_files
from airflow_mlops.engine.data.partitions import PartitionStore
from airflow_mlops.engine.data.validation import enforce, validate
from airflow_mlops.exceptions import DataError
from airflow_mlops.partitioning import DAILY
from flights import expectations
from tests.data_fixtures import DAY, EVENT_TIMES, landed, seal_folder, sealed

pytestmark = pytest.mark.drill

YESTERDAY, TOMORROW = DAY - timedelta(days=1), DAY + timedelta(days=1)
FAULTS = pytest.mark.parametrize(
    ("feed", "labelled"),
    [
        pytest.param("departures", YESTERDAY, id="departures a day early"),
        pytest.param("departures", TOMORROW, id="departures a day late"),
        pytest.param("arrivals", YESTERDAY, id="arrivals a day early"),
    ],
)


def landed_under(home: Path, feed: Feed, labelled: date) -> Path:
    """Land a day's rows in the folder of another day."""
    folder = landed(home / "lake", feed)
    return Path(shutil.move(folder, folder.parent / str(labelled)))


def for_training(home: Path, feed: Feed, upto: date) -> list[date]:
    """Return the days of the event times that a training on everything up to a day would read."""
    store = PartitionStore.under(home)
    table = store.read(store.list(feed, None, upto), [EVENT_TIMES[feed]])
    return sorted({time.date() for time in table[EVENT_TIMES[feed]].to_pylist()})


@FAULTS
def test_fault_guard_on(feed, labelled, home):
    sealed(home, feed, DAY - timedelta(days=2))
    folder = landed_under(home, feed, labelled)
    suite = {"departures": expectations.departures, "arrivals": expectations.arrivals}[feed]()
    enforce(validate(parquet_files(folder), suite, suite_name=feed, batch="b"))  # nothing wrong with the rows
    with pytest.raises(DataError, match=f"rows do not belong to the partition of {labelled}") as refused:
        seal_folder(home, folder, feed, str(labelled))
    assert "off by a partition" in refused.value.hint
    assert for_training(home, feed, TOMORROW) == [DAY - timedelta(days=2)]


@FAULTS
def test_fault_guard_off(feed, labelled, home, monkeypatch):
    """Without the check of event times, the wrong day is what training reads under that key."""

    def trusting(files, event_time, bounds, source, **_):
        import pyarrow.parquet as pq

        return column_types(pq.read_schema(files[0])), bounds[0], bounds[1]

    monkeypatch.setattr(partitions, "inspect", trusting)
    sealed(home, feed, DAY - timedelta(days=2))
    seal_folder(home, landed_under(home, feed, labelled), feed, str(labelled))
    assert for_training(home, feed, TOMORROW) == [DAY - timedelta(days=2), DAY]
    store = PartitionStore.under(home)
    [wrong] = store.list(feed, labelled, labelled)
    start, end = DAILY.interval(str(labelled))
    times = store.read([wrong])[EVENT_TIMES[feed]].to_pylist()
    assert not any(start <= time < end for time in times)
    if labelled < DAY:  # a training as of that day has seen the day after it
        assert DAY in for_training(home, feed, labelled)


@pytest.mark.slow
@pytest.mark.parametrize("feed", ["departures", "arrivals"])
def test_no_fault(feed, home):
    """Eight weeks around both changes of the clocks, with flights across every midnight: nothing is refused."""
    days = [first + timedelta(days=n) for first in (date(2013, 2, 24), date(2013, 10, 20)) for n in range(28)]
    for day in days:
        sealed(home, feed, day)
    assert for_training(home, feed, date(2013, 12, 31)) == days
