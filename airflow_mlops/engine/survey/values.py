"""What the values of a column are like."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.compute as pc

LOOKED_AT = 20_000
"""Rows on which it is measured how well a column tells the label, at most."""


def distinct(column: pa.ChunkedArray) -> int:
    """Return how many different values there are; of lists, how many rows."""
    try:
        return int(pc.count_distinct(column).as_py())
    except pa.ArrowNotImplementedError:  # lists and structs
        return len(column)


def is_text(kind: pa.DataType) -> bool:
    """Return whether a type is one of texts."""
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def is_decimal(column: pa.ChunkedArray) -> bool:
    """Return whether texts are numbers, some with a point: a code such as 007 is none."""
    there = column.drop_null()
    numbers = pc.match_substring_regex(there, r"^-?(0|[1-9]\d*)(\.\d+)?([eE][+-]?\d+)?$")
    return bool(pc.all(numbers).as_py() and pc.any(pc.match_substring(there, ".")).as_py())
