"""Taking a batch's values into the statistics of their column, by kind of column."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from airflow_mlops.contracts import ColumnKind
from airflow_mlops.engine.data.profiles.hashing import hash_numbers, hash_strings
from airflow_mlops.engine.data.profiles.statistics import Moments, Statistics, TopCounts

_LOW_CARDINALITY = 50
"""Whole numbers are counted one by one, like categories, up to so many different ones."""


def kind_of(type: pa.DataType) -> ColumnKind:
    """Say how a column of an Arrow type is profiled."""
    types = pa.types
    if types.is_dictionary(type):
        return kind_of(type.value_type)
    if types.is_boolean(type):
        return "boolean"
    if types.is_integer(type) or types.is_floating(type) or types.is_decimal(type):
        return "number"
    if types.is_timestamp(type) or types.is_date(type):
        return "time"
    if types.is_string(type) or types.is_large_string(type) or types.is_string_view(type):
        return "category"
    return "other"


def empty(type: pa.DataType) -> Statistics:
    """Return the statistics of no rows."""
    kind = kind_of(type)
    values = type.value_type if pa.types.is_dictionary(type) else type
    counted = kind in ("category", "boolean") or pa.types.is_integer(values)
    return Statistics(type=str(type), kind=kind, top=TopCounts() if counted else None)


def add(statistics: Statistics, values: pa.Array) -> None:
    """Take in a column's part of a batch."""
    if pa.types.is_dictionary(values.type):
        values = values.dictionary_decode()
    if pa.types.is_string_view(values.type):
        values = values.cast(pa.large_string())  # Arrow cannot filter views yet
    statistics.count += len(values)
    statistics.nulls += values.null_count
    if values.null_count:
        values = values.drop_null()
    if len(values):
        _ADD[statistics.kind](statistics, values)


def _add_numbers(statistics: Statistics, values: pa.Array) -> None:
    numbers = _numbers(values)
    if numbers.dtype.kind == "f":
        finite = np.isfinite(numbers)
        if not finite.all():
            nans = int(np.isnan(numbers).sum())
            statistics.nans += nans
            statistics.infinities += len(numbers) - int(finite.sum()) - nans
            numbers = numbers[finite]
            if not len(numbers):
                return
    numbers = np.sort(numbers)  # one sort serves all that follows
    statistics.widen(float(numbers[0]), float(numbers[-1]))
    statistics.moments += Moments.of(numbers)
    starts = np.flatnonzero(np.concatenate([[True], numbers[1:] != numbers[:-1]]))
    statistics.distinct.add(hash_numbers(numbers[starts]))
    statistics.quantiles.add(numbers.astype(np.float64))
    if statistics.top is not None and statistics.distinct.estimate() <= _LOW_CARDINALITY:
        statistics.top.add(pa.array(numbers[starts]), np.diff(starts, append=len(numbers)))
    else:
        statistics.top = None


def _add_booleans(statistics: Statistics, values: pa.Array) -> None:
    """0 and 1 to the moments, so that the mean is the share of trues."""
    for value, count in ((False, len(values) - values.true_count), (True, values.true_count)):
        if count:
            statistics.widen(float(value), float(value))
            statistics.moments += Moments(count, float(value))
            statistics.distinct.add(hash_numbers(np.array([int(value)])))
            if statistics.top is not None:
                statistics.top.add(pa.array([str(value).lower()]), np.array([count]))


def _add_texts(statistics: Statistics, values: pa.Array) -> None:
    counted = values.value_counts()
    distinct = counted.field("values")
    statistics.distinct.add(hash_strings(distinct))
    if statistics.top is not None:
        statistics.top.add(distinct, counted.field("counts").to_numpy())


def _add_nothing(statistics: Statistics, values: pa.Array) -> None:
    """Binary and nested values: that they are there is all that is said."""


_ADD: dict[ColumnKind, Callable[[Statistics, pa.Array], None]] = {
    "number": _add_numbers,
    "time": _add_numbers,
    "boolean": _add_booleans,
    "category": _add_texts,
    "other": _add_nothing,
}


def _numbers(values: pa.Array) -> npt.NDArray[np.number]:
    if kind_of(values.type) == "time":
        values = values.cast(pa.timestamp("us"), safe=False).cast(pa.int64())
    elif pa.types.is_decimal(values.type):
        values = values.cast(pa.float64())
    elif pa.types.is_float16(values.type):
        values = values.cast(pa.float32())
    numbers: npt.NDArray[np.number] = values.to_numpy(zero_copy_only=False)
    return numbers
