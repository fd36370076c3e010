"""Columns of a snapshot as a model takes them."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal

import numpy as np
import pyarrow as pa
import pytest

from airflow_mlops.engine.training.inputs import read_inputs
from airflow_mlops.exceptions import DataError

TABLE = pa.table(
    {
        "carrier": ["AA", None, "UA"],
        "delay": [1.5, None, 3.0],
        "count": [1, 2, 3],
        "holes": pa.array([1, None, 3], pa.int64()),
        "hash": pa.array([1, 2, 2**63], pa.uint64()),
        "nothing": pa.nulls(3),
        "weekend": [True, False, True],
        "when": [datetime(2013, 1, 1, tzinfo=UTC)] * 3,
        "late": [True, False, True],
        "unknown": [True, None, False],
        "money": pa.array([Decimal("1.25"), None, Decimal(3)], pa.decimal128(6, 2)),
    }
)


def read(*names: str) -> dict[str, np.ndarray]:
    return read_inputs(TABLE, {name: str(TABLE.schema.field(name).type) for name in names})


def test_raw_values_in_the_types_of_a_model():
    found = read("carrier", "delay", "count", "weekend", "nothing", "money")
    assert list(found) == ["carrier", "delay", "count", "weekend", "nothing", "money"]
    assert found["carrier"].tolist() == ["AA", "", "UA"]
    np.testing.assert_array_equal(found["delay"], np.array([1.5, np.nan, 3.0], dtype=np.float32))
    assert [values.dtype.name for values in found.values()] == [
        "object",
        "float32",
        "int64",
        "bool",
        "float32",
        "float32",
    ]
    np.testing.assert_array_equal(found["money"], np.array([1.25, np.nan, 3.0], dtype=np.float32))
    assert np.isnan(found["nothing"]).all()


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("holes", "whole numbers, and 1 are missing"),
        ("when", "has a type that no model takes: timestamp"),
        ("hash", "too large for a model"),
    ],
)
def test_what_a_model_cannot_take_is_named(name: str, says: str):
    with pytest.raises(DataError, match=rf"Feature '{name}'.*{says}"):
        read(name)


def test_missing_column_is_named():
    with pytest.raises(DataError, match=r"lacks 1 of the model's inputs(.|\n)*missing: wind"):
        read_inputs(TABLE, {"carrier": "string", "wind": "double"})
