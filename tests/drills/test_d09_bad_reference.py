"""D09: a bad day becomes the reference of the next, so that the same fault passes from then on."""

from __future__ import annotations

from datetime import date, timedelta

import pyarrow as pa
import pytest

from airflow_mlops.engine.data.checks import references
from airflow_mlops.engine.data.checks.references import interval_of
from airflow_mlops.engine.data.partitions import PartitionStore
from tests.checks_fixtures import arrive, blocking, days, thinned

pytestmark = pytest.mark.drill

FIRST_BAD = date(2013, 6, 12)
BAD_DAYS = days(FIRST_BAD, 16)
HISTORY = timedelta(days=14)


def fault(table: pa.Table) -> pa.Table:
    return thinned(table, "carrier", "UA", keep=0.1)


@pytest.fixture
def store(home) -> PartitionStore:
    store = PartitionStore.under(home)
    for day in days(FIRST_BAD - HISTORY, HISTORY.days):
        arrive(store, "departures", day, guard=False)
    return store


def test_fault_guard_on(store):
    """However long it lasts, even longer than the history reaches: the reference stays the last valid days."""
    for day in BAD_DAYS:
        assert blocking(arrive(store, "departures", day, fault, history=HISTORY)), day
    last = references(store, "departures", str(BAD_DAYS[-1]), history=HISTORY)
    assert [interval_of(profile)[0].date() for profile in last] == days(FIRST_BAD - timedelta(days=3), 3)
    assert not blocking(arrive(store, "departures", BAD_DAYS[-1] + timedelta(days=1), history=HISTORY))


def test_fault_guard_off(store):
    """Were bad days references, the fault would be what is usual after some of them."""
    for day in BAD_DAYS[:-1]:
        arrive(store, "departures", day, fault, guard=False)
    assert not blocking(arrive(store, "departures", BAD_DAYS[-1], fault, history=HISTORY))
    assert str(BAD_DAYS[-1]) in store.keys("departures")


def test_no_fault(home):
    """From the very first day on, forty days are each sealed, and each becomes a reference."""
    store = PartitionStore.under(home)
    normal = days(date(2013, 4, 15), 40)
    for day in normal:
        assert not blocking(arrive(store, "departures", day, history=HISTORY)), day
    assert store.keys("departures") == [str(day) for day in normal]
