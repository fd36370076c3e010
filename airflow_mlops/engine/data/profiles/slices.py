"""Counting rows and labels by slice, and rows that repeat the unique key."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from airflow_mlops.contracts import SliceProfile
from airflow_mlops.exceptions import ConfigError
from airflow_mlops.problems import PROBLEMS

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
    """Say whether values of a type are a label of some problem type; a file without any label has the type null."""
    nothing = _known(pa.chunked_array([], type))
    return any(problem.claims(nothing) for problem in PROBLEMS.values())


class SliceCounts:
    """Rows and labels of every value of the slice columns."""

    def __init__(self, slices: Sequence[str], label: str | None, problem: str = "") -> None:
        self._slices = slices
        self._label = label
        self._problem = problem
        self._counts: dict[str, dict[str, SliceProfile]] = {column: {} for column in slices}

    def add(self, batch: pa.RecordBatch | pa.Table) -> None:
        """Count a batch.

        :raises ConfigError: when a slice column has more than 10,000 values.
        :raises DataError: when there are too many different labels.
        """
        label = _known(pa.nulls(len(batch)) if self._label is None else batch[self._label])
        for column in self._slices:
            rows = pa.table({"slice": batch[column], "label": label})
            labels: dict[str, dict[str, Any]] = defaultdict(dict)
            for problem in PROBLEMS.values():
                for value, fields in problem.count_slices(rows, said=problem.name == self._problem).items():
                    labels[_text(value)] |= fields
            counts = self._counts[column]
            for row in rows.group_by("slice").aggregate([([], "count_all"), ("label", "count")]).to_pylist():
                value = _text(row["slice"])
                new = SliceProfile(rows=row["count_all"], labelled=row["label_count"], **labels[value])
                counts[value] = joined(counts[value], new) if value in counts else new
            if len(counts) > _MOST_VALUES:
                raise ConfigError(
                    f"The column {column!r} is no slice: it has more than {_MOST_VALUES:,} values.",
                    hint="Slice by a column with few values, such as a carrier or a country.",
                )

    def profiles(self) -> dict[str, dict[str, SliceProfile]]:
        """Return what was counted, values in order."""
        return {column: dict(sorted(counts.items())) for column, counts in self._counts.items()}


def joined(one: SliceProfile, other: SliceProfile) -> SliceProfile:
    """Return what two slices are together."""
    fields: dict[str, Any] = {}
    for problem in PROBLEMS.values():
        fields |= problem.join_slices(one, other)
    return SliceProfile(rows=one.rows + other.rows, labelled=one.labelled + other.labelled, **fields)


def _known(label: pa.Array | pa.ChunkedArray) -> pa.Array | pa.ChunkedArray:
    """Return a label with null where it is unknown, of a type that Arrow can group and compare."""
    if pa.types.is_null(label.type):
        return label.cast(pa.bool_())
    if pa.types.is_dictionary(label.type):
        return label.cast(label.type.value_type)
    if pa.types.is_float16(label.type):
        label = label.cast(pa.float32())
    return pc.if_else(pc.is_nan(label), None, label) if pa.types.is_floating(label.type) else label


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
