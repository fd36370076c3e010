"""What a model answers, as columns: a number, a truth or a text a row, or a list of them."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from airflow_mlops.contracts import TensorSpec
from airflow_mlops.exceptions import ConfigError, DataError

_TYPES = {
    "float16": pa.float32(),
    "bfloat16": pa.float32(),
    "string": pa.string(),
    "bool": pa.bool_(),
    **{
        name: pa.type_for_alias(name)
        for name in ("float32", "float64", *(f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)))
    },
}


def column_type(name: str, spec: TensorSpec) -> pa.DataType:
    """Return the type of an output's column. One value a row is that value, also when a row is a list of one.

    :raises ConfigError: for numbers that no column holds.
    """
    if spec.dtype not in _TYPES:
        raise ConfigError(
            f"Output {name!r} is {spec.dtype}, of which there are no columns.",
            hint="Cast it inside the model, and export it again.",
        )
    kind = _TYPES[spec.dtype]
    for _ in _inner(spec.shape):
        kind = pa.list_(kind)
    return kind


def as_column(name: str, answer: np.ndarray, spec: TensorSpec, rows: int) -> pa.Array:
    """Return an output of some rows as a column of :func:`column_type`; bytes become text.

    :raises DataError: when it is not one answer a row, or bytes are no text.
    """
    inner = _inner(spec.shape)
    if not answer.ndim or len(answer) != rows or answer.ndim < 1 + len(inner) or (not inner and answer.size != rows):
        raise DataError(
            f"Output {name!r} is not one answer a row.",
            detail=f"of {rows} rows the answer is of shape {answer.shape}; the signature says {spec.shape}",
            hint="The first axis of an input and of an output is the rows: mend the model's serving signature.",
        )
    column = _flat(name, answer.reshape(-1), _TYPES[spec.dtype])
    for axis in range(len(inner), 0, -1):
        places = np.arange(int(np.prod(answer.shape[:axis])) + 1, dtype=np.int32) * answer.shape[axis]
        column = pa.ListArray.from_arrays(places, column)
    return column


def rows_with_nan(answer: np.ndarray) -> int:
    """Return in how many rows of an output there is NaN."""
    if answer.dtype.kind != "f":
        return 0
    return int(np.isnan(answer).any(axis=tuple(range(1, answer.ndim))).sum())


def _inner(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return the axes of one row's answer."""
    return () if shape[1:] == (1,) else shape[1:]


def _flat(name: str, values: np.ndarray, kind: pa.DataType) -> pa.Array:
    if kind != pa.string():
        return pa.array(values).cast(kind)
    try:
        return pc.cast(pa.array(values.tolist(), pa.binary()), pa.string())
    except pa.ArrowInvalid:
        raise DataError(
            f"Output {name!r} holds bytes that are no text.",
            detail="it is a string tensor, and not UTF-8",
            hint="Encode it inside the model, such as by base64.",
        ) from None
