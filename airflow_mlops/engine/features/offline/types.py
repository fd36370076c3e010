"""Types of columns: whether they fit the registry's, how keys are compared, and times as whole numbers."""

from __future__ import annotations

from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from feast.types import FeastType, from_feast_to_pyarrow_type

from airflow_mlops.engine.features.offline.join import Numbers
from airflow_mlops.exceptions import ConfigError, DataError, MlopsError

Unit = Literal["us", "ns"]

_SECOND = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}
_LONG_AGO = np.iinfo(np.int64).min


def declared_type(dtype: FeastType) -> pa.DataType:
    """Return the Arrow type of one of Feast's; those that Feast cannot tell, such as ``Bytes``, are binary."""
    try:
        return from_feast_to_pyarrow_type(dtype)
    except ValueError:
        return pa.binary()


def check_kind(found: pa.DataType, declared: pa.DataType, what: str, error: type[MlopsError] = DataError) -> None:
    """Check that values fit what the registry declares: numbers, text, times, truth values. Others are not compared.

    :raises MlopsError: of the type ``error``, when they do not.
    """
    kinds = {_kind(found), _kind(declared)}
    if len(kinds) == 2 and None not in kinds:
        raise error(
            f"{what} is of type {found}, but {declared} by Feast's registry.",
            hint="Convert it, or correct the type in the feature repository and apply it.",
        )


def check_whole(column: pa.ChunkedArray, declared: pa.DataType, what: str) -> None:
    """Check that numbers which may have fractions are whole where the registry says so: NaN is null.

    :raises DataError: when one has a fraction, or is beyond what the registry's type can hold.
    """
    if not _may_be_whole(column.type, declared):
        return
    try:
        _without_nan(column).cast(declared)
    except pa.ArrowException as error:
        raise DataError(
            f"{what} is of another type than the registry says: {column.type} with values that are no {declared}.",
            detail=str(error),
            hint="Compute whole numbers, or correct the type in the feature repository and apply it.",
        ) from None


def as_whole(column: pa.Array, declared: pa.DataType) -> pa.Array:
    """Return whole numbers of another type as the registry's, unless a null is among them."""
    if not _may_be_whole(column.type, declared) or _without_nan(column).null_count:
        return column
    return column.cast(declared)


def _may_be_whole(found: pa.DataType, declared: pa.DataType) -> bool:
    return pa.types.is_integer(declared) and (pa.types.is_floating(found) or pa.types.is_decimal(found))


def _without_nan(column: pa.Array | pa.ChunkedArray) -> pa.Array | pa.ChunkedArray:
    if not pa.types.is_floating(column.type):
        return column
    return pc.if_else(pc.is_nan(column), pa.scalar(None, column.type), column)


def _kind(kind: pa.DataType) -> str | None:
    if pa.types.is_dictionary(kind):
        return _kind(kind.value_type)
    if pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind):
        return "number"
    if _is_text(kind):
        return "text"
    if pa.types.is_timestamp(kind) or pa.types.is_date(kind):
        return "time"
    return "truth" if pa.types.is_boolean(kind) else None


def _is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))


def comparable(ours: pa.ChunkedArray, theirs: pa.ChunkedArray, what: str) -> tuple[pa.ChunkedArray, pa.ChunkedArray]:
    """Return a key of the rows and the one that is asked for as one type.

    :param what: What the second is, for the error.
    :raises ConfigError: when the second holds what the first cannot.
    """
    ours, theirs = _plain(ours), _plain(theirs)
    if ours.type == theirs.type:
        return ours, theirs
    if pa.types.is_null(ours.type):
        return ours.cast(theirs.type), theirs
    try:
        return ours, theirs.cast(ours.type)
    except pa.ArrowException as error:
        raise ConfigError(
            f"{what} holds values that are no {ours.type}.", detail=str(error), hint="Convert it before."
        ) from None


def _plain(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Return text and whole numbers as their widest type."""
    kind = column.type.value_type if pa.types.is_dictionary(column.type) else column.type
    if _is_text(kind):
        return column.cast(pa.large_string())
    return column.cast(pa.int64() if pa.types.is_signed_integer(kind) or pa.types.is_uint32(kind) else kind)


def unit_of(*columns: pa.ChunkedArray) -> Unit:
    """Return the unit in which timestamps are counted without loss."""
    return "ns" if any(column.type.unit == "ns" for column in columns) else "us"


def ticks(times: pa.ChunkedArray, unit: Unit) -> Numbers:
    """Return timestamps as numbers of a unit since the epoch, rounded down; null is long ago.

    Moments beyond what the unit can say are the last, or the first, that it can.
    """
    counts = times.cast(pa.int64()).fill_null(_LONG_AGO).to_numpy()
    of, to = _SECOND[times.type.unit], _SECOND[unit]
    if of >= to:
        return counts // (of // to)
    limits = np.iinfo(np.int64)
    factor = to // of
    return np.clip(counts, limits.min // factor + 1, limits.max // factor) * factor


def ticks_up(times: pa.ChunkedArray, unit: Unit) -> Numbers:
    """Return timestamps as numbers of a unit since the epoch, rounded up."""
    down = ticks(times, unit)
    return down + (_SECOND[times.type.unit] > _SECOND[unit]) * (ticks(times, "ns") % 1000 != 0)
