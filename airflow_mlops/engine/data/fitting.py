"""Columns made to fit: what loses nothing is cast, what would lose something is refused, with how many values."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from airflow_mlops.exceptions import DataError

TIME = pa.timestamp("us", tz="UTC")
_FEW = 7


def plain(kind: pa.DataType) -> pa.DataType:
    """Return the type that others like it are kept as: text not by dictionary, times in microseconds of UTC."""
    if pa.types.is_dictionary(kind):
        return plain(kind.value_type)
    if pa.types.is_large_string(kind) or pa.types.is_string_view(kind):
        return pa.string()
    if pa.types.is_large_binary(kind) or pa.types.is_binary_view(kind):
        return pa.binary()
    if pa.types.is_timestamp(kind):
        return TIME
    return kind


def common(schemas: Mapping[str, pa.Schema]) -> pa.Schema:
    """Return the schema that all files of a partition fit into: columns of all, in the order in which they come.

    :param schemas: File → its schema.
    :raises DataError: when a column has types in two files of which neither holds the other.
    """
    agreed: dict[str, tuple[pa.DataType, str]] = {}
    for file, schema in schemas.items():
        for field in schema:
            kind, before = plain(field.type), agreed.get(field.name)
            agreed[field.name] = (kind if before is None else _wider(field.name, before, (kind, file)), file)
    return pa.schema([(name, kind) for name, (kind, _) in agreed.items()])


def _wider(name: str, one: tuple[pa.DataType, str], other: tuple[pa.DataType, str]) -> pa.DataType:
    schemas = [pa.schema([(name, kind)]) for kind, _ in (one, other)]
    try:
        return pa.unify_schemas(schemas, promote_options="permissive").field(0).type
    except (pa.ArrowTypeError, pa.ArrowInvalid):
        raise DataError(
            f"Column {name!r} is {one[0]} in one file and {other[0]} in another.",
            detail=f"{one[1]}; {other[1]}",
            hint="Let the upstream write one type; or declare it in the dataset's contract, if all values fit it.",
        ) from None


def fit(table: pa.Table, schema: pa.Schema, *, zone: str, where: str, row_id: str | None = None) -> pa.Table:
    """Return a table with exactly these columns; those that it lacks are null.

    :param zone: Of times without one.
    :param where: The file, for errors.
    :param row_id: Column whose values name the rows that do not fit.
    :raises DataError: when a value would not be what it was.
    """
    columns = [_column(table, field, zone, where, row_id) for field in schema]
    return pa.Table.from_arrays(columns, schema=schema)


class Zoneless:
    """The times without a zone that were taken as those of ``zone``, counted.

    :param zone: Zone of times without one.
    """

    def __init__(self, zone: str) -> None:
        self.zone = zone
        self._counts: dict[str, tuple[int, int]] = {}

    def count(self, table: pa.Table) -> None:
        """Count those of some rows, and which of them the zone's clock skips or has twice."""
        for field in table.schema:
            if pa.types.is_timestamp(field.type) and field.type.tz is None:
                times = table[field.name]
                early, late = (
                    pc.assume_timezone(times, self.zone, ambiguous=which, nonexistent=which)
                    for which in ("earliest", "latest")
                )
                unclear = pc.sum(pc.not_equal(early, late)).as_py() or 0
                before, unclear_before = self._counts.get(field.name, (0, 0))
                self._counts[field.name] = before + len(times) - times.null_count, unclear_before + unclear

    def said(self) -> Iterator[str]:
        """Say, by column, how many there were."""
        for column, (times, unclear) in self._counts.items():
            twice = f"; {unclear} of them the clock skips or has twice, taken as the first" if unclear else ""
            yield f"{times} times of {column!r} had no zone: taken as {self.zone}{twice}"


def _column(table: pa.Table, field: pa.Field, zone: str, where: str, row_id: str | None) -> pa.ChunkedArray | pa.Array:
    if field.name not in table.schema.names:
        return pa.nulls(table.num_rows, field.type)
    column = table[field.name]
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    if pa.types.is_date(column.type) and pa.types.is_timestamp(field.type):
        column = column.cast(pa.date32()).cast(pa.timestamp("us"))  # the midnight of the zone, as it has no other
    if pa.types.is_timestamp(column.type) and column.type.tz is None and pa.types.is_timestamp(field.type):
        column = pc.assume_timezone(column, zone, ambiguous="earliest", nonexistent="earliest")
    if column.type == field.type:
        return column
    if not _may_become(column.type, field.type):
        raise _refused(column, field, where, "one is no kind of the other", _Lost())
    try:
        return column.cast(field.type)
    except pa.ArrowInvalid:
        why = "not all are times as ISO 8601 writes them" if _text(column.type) else "it would not be the same again"
        raise _refused(column, field, where, why, _lost(table, field, column, row_id)) from None


def _may_become(found: pa.DataType, wanted: pa.DataType) -> bool:
    """Whether values of one type can be those of another at all: a number is no text, and a text no number."""
    families = (_number, _text, pa.types.is_temporal, pa.types.is_boolean, pa.types.is_binary, pa.types.is_nested)
    return (
        pa.types.is_null(found)
        or any(family(found) and family(wanted) for family in families)
        or (_text(found) and pa.types.is_timestamp(wanted))  # a time as ISO 8601 writes it
    )


def _number(kind: pa.DataType) -> bool:
    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind))


def _text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


class _Lost(NamedTuple):
    """How many values would not come back as they were, 0 where that cannot be told; and of which rows, in words."""

    values: int = 0
    rows: str = ""


def _lost(table: pa.Table, field: pa.Field, column: pa.ChunkedArray, row_id: str | None) -> _Lost:
    try:
        back = column.cast(field.type, safe=False).cast(column.type, safe=False)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
        return _Lost()
    lost = pc.fill_null(pc.not_equal(back, column), False)
    few = table[row_id].filter(lost)[:_FEW].to_pylist() if row_id in table.schema.names else []
    return _Lost(pc.sum(lost).as_py() or 0, f"; {row_id}: {', '.join(map(str, few))}" if few else "")


def _refused(column: pa.ChunkedArray, field: pa.Field, where: str, why: str, lost: _Lost) -> DataError:
    finer = pa.types.is_timestamp(column.type) and column.type.unit == "ns" and pa.types.is_timestamp(field.type)
    cut = f', in pandas by rows["{field.name}"].dt.floor("{field.type.unit}"),' if finer else ","
    many = "Values" if not lost.values else f"{lost.values} of {len(column)} values"
    return DataError(
        f"{many} of column {field.name!r} would not fit into {field.type}.",
        detail=f"{where}: it is {column.type}; {why}{lost.rows}",
        hint=f"Nothing is rounded or cut off in silence: have the upstream correct it{cut} or declare another type in "
        "the dataset's contract.",
    )
