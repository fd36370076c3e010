"""What a caller sends to a model: one value for every input of its signature, and the ``curl`` line for it."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

from airflow_mlops.contracts import Signature
from airflow_mlops.exceptions import ConfigError, DataError, did_you_mean

_FLOATS = frozenset({"float16", "bfloat16", "float32", "float64"})


def instance(signature: Signature, values: Mapping[str, Any]) -> dict[str, Any]:
    """Return a request's instance: a value for every input, ``NaN`` and ``""`` where a number or a text is missing.

    :param values: By name; what is no input of the model is left out.
    :raises ConfigError: when an input has no value at all.
    :raises DataError: when a whole number or a truth value is missing, which has no way to say so.
    """
    if lacking := sorted(set(signature.inputs) - set(values)):
        raise ConfigError(
            f"The model wants {len(lacking)} inputs that nobody gave: {', '.join(lacking)}."
            f"{did_you_mean(lacking[0], values)}",
            detail=f"there are: {', '.join(values) or 'none'}",
            hint="Send them too: they are columns of the source that the model takes as they are.",
        )
    return {name: _given(name, spec.dtype, values[name]) for name, spec in signature.inputs.items()}


def parse_value(name: str, text: str, kind: str) -> Any:
    """Return the value that somebody typed for a column; nothing, or ``null``, is a missing one.

    :param kind: Arrow or TensorFlow type of the column.
    :raises ConfigError: when it is none of that type.
    """
    from airflow_mlops.moments import parse_moment

    if text in ("", "null"):
        return None
    try:
        if kind.startswith("bool"):
            return {"true": True, "false": False, "1": True, "0": False}[text.lower()]
        if kind.startswith(("int", "uint")):
            return int(text)
        if kind.startswith(("float", "double", "decimal", "half", "bfloat")):
            return float(text)
        return parse_moment(text, name) if kind.startswith("timestamp") else text
    except (ValueError, KeyError):
        raise ConfigError(f"{name}={text!r} is no {kind}.", hint=f"Write a value of type {kind}.") from None


def curl(url: str, request: Mapping[str, Any]) -> str:
    """Return a request as a line to paste into a shell.

    :param url: REST address of the model, ``http://host:8501/v1/models/<name>``.
    """
    return f"curl -s {url}/labels/stable:predict -d '{json.dumps({'instances': [request]})}'"


def _given(name: str, dtype: str, value: Any) -> Any:
    if value is not None:
        return value
    if dtype in _FLOATS:
        return math.nan
    if dtype == "string":
        return ""
    raise DataError(
        f"Input {name!r} of the model is missing, and its type has no value for that.",
        detail=f"type {dtype}",
        hint="Give it a value; or declare it as a float in its feature view and train the model again.",
    )
