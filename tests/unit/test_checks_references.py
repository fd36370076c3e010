"""Which days a day is compared with, from a real store."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta

import pytest

from airflow_mlops.contracts import Exclusion
from airflow_mlops.engine.data.checks import references
from airflow_mlops.engine.data.checks.references import interval_of
from airflow_mlops.engine.data.partitions import PartitionStore
from tests.checks_fixtures import arrive, days

FIRST = date(2013, 6, 1)


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> PartitionStore:
    """The first twelve days of June, without the fifth."""
    store = PartitionStore.under(tmp_path_factory.mktemp("home"))
    for day in days(FIRST, 12):
        if day.day != 5:
            arrive(store, "arrivals", day, guard=False)
    return store


def chosen(store: PartitionStore, key: str, history: int, exclusions: tuple[Exclusion, ...] = ()) -> list[int]:
    found = references(store, "arrivals", key, history=timedelta(days=history), exclusions=exclusions)
    return [interval_of(profile)[0].day for profile in found]


def excluded(start: datetime, end: datetime, dataset: str = "arrivals") -> Exclusion:
    return Exclusion(id="e", dataset=dataset, start=start, end=end, reason="outage", who="me")


def test_sealed_days_before_the_day_and_never_the_day_itself_or_a_later_one(store):
    assert chosen(store, "2013-06-08", history=56) == [1, 2, 3, 4, 6, 7]
    assert chosen(store, "2013-06-08", history=4) == [4, 6, 7]
    assert chosen(store, "2013-06-01", history=56) == []


def test_after_a_gap_longer_than_the_history_the_last_valid_days_stand_in(store):
    assert chosen(store, "2013-09-01", history=7) == [10, 11, 12]


def test_days_with_an_excluded_hour_are_left_out(store):
    hour = excluded(datetime(2013, 6, 7, 23, tzinfo=UTC), datetime(2013, 6, 8, tzinfo=UTC))
    assert chosen(store, "2013-06-09", history=5, exclusions=(hour,)) == [4, 6, 8]
    other = excluded(hour.start, hour.end, dataset="departures")
    assert chosen(store, "2013-06-09", history=5, exclusions=(other,)) == [4, 6, 7, 8]


def test_a_day_without_a_profile_is_no_reference(store, home):
    bare = PartitionStore.under(home)
    for day in days(FIRST, 3):
        arrive(bare, "arrivals", day, guard=False)
    bare.get("arrivals", "2013-06-02")
    [profile] = (home / "partitions" / "arrivals" / "2013-06-02").glob("*.profile.json")
    profile.unlink()
    assert chosen(bare, "2013-06-04", history=56) == [1, 3]
