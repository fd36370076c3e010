"""The rules of REST predictions, with the words of the real server (``util/json_tensor.cc``)."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from airflow_mlops.contracts import TensorSpec
from airflow_mlops.engine.serving.server.errors import ServingError
from airflow_mlops.engine.serving.server.json_answer import write_outputs
from airflow_mlops.engine.serving.server.json_tensor import parse_body, read_inputs
from airflow_mlops.engine.serving.tensors import as_array

TWO = {"a": TensorSpec(dtype="float32", shape=(-1,)), "b": TensorSpec(dtype="int64", shape=(-1,))}
TEXT = {"s": TensorSpec(dtype="string", shape=(-1,))}


def one(dtype: str) -> dict[str, TensorSpec]:
    return {"x": TensorSpec(dtype=dtype, shape=(-1,))}


def read(document: dict[str, Any], specs: dict[str, TensorSpec]) -> dict[str, np.ndarray]:
    return {name: as_array(tensor) for name, tensor in read_inputs(document, specs)[1].items()}


def test_rows_may_hold_values_in_one_input_and_lists_in_another_of_its_type():
    rows = [{"a": 1, "b": [2, 3]}, {"a": 4, "b": [5, 6]}]
    specs = {name: TensorSpec(dtype="float32", shape=shape) for name, shape in (("a", (-1,)), ("b", (-1, 2)))}
    inputs = read({"instances": rows}, specs)
    assert inputs["a"].tolist() == [1, 4]
    assert inputs["b"].tolist() == [[2, 3], [5, 6]]


def test_rows_become_columns():
    rows = {"instances": [{"a": 1, "b": 2}, {"b": 4, "a": 3.5}]}
    assert read_inputs(rows, TWO)[0] == "row"
    inputs = read(rows, TWO)
    assert inputs["a"].dtype == np.float32
    assert inputs["a"].tolist() == [1.0, 3.5]
    assert inputs["b"].tolist() == [2, 4]


def test_nested_rows_keep_their_shape():
    inputs = read({"instances": [{"a": [[1], [2]], "b": []}, {"a": [[3], [4]], "b": []}]}, TWO)
    assert inputs["a"].shape == (2, 2, 1)
    assert inputs["b"].shape == (2, 0)


def test_bytes_and_text():
    inputs = read({"instances": ["é", {"b64": "AP8="}, {"b64": "AP8"}]}, TEXT)
    assert inputs["s"].tolist() == ["é".encode(), b"\x00\xff", b"\x00\xff"]
    assert read({"instances": [{"s": {"b64": ""}}]}, TEXT)["s"].tolist() == [b""]


def test_numbers_at_the_edges_of_their_types():
    assert read({"inputs": [-(2**63), 2**63 - 1]}, one("int64"))["x"].tolist() == [-(2**63), 2**63 - 1]
    assert read({"inputs": [2**64 - 1]}, one("uint64"))["x"].tolist() == [2**64 - 1]
    assert read({"inputs": [300]}, one("uint8"))["x"].tolist() == [44]  # the real server cuts it down, too
    assert read({"inputs": [1e300, -1e300]}, one("float32"))["x"].tolist() == [np.inf, -np.inf]


@pytest.mark.parametrize(
    ("document", "error"),
    [
        ({}, "Missing 'inputs' or 'instances' key"),
        ({"instances": {"a": 1}}, "Expecting 'instances' to be an list/array"),
        ({"instances": []}, "No values in 'instances' array"),
        ({"instances": [1], "inputs": 1}, "expecting only one of 'inputs' or 'instances' keys to exist"),
        (
            {"instances": [1, 2]},
            ("instances is a plain list, but expecting list of objects as multiple input tensors required as per "
            "tensorinfo_map"),
        ),
        (
            {"inputs": [1, 2]},
            ("inputs is a plain value/list, but expecting an object as multiple input tensors required as per "
            "tensorinfo_map"),
        ),
        ({"inputs": {"a": [1]}}, "Missing named input: b in 'inputs' object."),
        ({"instances": [{"a": 1, "b": 2}, 3]}, "Expecting object but got list at item 1 of input list"),
        ({"instances": [{"a": 1, "b": 2}, {"a": 1}]}, "Failed to process element: 1 of 'instances' list. JSON obj"),
        (
            {"instances": [{"a": 1, "b": 2, "c": 3}]},
            ("Failed to process element: 0 key: c of 'instances' list. Error: INVALID_ARGUMENT: JSON object: does not "
            "have named input: c"),
        ),
        (
            {"instances": [{"a": True, "b": 2}]},
            ("Failed to process element: 0 key: a of 'instances' list. Error: INVALID_ARGUMENT: JSON Value: true "
            "Type: True is not of expected type: float"),
        ),
        ({"inputs": {"a": [None], "b": [1]}}, "JSON Value: null Type: Null is not of expected type: float"),
        ({"inputs": {"a": ["x"], "b": [1]}}, 'JSON Value: "x" Type: String is not of expected type: float'),
        ({"inputs": {"a": [1], "b": [1.5]}}, "JSON Value: 1.5 Type: Number is not of expected type: int64"),
        ({"inputs": {"a": [1], "b": [2**63]}}, f"JSON Value: {2**63} Type: Number is not of expected type: int64"),
        ({"inputs": {"a": [1], "b": [{"b64": "AA=="}]}}, "Type: Object is not of expected type: int64"),
        (
            {"inputs": {"a": [1, [2]], "b": [1]}},
            "Encountered list at unexpected level: 1 expected < 1",
        ),
        (
            {"inputs": {"a": [[1], 2], "b": [1]}},
            "JSON Value: 2 found at incorrect level: 2 in the JSON DOM. Expected at level: 2",
        ),
        (
            {"inputs": {"a": [[1], [2, 3]], "b": [1]}},
            "Encountered list at unexpected size: 2 at level: 1 expected size: 1",
        ),
        (
            {"instances": [{"a": [1], "b": 1}, {"a": [1, 2], "b": 1}]},
            ("Failed to process element: 1 key: a of 'instances' list. Error: INVALID_ARGUMENT: Expecting tensor size: "
            "1 but got: 2"),
        ),
        (
            {"instances": [{"a": [1], "b": 1}, {"a": [[1]], "b": 1}]},
            "Expecting shape [1] but got: [1,1]",
        ),
    ],
)  # fmt: skip
def test_what_does_not_fit(document: dict[str, Any], error: str):
    with pytest.raises(ServingError) as caught:
        read_inputs(document, TWO)
    assert error in caught.value.message
    assert caught.value.http_status == 400


def test_objects_for_one_input():
    with pytest.raises(ServingError, match="Expecting value/list but got object at item 1 of input list"):
        read_inputs({"instances": ["a", {"s": "b"}]}, TEXT)
    with pytest.raises(ServingError, match="not formatted correctly for base64 data"):
        read_inputs({"inputs": [{"b65": "AA=="}]}, TEXT)
    with pytest.raises(ServingError, match="Unable to base64 decode"):
        read_inputs({"instances": [{"b64": "?"}]}, TEXT)


def test_half_a_surrogate_pair_is_refused():
    body = parse_body(b'{"inputs": ["\\ud800"]}')
    with pytest.raises(ServingError, match="surrogate"):
        read_inputs(body.document, TEXT)


def test_types_that_json_cannot_fill():
    with pytest.raises(ServingError) as caught:
        read_inputs({"inputs": [1]}, one("float16"))
    assert (caught.value.http_status, caught.value.message) == (501, "Conversion of JSON Value: [1] to type: half")


@pytest.mark.parametrize(
    ("body", "error"),
    [
        (b"", "JSON Parse error: The document is empty"),
        (b'{"instances": [1', "JSON Parse error: "),
        (b'\xff{"a": 1}', "JSON Parse error: "),
        (b"[1]", "JSON Value: [1] Is not object"),
        (b'{"signature_name": 1}', "'signature_name' key must be a string value."),
        (b"[" * 100_000, "JSON Parse error: "),
    ],
)
def test_bodies_that_are_no_request(body: bytes, error: str):
    with pytest.raises(ServingError) as caught:
        parse_body(body)
    assert error in caught.value.message
    assert caught.value.http_status == 400


def test_bare_words_and_what_follows_the_document():
    assert parse_body(b' {"inputs": [NaN, Infinity, -Infinity]} rest').document["inputs"][1:] == [np.inf, -np.inf]


def written(outputs: dict[str, np.ndarray], layout: str = "row") -> Any:
    return json.loads(write_outputs(outputs, layout))


def test_rows_and_columns_of_outputs():
    x, y = np.array([[0.1], [2.0]], np.float32), np.array([b"a", b"\xff"], dtype=object)
    assert written({"x": x}) == {"predictions": [[0.1], [2.0]]}
    assert written({"x": x}, "column") == {"outputs": [[0.1], [2.0]]}
    assert written({"x": x, "y_bytes": y}) == {
        "predictions": [{"x": [0.1], "y_bytes": {"b64": "YQ=="}}, {"x": [2.0], "y_bytes": {"b64": "/w=="}}]
    }
    assert written({"y": y[:1]}, "column") == {"outputs": ["a"]}
    assert written({"x": np.array(3)}, "column") == {"outputs": 3}


def test_float32_is_written_as_short_as_it_is_read_back():
    assert write_outputs({"x": np.array([0.1, 2, 1e-20], np.float32)}, "row") == b'{"predictions":[0.1,2.0,1e-20]}'
    infinite = write_outputs({"x": np.array([0.1, np.nan, np.inf, -np.inf], np.float32)}, "row")
    assert infinite == b'{"predictions": [0.1, NaN, Infinity, -Infinity]}'
    rows = write_outputs({"x": np.array([0.1], np.float32), "y": np.array([np.nan])}, "row")
    assert rows == b'{"predictions": [{"x": 0.1, "y": NaN}]}'


@pytest.mark.parametrize(
    ("outputs", "error"),
    [
        ({"x": np.array(1.0)}, "Tensor name: x has no shape information "),
        ({"x": np.zeros(2), "y": np.zeros(3)}, "Tensor name: y has inconsistent batch size: 3 expecting: 2"),
        ({"x": np.zeros(1, np.float16)}, "Failed to write JSON value for tensor type: half"),
        ({"x": np.zeros(1, np.complex64)}, "Failed to write JSON value for tensor type: complex64"),
    ],
)
def test_outputs_that_cannot_be_written(outputs: dict[str, np.ndarray], error: str):
    with pytest.raises(ServingError) as caught:
        write_outputs(outputs, "row")
    assert caught.value.message == error
