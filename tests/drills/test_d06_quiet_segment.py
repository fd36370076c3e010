"""D06: one of twenty segments lands at 30 % of its usual volume, while the total looks normal."""

from __future__ import annotations

from datetime import date, timedelta

import pyarrow as pa
import pyarrow.compute as pc
import pytest

from airflow_mlops.engine.data.checks import reconcile_rows
from airflow_mlops.engine.data.partitions import PartitionStore
from tests.checks_fixtures import arrive, blocking, check_real_days, days, profile_of, thinned

pytestmark = pytest.mark.drill

DAY = date(2013, 6, 12)
SEGMENT = "US"
"""About 60 of 970 flights a day."""


def fault(table: pa.Table) -> pa.Table:
    return thinned(table, "carrier", SEGMENT, keep=0.3)


@pytest.fixture
def store(home) -> PartitionStore:
    store = PartitionStore.under(home)
    for day in days(DAY - timedelta(days=28), 28):
        arrive(store, "departures", day, guard=False)
    return store


def test_fault_guard_on(store):
    found = arrive(store, "departures", DAY, fault)
    [refused] = blocking(found)
    assert refused.expectation == "slice_rows_as_usual"
    assert refused.bound["slice"] == SEGMENT
    assert f"slice {SEGMENT!r}" in refused.note
    assert refused.observed <= 0.35 * refused.bound["usual"]
    assert not [outcome for outcome in found if outcome.expectation == "rows_as_usual"]  # the total looks normal
    assert str(DAY) not in store.keys("departures")


def test_fault_guard_off(store):
    arrive(store, "departures", DAY, fault, guard=False)
    carriers = store.read([store.get("departures", str(DAY))], ["carrier"])["carrier"]
    usual = profile_of("departures", DAY).slices["carrier"][SEGMENT].rows
    assert pc.sum(pc.equal(carriers, SEGMENT)).as_py() <= 0.31 * usual


@pytest.mark.slow
@pytest.mark.parametrize("feed", ["departures", "arrivals"])
@pytest.mark.parametrize(
    "first", [date(2013, 5, 20), date(2013, 10, 25)], ids=["to 4 July and after", "to Thanksgiving and after"]
)
def test_no_fault(feed, first):
    """Sixty days with Memorial Day and Independence Day, sixty with Veterans Day, Thanksgiving and December storms."""
    for day, outcomes in check_real_days(feed, days(first, 60)).items():
        assert not blocking(outcomes), day


def test_a_loss_in_one_slice_of_a_transform_hides_in_the_total():
    """By hand: ``FeatureService(rows=[Rows(...)])`` counts the total of a view, not its slices."""
    by_slice = {"US": (60, 18, 0), "UA": (170, 170, 0)}
    total, us, ua = reconcile_rows(970, 970, {}, by_slice=by_slice)
    assert (total.success, us.success, ua.success) == (True, False, True)
