"""Counting rows, labels and positives by slice, and rows that repeat the unique key."""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa
import pyarrow.compute as pc

from airflow_mlops.contracts import SliceProfile
from airflow_mlops.exceptions import ConfigError

NULL_SLICE = "∅"

_MOST_VALUES = 10_000


def groupable(type: pa.DataType) -> bool:
    """Say whether Arrow can group by values of a type; not by lists, for example."""
    try:
        pa.table({"value": pa.array([], type)}).group_by("value").aggregate([])
    except (pa.ArrowNotImplementedError, pa.ArrowInvalid, pa.ArrowTypeError):
        return False
    return True


def usable_as_label(type: pa.DataType) -> bool:
    """Say whether values of a type are positive or not; a file without any label has the type null."""
    types = pa.types
    numbers = types.is_integer(type) or types.is_floating(type) or types.is_decimal(type)
    return bool(numbers or types.is_boolean(type) or types.is_null(type))


class SliceCounts:
    """Rows, labelled rows and positives of every value of the slice columns."""

    def __init__(self, slices: Sequence[str], label: str | None) -> None:
        self._slices = slices
        self._label = label
        self._counts: dict[str, dict[str, tuple[int, int, int]]] = {column: {} for column in slices}

    def add(self, batch: pa.RecordBatch | pa.Table) -> None:
        """Count a batch.

        :raises ConfigError: when a slice column has more than 10,000 values.
        """
        positive = None if self._label is None else _positive(batch[self._label])
        for column in self._slices:
            rows = pa.table(
                {"value": batch[column], "positive": pa.nulls(len(batch)) if positive is None else positive}
            )
            found = rows.group_by("value").aggregate([([], "count_all"), ("positive", "count"), ("positive", "sum")])
            counts = self._counts[column]
            for row in found.to_pylist():
                value = _text(row["value"])
                known = counts.get(value, (0, 0, 0))
                new = (row["count_all"], row["positive_count"], row["positive_sum"] or 0)
                counts[value] = (known[0] + new[0], known[1] + new[1], known[2] + new[2])
            if len(counts) > _MOST_VALUES:
                raise ConfigError(
                    f"The column {column!r} is no slice: it has more than {_MOST_VALUES:,} values.",
                    hint="Slice by a column with few values, such as a carrier or a country.",
                )

    def profiles(self) -> dict[str, dict[str, SliceProfile]]:
        """Return what was counted, values in order."""
        return {
            column: {
                value: SliceProfile(rows=rows, labelled=labelled, positives=positives)
                for value, (rows, labelled, positives) in sorted(counts.items())
            }
            for column, counts in self._counts.items()
        }


def _positive(label: pa.Array | pa.ChunkedArray) -> pa.Array | pa.ChunkedArray:
    """Return true where the label is true or not zero, null where it is unknown."""
    if pa.types.is_boolean(label.type):
        return label
    if pa.types.is_null(label.type):
        return label.cast(pa.bool_())
    if pa.types.is_float16(label.type):
        label = label.cast(pa.float32())  # Arrow cannot compare halves
    if pa.types.is_floating(label.type):
        label = pc.if_else(pc.is_nan(label), None, label)
    return pc.not_equal(label, pa.scalar(0, label.type))


def _text(value: object) -> str:
    if value is None:
        return NULL_SLICE
    return str(value).lower() if isinstance(value, bool) else str(value)


class UniqueKeys:
    """Counts rows whose key was there before, exactly, which takes holding the keys. Nulls are equal to each other."""

    def __init__(self, unique: Sequence[str]) -> None:
        self._unique = list(unique)
        self._keys: list[pa.RecordBatch] = []

    def add(self, batch: pa.RecordBatch) -> None:
        """Take in a batch."""
        if self._unique:
            self._keys.append(batch.select(self._unique))

    def duplicates(self) -> int | None:
        """Return how many rows repeat a key; None when no key was declared."""
        if not self._keys:
            return 0 if self._unique else None
        keys = pa.Table.from_batches(self._keys)
        return int(keys.num_rows - keys.group_by(self._unique).aggregate([]).num_rows)
