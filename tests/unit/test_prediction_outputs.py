"""What a model answers, as columns."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from airflow_mlops.contracts import TensorSpec
from airflow_mlops.engine.prediction.outputs import as_column, column_type, rows_with_nan
from airflow_mlops.exceptions import ConfigError, DataError


@pytest.mark.parametrize(
    ("dtype", "shape", "answer", "expected", "kind"),
    [
        ("float32", (-1,), np.float32([0.5, 1]), [0.5, 1.0], pa.float32()),
        ("float32", (-1, 1), np.float32([[0.5], [1]]), [0.5, 1.0], pa.float32()),
        ("float16", (-1,), np.float16([0.5, 1]), [0.5, 1.0], pa.float32()),
        ("int64", (-1, 2), np.int64([[1, 2], [3, 4]]), [[1, 2], [3, 4]], pa.list_(pa.int64())),
        ("bool", (-1,), np.array([True, False]), [True, False], pa.bool_()),
        ("string", (-1,), np.array(["ü".encode(), b""], dtype=object), ["ü", ""], pa.string()),
        ("string", (-1, 2), np.array([[b"a", b"b"], [b"c", b"d"]], dtype=object), [["a", "b"], ["c", "d"]],
         pa.list_(pa.string())),
        ("float64", (-1, 2, 2), np.arange(8.0).reshape(2, 2, 2), np.arange(8.0).reshape(2, 2, 2).tolist(),
         pa.list_(pa.list_(pa.float64()))),
        ("float32", (-1, -1), np.zeros((2, 0), np.float32), [[], []], pa.list_(pa.float32())),
    ],
)  # fmt: skip
def test_answers_become_columns(dtype: str, shape: tuple[int, ...], answer: Any, expected: Any, kind: pa.DataType):
    spec = TensorSpec(dtype=dtype, shape=shape)
    column = as_column("y", answer, spec, 2)
    assert column.type == column_type("y", spec) == kind
    assert column.to_pylist() == expected
    assert as_column("y", answer[:0], spec, 0).to_pylist() == []


@pytest.mark.parametrize(
    "answer", [np.float32(1), np.float32([1]), np.float32([[1, 2], [3, 4]]), np.float32([1, 2, 3])]
)
def test_what_is_not_one_answer_a_row_is_refused(answer: Any):
    with pytest.raises(DataError, match="not one answer a row"):
        as_column("y", np.asarray(answer), TensorSpec(dtype="float32", shape=(-1,)), 2)


def test_what_no_column_holds_is_refused():
    with pytest.raises(ConfigError, match="complex64"):
        column_type("y", TensorSpec(dtype="complex64", shape=(-1,)))
    with pytest.raises(DataError, match="bytes that are no text"):
        as_column("y", np.array([b"\xff"], dtype=object), TensorSpec(dtype="string", shape=(-1,)), 1)


def test_rows_with_nan_are_counted_once():
    nan = float("nan")
    assert rows_with_nan(np.array([[nan, nan], [1, nan], [1, 2]])) == 2
    assert rows_with_nan(np.array([b"nan"], dtype=object)) == rows_with_nan(np.empty((0, 3))) == 0
