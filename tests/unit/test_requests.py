"""What a caller sends to a model."""

from __future__ import annotations

import json
import math
from datetime import UTC, datetime

import pytest

from airflow_mlops.contracts import Signature, TensorSpec
from airflow_mlops.engine.serving.requests import curl, instance, parse_value
from airflow_mlops.exceptions import ConfigError, DataError

SIGNATURE = Signature(
    inputs={
        "carrier": TensorSpec(dtype="string", shape=(-1,)),
        "delay": TensorSpec(dtype="float32", shape=(-1,)),
        "hour": TensorSpec(dtype="int64", shape=(-1,)),
    },
    outputs={"probability": TensorSpec(dtype="float32", shape=(-1,))},
)


def test_what_is_missing_is_nan_or_an_empty_text() -> None:
    made = instance(SIGNATURE, {"carrier": None, "delay": None, "hour": 7, "flight_id": "not an input"})
    assert math.isnan(made.pop("delay"))
    assert made == {"carrier": "", "hour": 7}


def test_an_input_that_nobody_gave_is_named_with_the_nearest_that_was() -> None:
    with pytest.raises(ConfigError, match=r"1 inputs that nobody gave: hour\. Did you mean 'hours'"):
        instance(SIGNATURE, {"carrier": "DL", "delay": 1.0, "hours": 7})


def test_a_whole_number_cannot_be_missing() -> None:
    with pytest.raises(DataError, match="'hour' of the model is missing"):
        instance(SIGNATURE, {"carrier": "DL", "delay": 1.0, "hour": None})


@pytest.mark.parametrize(
    ("text", "kind", "value"),
    [
        ("7", "int64", 7), ("7.5", "double", 7.5), ("true", "bool", True), ("0", "bool", False), ("c", "string", "c"),
        ("", "double", None), ("null", "string", None),
        ("2024-03-05T10:00:00+02:00", "timestamp[us, tz=UTC]", datetime(2024, 3, 5, 8, tzinfo=UTC)),
    ],
)  # fmt: skip
def test_what_is_typed_becomes_a_value_of_the_columns_type(text: str, kind: str, value: object) -> None:
    assert parse_value("x", text, kind) == value


@pytest.mark.parametrize(("text", "kind"), [("7.5", "int64"), ("yes", "bool"), ("now", "timestamp[us, tz=UTC]")])
def test_what_is_no_value_of_the_type_is_refused(text: str, kind: str) -> None:
    with pytest.raises(ConfigError, match=f"x='{text}' is"):
        parse_value("x", text, kind)


def test_the_curl_line_is_a_request() -> None:
    line = curl("http://127.0.0.1:8501/v1/models/m", {"hour": 7})
    assert line.startswith("curl -s http://127.0.0.1:8501/v1/models/m/labels/stable:predict -d '")
    assert json.loads(line.partition(" -d ")[2].strip("'")) == {"instances": [{"hour": 7}]}
