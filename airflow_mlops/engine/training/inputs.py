"""The model's inputs: columns of a snapshot as the arrays that a model takes."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from airflow_mlops.contracts import Snapshot
from airflow_mlops.exceptions import DataError
from airflow_mlops.problems import problem_named

Columns = dict[str, np.ndarray]


def read_inputs(table: pa.Table, features: Mapping[str, str]) -> Columns:
    """Return each feature as one raw array: text as ``object`` of ``str``, floats as ``float32``, whole numbers
    as ``int64``, truth values as ``bool``.

    A missing float is NaN and a missing text is ``""``; handling them is the model's business.

    :param table: Rows of a split.
    :param features: Model input → Arrow type, in order.
    :raises DataError: when a column is not there, has a type that no model takes, or lacks whole numbers.
    """
    missing = [name for name in features if name not in table.column_names]
    if missing:
        raise DataError(
            f"The snapshot lacks {len(missing)} of the model's inputs.",
            detail=f"missing: {', '.join(missing)}; there are: {', '.join(table.column_names)}",
            hint="Build the snapshot again from the feature service that the model is trained on.",
        )
    return {name: _to_array(name, table.column(name)) for name in features}


def read_targets(table: pa.Table, snapshot: Snapshot) -> np.ndarray:
    """Return the labels as the numbers that a model of their problem type learns, one a row.

    :raises DataError: when one is unknown: that is never read as negative.
    """
    column = table.column(snapshot.label)
    if column.null_count:
        raise DataError(
            f"{column.null_count} rows of the snapshot have no label.",
            detail=f"label {snapshot.label!r}, {len(column)} rows",
            hint="Rows without a matured label must stay out of a snapshot; build it again.",
        )
    return problem_named(snapshot.problem).targets(column, snapshot.classes)


def read_weights(table: pa.Table, snapshot: Snapshot) -> np.ndarray | None:
    """Return what each row counts, as ``float32``; None where all count the same.

    :raises DataError: when a weight is missing, negative or not finite.
    """
    if not snapshot.weight:
        return None
    column = table.column(snapshot.weight)
    weights = np.asarray(column.cast(pa.float32()).to_numpy(), dtype=np.float32)
    if wrong := int((~np.isfinite(weights) | (weights < 0)).sum()):
        raise DataError(
            f"{wrong} of {len(weights)} rows have no usable weight.",
            detail=f"column {snapshot.weight!r}: missing, negative or infinite",
            hint="A weight is a number from 0 on. Mend the feed, or leave Label(weight=...) out.",
        )
    return weights


def _to_array(name: str, column: pa.ChunkedArray) -> np.ndarray:
    kind = column.type
    if pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_dictionary(kind):
        return np.asarray(pc.fill_null(column.cast(pa.string()), "").to_numpy(), dtype=object)
    if pa.types.is_floating(kind) or pa.types.is_decimal(kind):
        return np.asarray(pc.cast(column, pa.float32()).to_numpy(), dtype=np.float32)
    if pa.types.is_null(kind):
        return np.full(len(column), np.nan, dtype=np.float32)
    if not (pa.types.is_integer(kind) or pa.types.is_boolean(kind)):
        raise DataError(
            f"Feature {name!r} has a type that no model takes: {kind}.",
            detail="a model's inputs are text, floats, whole numbers or truth values",
            hint="Turn it into a number in the feature view (a time: into an age or an hour).",
        )
    if column.null_count:
        raise DataError(
            f"Feature {name!r} holds whole numbers, and {column.null_count} are missing.",
            detail=f"type {kind}, {len(column)} rows; only a float can be missing (NaN)",
            hint="Declare it as a float in its feature view.",
        )
    return np.asarray(column.to_numpy(), dtype=bool if pa.types.is_boolean(kind) else np.int64)
