"""The schema contract: which changes break whom, and which do not."""

from __future__ import annotations

import pyarrow as pa
import pytest

from airflow_mlops.engine.data.checks import Column, SchemaContract, check_schema, name_readers, uses_of
from airflow_mlops.engine.data.profiles import profile_table
from airflow_mlops.exceptions import ConfigError

CONTRACT = SchemaContract(
    version="3",
    columns={
        "id": Column("string", nullable=False, meaning="one order"),
        "delay": Column("int32", unit="minutes"),
        "state": Column("string", casing="lower"),
    },
)
USES = {"delay": ["feature view traffic", "model late"]}
TABLE = pa.table({"id": ["a", "b", "c"], "delay": pa.array([1, 5, 9], pa.int32()), "state": ["ca", "ny", None]})


def changed(**columns) -> pa.Table:
    table = TABLE
    for name, values in columns.items():
        table = table.drop([name]) if name in table.column_names else table
        if values is not None:
            table = table.append_column(name, values)
    return table


def profile(table: pa.Table, key: str = "2013-01-02"):
    return profile_table(table, dataset="orders", key=key, revision="r")


def found(table: pa.Table):
    outcomes = name_readers(check_schema(CONTRACT, profile(table), usual=profile(TABLE, "2013-01-01")), USES)
    return [o for o in outcomes if not o.success]


def test_what_keeps_the_contract_passes():
    assert not found(TABLE)
    assert check_schema(CONTRACT, {name: str(TABLE.schema.field(name).type) for name in TABLE.column_names})[0].success


@pytest.mark.parametrize(
    ("kind", "severity", "word"),
    [
        (pa.int64(), "warn", "widened from int32 to int64"),
        (pa.int16(), "block", "narrowed"),
        (pa.float64(), "block", "retyped"),
        (pa.string(), "block", "retyped"),
    ],
)
def test_types(kind, severity, word):
    [outcome] = found(changed(delay=TABLE["delay"].cast(kind)))
    assert outcome.severity == severity
    assert outcome.note.startswith(word)
    assert outcome.note.endswith("affects feature view traffic, model late")


def test_an_added_column_informs():
    [outcome] = found(changed(extra=pa.array([1, 2, 3])))
    assert (outcome.severity, outcome.column) == ("info", "extra")


def test_a_removed_column_blocks_and_names_who_reads_it():
    [outcome] = found(changed(delay=None))
    assert outcome.severity == "block"
    assert outcome.note == "removed 'delay'; affects feature view traffic, model late"


def test_a_renamed_column_is_recognised_by_type_and_values():
    removed, added = found(changed(delay=None, lateness=pa.array([2, 4, 8], pa.int32())))
    assert "added 'lateness' of the same type and similar values: renamed?" in removed.note
    assert added.severity == "info"
    unlike, _ = found(changed(delay=None, year=pa.array([2013, 2013, 2013], pa.int32())))
    assert "renamed" not in unlike.note


def test_a_null_where_none_may_be_blocks():
    [outcome] = found(changed(id=pa.array(["a", None, "c"])))
    assert (outcome.expectation, outcome.severity, outcome.unexpected_count) == ("schema_not_null", "block", 1)


def test_another_casing_blocks():
    [outcome] = found(changed(state=pa.array(["CA", "ny", "ny"])))
    assert (outcome.expectation, outcome.severity, outcome.unexpected_count) == ("schema_casing", "block", 1)


def test_a_typo_in_a_contract_is_explained():
    with pytest.raises(ConfigError, match="unknown key 'nulable'"):
        Column("string", nulable=False)
    with pytest.raises(ConfigError, match="casing"):
        Column("string", casing="title")


def test_uses_of_views_services_and_models():
    uses = uses_of(
        {
            "traffic": {"columns": "orders.delay, orders.state other.delay"},
            "unused": {"columns": "orders.id"},
            "untagged": {"owner": "x"},
        },
        {"late_v1": ["traffic", "untagged"]},
        dataset="orders",
        models={"late": "late_v1"},
        columns_of_models={"late": ["id", "delay"]},
    )
    assert uses == {
        "delay": ["feature view traffic", "model late"],
        "state": ["feature view traffic", "model late"],
        "id": ["feature view unused", "model late"],
    }
