"""Predictions as JSON, by the rules of TensorFlow Serving's REST API."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import orjson

from airflow_mlops.engine.serving.server.errors import invalid
from airflow_mlops.engine.serving.server.json_tensor import HALF, READABLE, Format


def write_outputs(outputs: Mapping[str, np.ndarray], layout: Format) -> bytes:
    """Return the answer as JSON. Numbers that JSON has no word for become NaN, Infinity and -Infinity.

    :raises ServingError: when an output has a type that JSON cannot say, or row format does not fit.
    """
    for name, array in outputs.items():
        if array.dtype != object and array.dtype.name not in READABLE:
            raise invalid(f"Failed to write JSON value for tensor type: {HALF.get(array.dtype.name, array.dtype.name)}")
        if layout == "row" and not array.ndim:
            raise invalid(f"Tensor name: {name} has no shape information ")
    values: dict[str, Any] = {name: _writable(name, array) for name, array in outputs.items()}
    if layout == "column":
        return _dump({"outputs": values if len(values) > 1 else next(iter(values.values()))})
    sizes = {name: len(array) for name, array in outputs.items()}
    expected = next(iter(sizes.values()))
    for name, size in sizes.items():
        if size != expected:
            raise invalid(f"Tensor name: {name} has inconsistent batch size: {size} expecting: {expected}")
    if len(values) == 1:
        return _dump({"predictions": next(iter(values.values()))})
    rows = [dict(zip(values, row, strict=True)) for row in zip(*values.values(), strict=True)]
    return _dump({"predictions": rows})


def _writable(name: str, array: np.ndarray) -> Any:
    """Return what the JSON writer takes: numbers as they are, strings as text, or as base64 by their name."""
    if array.dtype != object:
        return array if array.ndim else array[()]
    as_base64 = name.endswith("_bytes")
    text = [
        {"b64": base64.b64encode(item).decode()} if as_base64 else item.decode(errors="replace")
        for item in array.ravel().tolist()
    ]
    nested = np.empty(len(text), dtype=object)
    nested[:] = text
    return nested.reshape(array.shape).tolist()


def _dump(document: dict[str, Any]) -> bytes:
    text = orjson.dumps(document, option=orjson.OPT_SERIALIZE_NUMPY)
    # It writes null for NaN and the infinities, and no answer has a null of its own; text that says so costs time only.
    if b"null" in text:
        return json.dumps(document, default=_plain, ensure_ascii=False).encode()
    return text


def _plain(value: np.ndarray | np.generic) -> Any:
    """Return NumPy values as Python's, float32 with as few digits as tell it apart."""
    if value.dtype == np.float32:
        value = value.astype(str).astype(np.float64)
    return value.tolist()
