"""Rows of a feature view in Feast's online format, a column at a time.

Feast makes one protobuf message a value and calls it four times; here each distinct value is converted once, by
Feast's own functions, and floating-point numbers, which rarely repeat, are laid out by NumPy. What comes out is the
same, byte for byte, but for one thing: Feast turns whole numbers in a column with nulls into floating-point ones
first, and loses digits beyond 2**53; here they stay exact.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from feast.infra.key_encoding_utils import serialize_entity_key
from feast.infra.online_stores.helpers import extract_text_and_num
from feast.protos.feast.types.EntityKey_pb2 import EntityKey
from feast.protos.feast.types.Value_pb2 import Value
from feast.type_map import python_values_to_proto_values
from feast.value_type import ValueType

if TYPE_CHECKING:
    from feast import FeatureView

_NULL = Value().SerializeToString()
_FLOATS = {ValueType.DOUBLE: ("double_val", "<f8", 1), ValueType.FLOAT: ("float_val", "<f4", 5)}
_REPEATING = frozenset(
    {ValueType.INT32, ValueType.INT64, ValueType.STRING, ValueType.BOOL, ValueType.BYTES, ValueType.UNIX_TIMESTAMP}
)


@dataclass(frozen=True)
class Column:
    """The values of one feature: ``values[codes[row]]`` is the row's, serialised; ``texts`` as some stores keep it."""

    values: Sequence[bytes]
    texts: Sequence[str | None]
    codes: np.ndarray

    def by_row(self) -> list[bytes]:
        """Return the value of each row."""
        return _taken(self.values, self.codes)

    def texts_by_row(self) -> list[str | None]:
        """Return the text of each row."""
        return _taken(self.texts, self.codes)


def encode_feature(column: pa.ChunkedArray, value_type: ValueType) -> Column:
    """Return a feature's values as Feast stores them.

    :raises TypeError: as Feast's own conversion, which also raises others, for values that are not of the type.
    """
    array = column.combine_chunks()
    if value_type in _FLOATS and pa.types.is_floating(array.type):
        wanted = pa.float64() if value_type is ValueType.DOUBLE else array.type
        if array.type == wanted:
            return _floats(array, value_type)
    if value_type in _REPEATING and not pa.types.is_nested(array.type):
        return _distinct(array, value_type)
    protos = python_values_to_proto_values(array.to_numpy(zero_copy_only=False), value_type)
    return _column(protos, np.arange(len(protos)))


def encode_keys(table: pa.Table, view: FeatureView, version: int) -> list[bytes]:
    """Return the entity key of each row as Feast stores it.

    :param version: ``entity_key_serialization_version``.
    """
    fields = sorted(view.entity_columns, key=lambda field: field.name)
    types = [field.dtype.to_value_type() for field in fields]
    columns = [table.column(field.name).combine_chunks() for field in fields]
    plain = all(
        (kind is ValueType.STRING and pa.types.is_string(column.type))
        or (kind is ValueType.INT64 and column.type == pa.int64())
        for kind, column in zip(types, columns, strict=True)
    )
    if version < 3 or not plain or any(column.null_count for column in columns):
        protos = [
            python_values_to_proto_values(column.to_numpy(zero_copy_only=False), kind)
            for kind, column in zip(types, columns, strict=True)
        ]
        names = [field.name for field in fields]
        return [
            serialize_entity_key(EntityKey(join_keys=names, entity_values=values), version)
            for values in zip(*protos, strict=True)
        ]
    head = struct.pack("<I", len(fields))
    for field in fields:
        name = field.name.encode()
        head += struct.pack("<2I", ValueType.STRING.value, len(name)) + name
    parts = [_key_values(column, kind) for kind, column in zip(types, columns, strict=True)]
    if len(parts) == 1:
        return [head + value for value in parts[0]]
    return [head + b"".join(values) for values in zip(*parts, strict=True)]


def _key_values(column: pa.Array, kind: ValueType) -> list[bytes]:
    if kind is ValueType.INT64:
        pack, start = struct.Struct("<2Iq").pack, (kind.value, 8)
        return [pack(*start, value) for value in column.to_pylist()]
    pack, number = struct.Struct("<2I").pack, kind.value
    return [pack(number, len(value)) + value for value in pc.cast(column, pa.binary()).to_pylist()]


def _floats(array: pa.Array, value_type: ValueType) -> Column:
    """Tag and little-endian bytes; NaN is null, as in pandas."""
    name, layout, wire = _FLOATS[value_type]
    numbers = array.fill_null(float("nan")).to_numpy(zero_copy_only=False).astype(layout, copy=False)
    width = numbers.dtype.itemsize
    # As bits, because 0.0 equals -0.0; all NaNs are one null.
    bits = np.where(np.isnan(numbers), np.array(np.nan, layout), numbers).view(f"<i{width}")
    encoded = pa.array(bits).dictionary_encode()
    distinct = encoded.dictionary.to_numpy().view(layout)
    laid = np.empty((len(distinct), 1 + width), np.uint8)
    laid[:, 0] = Value.DESCRIPTOR.fields_by_name[name].number << 3 | wire
    laid[:, 1:] = distinct.view(np.uint8).reshape(-1, width)
    buffer, step = laid.tobytes(), 1 + width
    values = [buffer[at : at + step] for at in range(0, len(buffer), step)]
    texts: list[str | None] = list(map(repr, distinct.tolist()))
    for null in np.flatnonzero(np.isnan(distinct)):
        values[null], texts[null] = _NULL, None
    return Column(values, texts, encoded.indices.to_numpy())


def _distinct(array: pa.Array, value_type: ValueType) -> Column:
    """Each distinct value by Feast's own conversion."""
    encoded = array.dictionary_encode()
    distinct = encoded.dictionary
    codes = encoded.indices.fill_null(len(distinct)).to_numpy(zero_copy_only=False)
    if not array.null_count:
        return _column(python_values_to_proto_values(_as_feast_sees(distinct), value_type), codes)
    if pa.types.is_temporal(array.type):  # Feast stores a null moment as NumPy's NaT: as a moment of its own
        distinct = pa.concat_arrays([distinct, pa.nulls(1, distinct.type)])
        return _column(python_values_to_proto_values(_as_feast_sees(distinct), value_type), codes)
    protos = list(python_values_to_proto_values(_as_feast_sees(distinct), value_type)) if len(distinct) else []
    return _column([*protos, Value()], codes)


def _as_feast_sees(values: pa.Array) -> np.ndarray:
    return values.to_numpy(zero_copy_only=False)


def _column(protos: Sequence[Value], codes: np.ndarray) -> Column:
    texts = [extract_text_and_num(proto, compute_num=False)[0] for proto in protos]
    return Column([proto.SerializeToString() for proto in protos], texts, codes)


def _taken(values: Sequence, codes: np.ndarray) -> list:
    boxed = np.empty(len(values), object)
    boxed[:] = values
    return boxed[codes].tolist()
