"""What can be a label: true and false, also as 1 and 0; anything else is refused with the first partition."""

from __future__ import annotations

import pyarrow as pa
import pytest

from airflow_mlops.engine.data.labels import as_truth, check_label
from airflow_mlops.engine.data.profiles import profile_table
from airflow_mlops.exceptions import DataError

GOOD = [
    pa.array([True, False, None]),
    pa.array([1, 0, None]),
    pa.array([1.0, 0.0, None]),
    pa.array([1, 0, 1], pa.int8()),
    pa.nulls(3),
]
BAD = [pa.array([1, 2, 0]), pa.array([0.5, 0.0, 1.0]), pa.array(["yes", "no", None]), pa.array([-1, 1, 1])]


def profiled(values: pa.Array):
    return profile_table(pa.table({"late": values}), dataset="ends", key="2024-03-01", revision="r")


@pytest.mark.parametrize("values", GOOD, ids=str)
def test_what_is_true_or_false(values: pa.Array) -> None:
    check_label(profiled(values), "late")
    made = as_truth(pa.table({"late": values}), "late", "here")["late"]
    assert made.type == pa.bool_()
    assert made.to_pylist() == [None if value is None else bool(value) for value in values.to_pylist()]


@pytest.mark.parametrize("values", BAD, ids=str)
def test_what_is_not(values: pa.Array) -> None:
    rows = pa.table({"late": values})
    for refuse in (lambda: check_label(profiled(values), "late"), lambda: as_truth(rows, "late", "x")):
        with pytest.raises(DataError, match=r"The label 'late' is of type .*, and not true or false") as refused:
            refuse()
        assert "or 1 and 0" in refused.value.hint


def test_a_label_that_is_not_there_is_told_elsewhere() -> None:
    check_label(profiled(pa.array([1, 2, 3])), "early")
