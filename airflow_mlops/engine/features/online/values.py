"""Values between a caller and the online store: checked against the registry, encoded for Feast, decoded from it."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from numbers import Integral, Real
from typing import TYPE_CHECKING, Any

from airflow_mlops.exceptions import DataError

if TYPE_CHECKING:
    from feast import Field
    from feast.protos.feast.types.Value_pb2 import Value
    from feast.types import FeastType

# Protobuf fields whose Python value is the value; all others go through Feast's own conversion.
_PLAIN = frozenset({"double_val", "int64_val", "string_val", "bool_val", "float_val", "int32_val", "bytes_val"})


@dataclass(frozen=True)
class Column:
    """A column that the caller sends: its name, its Arrow type, and how one value of it is read.

    ``field`` is the field of Feast's protobuf that carries it as a join key, ``""`` when it cannot be one.
    """

    name: str
    type: str
    convert: Callable[[Any], Any]
    field: str = ""

    def read(self, values: Sequence[Any]) -> list[Any]:
        """Return the values as the registry types them; None for what is missing.

        :raises DataError: when a value has another type, saying of which entity.
        """
        read: list[Any] = []
        convert = self.convert
        for number, value in enumerate(values):
            if value is None or (isinstance(value, float) and math.isnan(value)):  # as pandas writes a missing value
                read.append(None)
                continue
            try:
                read.append(convert(value))
            except (TypeError, ValueError, OverflowError) as error:
                raise DataError(
                    f"Column {self.name!r} of entity {number} has the wrong type.",
                    detail=f"{type(value).__name__} where the feature registry says {self.type}: {error}",
                    hint="Send the type that the registry says; OnlineReader.keys and .request list them.",
                ) from None
        return read


def column(name: str, dtype: FeastType) -> Column:
    """Return how a column of a Feast type is read."""
    from feast.types import from_feast_to_pyarrow_type

    field, convert = _COLUMNS.get(dtype.to_value_type().name, ("", _as_it_is))
    return Column(name, str(from_feast_to_pyarrow_type(dtype)), convert, field)


def decoder(field: Field) -> Callable[[Value], Any]:
    """Return what turns a stored value of a feature into the Python value that Feast itself would answer."""
    from feast.type_map import feast_value_type_to_python_type

    kind = field.dtype.to_value_type()
    plain = _PLAIN - {"string_val"} if "UUID" in kind.name else _PLAIN

    def decode(value: Value) -> Any:
        which = value.WhichOneof("val")
        if which in plain:
            return getattr(value, which)
        return None if which is None else feast_value_type_to_python_type(value, kind)

    return decode


def computed(values: Sequence[Any], dtype: FeastType) -> list[Any]:
    """Return what an on-demand view answered as its declared type, by the way that Feast itself takes."""
    from feast.type_map import feast_value_type_to_python_type, python_values_to_proto_values

    kind = dtype.to_value_type()
    if kind.name == "DOUBLE" and all(type(value) is float or value is None for value in values):
        return [None if value is None or math.isnan(value) else value for value in values]
    return [feast_value_type_to_python_type(value, kind) for value in python_values_to_proto_values(values, kind)]


def _text(value: Any) -> str:
    if isinstance(value, str):
        return value
    raise TypeError("text is wanted")


def _bytes(value: Any) -> bytes:
    if isinstance(value, bytes):
        return value
    raise TypeError("bytes are wanted")


def _integer(bits: int) -> Callable[[Any], int]:
    def convert(value: Any) -> int:
        if isinstance(value, bool) or not isinstance(value, Integral):
            raise TypeError("a whole number is wanted")
        number = int(value)
        if not -(1 << bits - 1) <= number < 1 << bits - 1:
            raise OverflowError(f"it does not fit into {bits} bits")
        return number

    return convert


def _number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError("a number is wanted")
    return float(value)


def _truth(value: Any) -> bool:
    if isinstance(value, bool):
        return value
    if type(value).__name__ == "bool" and hasattr(value, "item"):  # NumPy's
        return bool(value)
    raise TypeError("True or False is wanted")


def _moment(value: Any) -> datetime:
    if not isinstance(value, datetime):
        raise TypeError("a datetime is wanted")
    if value.tzinfo is None:
        raise ValueError("it has no time zone; say datetime(..., tzinfo=UTC)")
    return value.astimezone(UTC)


def _as_it_is(value: Any) -> Any:
    return value


# Feast's value type → field of the protobuf as a join key, and how a value is read.
_COLUMNS: dict[str, tuple[str, Callable[[Any], Any]]] = {
    "STRING": ("string_val", _text),
    "BYTES": ("bytes_val", _bytes),
    "INT32": ("int32_val", _integer(32)),
    "INT64": ("int64_val", _integer(64)),
    "UNIX_TIMESTAMP": ("unix_timestamp_val", _moment),
    "DOUBLE": ("", _number),
    "FLOAT": ("", _number),
    "BOOL": ("", _truth),
}
