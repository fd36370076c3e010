"""Rows that came as Python objects, made into Arrow: of types that hold all values, or refused in words."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import date, datetime, time
from decimal import Decimal
from itertools import starmap
from typing import Any

import pyarrow as pa

from airflow_mlops.exceptions import ConfigError, DataError

_BATCH_ROWS = 65_536
_KINDS: Mapping[type, Callable[[Any], Any] | None] = {
    bool: None,
    int: None,
    float: None,
    str: None,
    bytes: None,
    datetime: None,
    date: None,
    time: None,
    Decimal: None,
    memoryview: bytes,
    bytearray: bytes,
    uuid.UUID: str,
}
"""Types of values that Arrow has a match for, and how they become it."""

_MONEY = pa.decimal128(38, 9)
"""Where a driver does not say how many digits a column has: what NUMERIC is in BigQuery."""


def fetched(
    cursor: Any, names: Sequence[str], decimals: Mapping[str, pa.DataType], utc: frozenset[str], where: str
) -> Iterator[pa.Table]:
    """Yield the rows of a cursor, a batch at a time; the types are those of the batch.

    :param decimals: Columns of decimal numbers whose digits are known.
    :param utc: Columns whose times have no zone, and are in UTC.
    :param where: The table, for errors.
    :raises DataError: when values of a column do not go together.
    :raises ConfigError: when there are values that Arrow has no match for.
    """
    while rows := cursor.fetchmany(_BATCH_ROWS):
        columns = zip(names, zip(*rows, strict=True), strict=True)
        arrays = list(starmap(lambda name, values: _array(name, values, decimals.get(name, _MONEY), where), columns))
        table = pa.Table.from_arrays(arrays, names=list(names))
        for n, name in enumerate(names):
            if name in utc and pa.types.is_timestamp(table.schema.field(n).type):
                table = table.set_column(n, name, table[name].cast(pa.timestamp("us", "UTC")))
        yield table


def _array(name: str, values: Sequence[Any], decimal: pa.DataType, where: str) -> pa.Array:
    kinds = {type(one) for one in values}
    kinds.discard(type(None))
    unknown = sorted(kind.__name__ for kind in kinds if kind not in _KINDS)
    if unknown:
        raise ConfigError(
            f"Column {name!r} has values that Arrow has no match for: {', '.join(unknown)}.",
            detail=where,
            hint="Leave it out with SQLSource(columns=[...]), or make a text or a number of it in a query: "
            f"CAST({name} AS CHAR) AS {name}.",
        )
    for kind in kinds:
        if (become := _KINDS[kind]) is not None:
            values = [become(one) if type(one) is kind else one for one in values]
    zones = {one.tzinfo is not None for one in values if isinstance(one, datetime)} if datetime in kinds else set()
    try:
        if len(zones) > 1 or {date, datetime} <= kinds:
            raise pa.ArrowInvalid("times with a zone and without one")
        return pa.array(values, decimal if Decimal in kinds else None)
    except (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError) as error:
        found = " and ".join(sorted(kind.__name__ for kind in kinds))
        raise DataError(
            f"Values of column {name!r} do not go together: {found}.",
            detail=f"{where}: {_without_values(error)}",
            hint="Let the upstream keep one type in it, or cast it in a query.",
        ) from None


def _without_values(error: Exception) -> str:
    """Return what Arrow says, without a value of the data."""
    said = str(error).splitlines()[0] if str(error) else type(error).__name__
    return said.partition("Could not convert")[0] or "a value is of another type, or too large for a column of 64 bits"
