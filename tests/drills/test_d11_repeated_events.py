"""D11: every device sends its last event again, four times; and what we ourselves do again must change nothing."""

from __future__ import annotations

import shutil
from datetime import date, timedelta

import pyarrow as pa
import pytest

from airflow_mlops.contracts import content_hash
from airflow_mlops.engine.data.partitions import PartitionStore
from tests.checks_fixtures import arrive, blocking, check_real_days, days, names, profile_of
from tests.feast_fixtures import FIRST, compute_day, make_home, seal_days
from tests.integration.test_training_data import DAYS, snapshot_of

pytestmark = pytest.mark.drill

DAY = date(2013, 6, 12)


def all_again(table: pa.Table) -> pa.Table:
    return pa.concat_tables([table] * 5)


def last_of_each_again(table: pa.Table) -> pa.Table:
    """The last event of each carrier at each airport, four times more: 4 x 33 of 970 rows."""
    keys = list(zip(table["carrier"].to_pylist(), table["origin"].to_pylist(), strict=True))
    last = sorted({key: row for row, key in enumerate(keys)}.values())
    return pa.concat_tables([table, *[table.take(last)] * 4])


FAULTS = pytest.mark.parametrize("fault", [all_again, last_of_each_again])


@pytest.fixture
def store(home) -> PartitionStore:
    store = PartitionStore.under(home)
    for day in days(DAY - timedelta(days=28), 28):
        arrive(store, "departures", day, guard=False)
    return store


@FAULTS
def test_fault_guard_on(fault, store):
    refused = blocking(arrive(store, "departures", DAY, fault))
    [duplicates] = [outcome for outcome in refused if outcome.expectation == "duplicates_as_usual"]
    assert duplicates.unexpected_count == fault(days_table()).num_rows - days_table().num_rows
    assert ("rows_as_usual" in names(refused)) == (fault is all_again)  # the ratio is the second guard of that one
    assert str(DAY) not in store.keys("departures")


@FAULTS
def test_fault_guard_off(fault, store):
    arrive(store, "departures", DAY, fault, guard=False)
    assert store.get("departures", str(DAY)).rows > 1.1 * profile_of("departures", DAY).rows


def test_no_fault():
    for day, outcomes in check_real_days("departures", days(date(2013, 5, 20), 40)).items():
        assert not names(outcomes) & {"duplicates_as_usual", "rows_as_usual", "day_not_repeated"}, day


def test_retries_clears_and_overlapping_backfills_leave_the_identity_unchanged(store):
    """What a snapshot is identified by: dataset, keys and revisions of its partitions."""
    first = DAY - timedelta(days=10)

    def identity() -> str:
        return content_hash({key: store.get("departures", key).revision for key in store.keys("departures")})

    before = identity()
    for start, count in ((first, 3), (first + timedelta(days=1), 4), (first, 1)):
        for day in days(start, count):
            assert not blocking(arrive(store, "departures", day))
    assert identity() == before


def days_table() -> pa.Table:
    from airflow_mlops.demo.flights import read_feed

    return read_feed("departures", DAY, DAY)


def test_they_leave_the_snapshot_hash_unchanged(home):
    """Sealed again, and the features of overlapping days computed again, newest first: the same training set."""
    make_home(home, DAYS)
    before = snapshot_of(home)
    seal_days(home, DAYS)
    for n in reversed(range(4, DAYS)):
        compute_day(home, str(FIRST + timedelta(days=n)))
    shutil.rmtree(home / "snapshots")
    assert snapshot_of(home).id == before.id
    assert snapshot_of(home, window=timedelta(days=6)).id != before.id, "the hash does tell training sets apart"
