"""D10: a slice vanishes entirely. A GROUP BY of the day has no row for it, so nothing in it can look wrong."""

from __future__ import annotations

from datetime import date, timedelta

import pyarrow as pa
import pyarrow.compute as pc
import pytest

from airflow_mlops.engine.data.partitions import PartitionStore
from tests.checks_fixtures import arrive, blocking, check_real_days, days, names, profile_of

pytestmark = pytest.mark.drill

DAY = date(2013, 6, 12)
GONE = pytest.mark.parametrize("carrier", ["WN", "VX"], ids=["3 in a hundred", "1.6 in a hundred"])


def without(carrier: str):
    def fault(table: pa.Table) -> pa.Table:
        return table.filter(pc.not_equal(table["carrier"], carrier))

    return fault


@pytest.fixture
def store(home) -> PartitionStore:
    store = PartitionStore.under(home)
    for day in days(DAY - timedelta(days=28), 28):
        arrive(store, "departures", day, guard=False)
    return store


@GONE
def test_fault_guard_on(carrier, store):
    found = arrive(store, "departures", DAY, without(carrier))
    [refused] = blocking(found)
    assert refused.expectation == "slice_present"
    assert refused.observed == 0
    assert f"slice {carrier!r} vanished" in refused.note
    assert "rows_as_usual" not in names(found)
    assert str(DAY) not in store.keys("departures")


@GONE
def test_fault_guard_off(carrier, store):
    arrive(store, "departures", DAY, without(carrier), guard=False)
    carriers = store.read([store.get("departures", str(DAY))], ["carrier"])["carrier"]
    assert carrier not in carriers.to_pylist()
    assert len(carriers) > 0.95 * profile_of("departures", DAY).rows


@pytest.mark.slow
def test_no_fault():
    """Sixty days on which small carriers fly some days and not others."""
    for day, outcomes in check_real_days("departures", days(date(2013, 3, 1), 60)).items():
        assert "slice_present" not in names(outcomes), day
