"""D07: a column is added, renamed or retyped; a unit changes; ``ca`` becomes ``CA``."""

from __future__ import annotations

from datetime import date, timedelta

import pyarrow as pa
import pyarrow.compute as pc
import pytest

from airflow_mlops.engine.data.checks import Column, SchemaContract, uses_of
from airflow_mlops.engine.data.partitions import PartitionStore
from tests.checks_fixtures import arrive, blocking, check_real_days, days, names, profile_of, with_column

pytestmark = pytest.mark.drill

DAY = date(2013, 6, 12)
UNITS = {"dep_delay": "minutes", "distance": "miles"}
USES = uses_of(
    {
        "origin_traffic": {"columns": "departures.dep_delay departures.cancelled departures.origin"},
        "flight_schedule": {"columns": "departures.distance departures.sched_minutes"},
    },
    {"flight_delay_v1": ["origin_traffic", "flight_schedule"]},
    dataset="departures",
    models={"flight_delay": "flight_delay_v1"},
    columns_of_models={"flight_delay": ["flight_id", "carrier", "origin", "dest"]},
)


def contract() -> SchemaContract:
    columns = profile_of("departures", DAY).columns
    return SchemaContract(
        version="1",
        columns={name: Column(column.type, unit=UNITS.get(name)) for name, column in columns.items()},
    )


def renamed(table: pa.Table) -> pa.Table:
    return table.rename_columns({"dep_delay": "departure_delay"})


def retyped(table: pa.Table) -> pa.Table:
    return with_column(table, "distance", table["distance"].cast("string"))


def seconds(table: pa.Table) -> pa.Table:
    return with_column(table, "dep_delay", pc.multiply(table["dep_delay"], 60.0))


def kilometres(table: pa.Table) -> pa.Table:
    return with_column(table, "distance", pc.multiply(table["distance"], 1.609344))


def lower(table: pa.Table) -> pa.Table:
    return with_column(table, "carrier", pc.utf8_lower(table["carrier"]))


def added(table: pa.Table) -> pa.Table:
    return table.append_column("gate", pa.array(["A1"] * table.num_rows))


FAULTS = pytest.mark.parametrize(
    ("fault", "guard", "says", "affected"),
    [
        (
            renamed,
            "schema_column_present",
            "removed 'dep_delay', added 'departure_delay' of the same type and similar values: renamed?",
            "feature view origin_traffic, model flight_delay",
        ),
        (retyped, "schema_column_type", "retyped from double to string", "feature view flight_schedule"),
        (seconds, "unit_unchanged", "a factor of 60 (minutes → seconds", "feature view origin_traffic"),
        (kilometres, "unit_unchanged", "a factor of 1.60934 (miles → kilometres)", "feature view flight_schedule"),
        (lower, "casing_unchanged", "such as 'UA' → 'ua'", "model flight_delay"),
    ],
)


@pytest.fixture
def store(home) -> PartitionStore:
    store = PartitionStore.under(home)
    for day in days(DAY - timedelta(days=28), 28):
        arrive(store, "departures", day, guard=False)
    return store


@FAULTS
def test_fault_guard_on(fault, guard, says, affected, store):
    found = arrive(store, "departures", DAY, fault, contract=contract(), uses=USES)
    [refused] = [outcome for outcome in blocking(found) if outcome.expectation == guard]
    assert says in refused.note
    assert affected in refused.note
    assert "model flight_delay" in refused.note
    assert str(DAY) not in store.keys("departures")


@FAULTS
@pytest.mark.slow
def test_fault_guard_off(fault, guard, says, affected, store):
    """Without the checks, the spoilt column is in the sealed day that features are computed from."""
    arrive(store, "departures", DAY, fault, guard=False)
    partition = store.get("departures", str(DAY))
    was = profile_of("departures", DAY).columns
    spoilt = {name for name, kind in partition.columns.items() if name not in was or was[name].type != kind}
    if fault in (renamed, retyped):
        assert spoilt == {"departure_delay" if fault is renamed else "distance"}
    else:
        now = store.read([partition], ["dep_delay", "distance", "carrier"])
        assert not spoilt
        assert (
            pc.max(now["dep_delay"]).as_py() > was["dep_delay"].max
            or pc.max(now["distance"]).as_py() > was["distance"].max
            or "ua" in now["carrier"].to_pylist()
        )


def test_an_added_column_is_compatible(store):
    found = arrive(store, "departures", DAY, added, contract=contract(), uses=USES)
    assert not blocking(found)
    assert "schema_column_known" in names(found)
    assert "gate" in store.get("departures", str(DAY)).columns


@pytest.mark.slow
def test_no_fault():
    """Fifty days over the turn of two months and the change of the summer timetable."""
    for day, outcomes in check_real_days("departures", days(date(2013, 5, 20), 50)).items():
        assert not names(outcomes) & {"unit_unchanged", "casing_unchanged", "categories_known"}, day
        assert not blocking(outcomes), day
