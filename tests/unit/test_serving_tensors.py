"""Arrays as tensor messages, and inputs made to fit a signature."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from airflow_mlops.contracts import TensorSpec
from airflow_mlops.engine.serving import tensors
from airflow_mlops.engine.serving.protos import tensorflow_pb2 as tf
from airflow_mlops.exceptions import DataError

NUMBERS = st.sampled_from(
    [
        *(np.float16, np.float32, np.float64, np.complex64, np.complex128, np.bool_),
        *(np.int8, np.int16, np.int32, np.int64, np.uint8, np.uint16, np.uint32, np.uint64),
    ]
)


@given(arrays.arrays(NUMBERS, arrays.array_shapes(min_dims=0, min_side=0)))
def test_numbers_survive_in_both_forms(array: np.ndarray):
    for encode in (tensors.to_proto, tensors.to_typed_proto):
        back = tensors.from_proto(encode(array))
        assert back.dtype == array.dtype
        np.testing.assert_array_equal(back, array)


@given(arrays.arrays(object, arrays.array_shapes(min_dims=0), elements=st.binary()))
def test_strings_survive(array: np.ndarray):
    back = tensors.from_proto(tensors.to_proto(array))
    assert back.shape == array.shape
    assert back.ravel().tolist() == array.ravel().tolist()


def test_text_is_sent_as_utf8():
    for array in (np.array(["é", "b"]), np.array(["é", b"b"], dtype=object), np.array([b"\xc3\xa9", b"b"])):
        assert tensors.from_proto(tensors.to_proto(array)).tolist() == ["é".encode(), b"b"]


def proto(**fields: object) -> tf.TensorProto:
    sizes = fields.pop("shape")
    message = tf.TensorProto(**fields)
    message.tensor_shape.dim.extend(tf.TensorShapeProto.Dim(size=size) for size in sizes)
    return message


def test_short_value_lists_are_padded_with_their_last_value():
    assert tensors.from_proto(proto(dtype="DT_INT64", int64_val=[1, 2], shape=[2, 2])).tolist() == [[1, 2], [2, 2]]
    assert tensors.from_proto(proto(dtype="DT_FLOAT", shape=[2])).tolist() == [0.0, 0.0]
    assert tensors.from_proto(proto(dtype="DT_STRING", shape=[1])).tolist() == [b""]


@pytest.mark.parametrize(
    "message",
    [
        proto(dtype="DT_INT64", int64_val=[1, 2, 3], shape=[2]),
        proto(dtype="DT_INT64", tensor_content=b"\0" * 15, shape=[2]),
        proto(dtype="DT_STRING", tensor_content=b"abc", shape=[1]),
        proto(dtype="DT_INT64", int64_val=[1], shape=[-1]),
        proto(dtype="DT_RESOURCE", shape=[]),
        proto(dtype="DT_INVALID", shape=[]),
    ],
    ids=["values", "content", "string content", "open shape", "resource", "no type"],
)
def test_corrupt_tensors_are_refused(message: tf.TensorProto):
    with pytest.raises(DataError):
        tensors.from_proto(message)


def test_what_tensorflow_has_no_type_for_is_refused():
    with pytest.raises(DataError, match="datetime64"):
        tensors.to_proto(np.array(["2013-01-01"], "M8[D]"))


@pytest.mark.parametrize(
    ("given_", "dtype", "expected"),
    [
        (np.array([1.5]), "float32", [1.5]),
        (np.array([1]), "float32", [1.0]),
        (np.array([1], np.int8), "int64", [1]),
        (np.array([2**31 - 1]), "int32", [2**31 - 1]),
        (np.array([255]), "uint8", [255]),
        (np.array([True]), "int64", [1]),
        (np.array(["a"]), "string", ["a"]),
        ([1, 2], "float64", [1.0, 2.0]),
    ],
)
def test_inputs_are_cast_where_no_value_changes(given_: object, dtype: str, expected: list[object]):
    cast = tensors.conform({"x": given_}, {"x": TensorSpec(dtype=dtype, shape=(-1,))})["x"]
    assert cast.tolist() == expected
    assert dtype == "string" or cast.dtype == np.dtype(dtype)


@pytest.mark.parametrize(
    ("given_", "dtype"),
    [
        (np.array([1.0]), "int64"),
        (np.array([2**31]), "int32"),
        (np.array([-1]), "uint8"),
        (np.array([1]), "bool"),
        (np.array(["1"]), "float32"),
        (np.array([1]), "string"),
        (np.array([1.0, None], dtype=object), "float32"),
    ],
)
def test_inputs_that_would_change_are_refused(given_: np.ndarray, dtype: str):
    with pytest.raises(DataError, match="Input 'x' has type"):
        tensors.conform({"x": given_}, {"x": TensorSpec(dtype=dtype, shape=(-1,))})


def test_missing_and_unknown_inputs_are_named():
    wanted = {name: TensorSpec(dtype="float32", shape=(-1,)) for name in ("distance", "hour")}
    with pytest.raises(DataError) as error:
        tensors.conform({"distance": np.array([1.0]), "hours": np.array([1.0])}, wanted)
    assert "Did you mean 'hour'?" in error.value.headline
    assert "missing: ['hour']; unknown: ['hours']" in error.value.detail
