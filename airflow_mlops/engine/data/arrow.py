"""Arrow types: by their names, as schemas write them, and those of lists."""

from __future__ import annotations

import re

import pyarrow as pa
import pyarrow.compute as pc

from airflow_mlops.exceptions import DataError


def arrow_type(name: str) -> pa.DataType:
    """Return the Arrow type of a name such as ``double``, ``timestamp[us, tz=UTC]`` or ``list<item: int64>``.

    :raises ValueError: when Arrow has no such type.
    """
    if found := re.fullmatch(r"timestamp\[(\w+)(?:, tz=(.+))?\]", name):
        return pa.timestamp(found[1], tz=found[2])
    if found := re.fullmatch(r"list<\w+: (.+)>", name):
        return pa.list_(arrow_type(found[1]))
    if found := re.fullmatch(r"dictionary<values=(.+), indices=(\w+), ordered=(\d)>", name):
        return pa.dictionary(arrow_type(found[2]), arrow_type(found[1]), ordered=found[3] == "1")
    if found := re.fullmatch(r"decimal128\((\d+), (\d+)\)", name):
        return pa.decimal128(int(found[1]), int(found[2]))
    if found := re.fullmatch(r"(date\d\d)\[\w+\]", name):
        return pa.type_for_alias(found[1])
    return pa.type_for_alias(name)


def fits(found: str, wanted: str) -> bool:
    """Return whether every value of one type can be meant as one of another: whole numbers as floats, not the reverse.

    The width of numbers and the unit of times do not count; a value that is too large is seen when it is cast.
    """
    ours, theirs = _family(arrow_type(found)), _family(arrow_type(wanted))
    return ours == theirs or (ours, theirs) == ("whole number", "float")


def _family(kind: pa.DataType) -> str:
    if pa.types.is_dictionary(kind):
        return _family(kind.value_type)
    if pa.types.is_integer(kind):
        return "whole number"
    if pa.types.is_floating(kind):
        return "float"
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        return "text"
    if pa.types.is_timestamp(kind):
        return "naive time" if kind.tz is None else "time"
    return str(kind)


def alike(one: str, other: str) -> bool:
    """Return whether columns of two types can be read together: one holds what the other does, nothing is lost."""
    if "null" in (one, other) or one == other:
        return True
    try:
        ours, theirs = _family(arrow_type(one)), _family(arrow_type(other))
    except ValueError:  # structs and maps must be the same
        return False
    return ours == theirs or {ours, theirs} == {"whole number", "float"}


def is_list(kind: pa.DataType) -> bool:
    """Return whether the values of a type are lists, of a fixed length or of any."""
    return bool(pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind))


def list_length(name: str, column: pa.ChunkedArray) -> int:
    """Return how long the lists of a column are; 0 when none is known.

    :raises DataError: when they are of several lengths.
    """
    if pa.types.is_fixed_size_list(column.type):
        return int(column.type.list_size)
    lengths = pc.min_max(pc.list_value_length(column)).as_py()
    if lengths["min"] != lengths["max"]:
        raise lengths_differ(name, lengths["min"], lengths["max"])
    return lengths["max"] or 0


def lengths_differ(name: str, one: int, other: int) -> DataError:
    """Return what to raise for vectors of several lengths."""
    return DataError(
        f"The vectors of feature {name!r} are of several lengths.",
        detail=f"some have {one} numbers, others {other}",
        hint="A model takes vectors of one length: see which embedding made the others. What is missing is null.",
    )
