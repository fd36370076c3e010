"""D05: the join key is renumbered upstream, so that no row of one source finds its partner in the other.

The flights declare ``Reconcile("arrivals", "departures", on=["flight_id"], back="1d")``: task
``reconcile_arrivals_with_departures`` of ``<model>.features`` fails, and nothing is computed.

Both feeds are perfect, each by itself. The join of outcomes to flights yields no row and no error.
"""

from __future__ import annotations

from datetime import date, timedelta

import duckdb
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from airflow_mlops.demo.flights import read_feed
from airflow_mlops.engine.data.checks import reconcile_sources
from airflow_mlops.engine.data.partitions import PartitionStore
from tests.checks_fixtures import arrive, blocking, days, with_column

pytestmark = pytest.mark.drill

DAY = date(2013, 6, 12)


def renumbered(table: pa.Table) -> pa.Table:
    return with_column(table, "flight_id", pc.binary_join_element_wise("v2", table["flight_id"], "-"))


def departures(day: date) -> pa.Table:
    """Flights that can land on a day: those that left on it or on the day before."""
    return read_feed("departures", day - timedelta(days=1), day)


def reconciled(arrivals: pa.Table, day: date):
    return reconcile_sources(arrivals, departures(day), on=["flight_id"], min_match=0.95)


def test_fault_guard_on():
    [refused] = blocking(reconciled(renumbered(read_feed("arrivals", DAY, DAY)), DAY))
    assert refused.expectation == "sources_match"
    assert refused.column == "flight_id"
    assert refused.note.startswith("merged = 0")
    assert refused.unexpected_count == read_feed("arrivals", DAY, DAY).num_rows


def test_fault_guard_off(home):
    """Without it the day is sealed, for its own history has nothing against it, and trains on no row at all."""
    store = PartitionStore.under(home)
    for day in days(DAY - timedelta(days=7), 7):
        arrive(store, "arrivals", day, guard=False)
    assert not blocking(arrive(store, "arrivals", DAY, renumbered))
    labels = store.read([store.get("arrivals", str(DAY))], ["flight_id", "late_15"])
    flights = departures(DAY)
    assert labels.num_rows > 800
    with duckdb.connect() as connection:
        connection.register("labels", labels)
        connection.register("flights", flights)
        joined = connection.execute("SELECT count(*) FROM flights JOIN labels USING (flight_id)").fetchall()
    assert joined == [(0,)]


@pytest.mark.slow
@pytest.mark.parametrize("first", [date(2013, 2, 1), date(2013, 11, 1)], ids=["with the storm", "with Thanksgiving"])
def test_no_fault(first):
    for day in days(first, 40):
        assert not blocking(reconciled(read_feed("arrivals", day, day), day)), day
