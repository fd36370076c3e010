"""The model's inputs: columns of a snapshot as the arrays that a model takes."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from airflow_mlops.contracts import Snapshot, TensorSpec
from airflow_mlops.engine.data.arrow import is_list, list_length
from airflow_mlops.exceptions import DataError
from airflow_mlops.problems import problem_named

Columns = dict[str, np.ndarray]


def read_inputs(table: pa.Table, features: Mapping[str, str]) -> Columns:
    """Return each feature as one raw array: text as ``object`` of ``str``, floats as ``float32``, whole numbers
    as ``int64``, truth values as ``bool``.

    Lists of floats, such as embeddings, are ``float32`` of shape ``[rows, n]``; lists of text are ``object`` of shape
    ``[rows, k]``, filled up with ``""`` to the longest of these rows; binary values are ``object`` of ``bytes``.

    A missing float is NaN, a missing text is ``""``, and of a list all of its values are; handling them is the model's
    business.

    :param table: Rows of a split.
    :param features: Model input → Arrow type, in order.
    :raises DataError: when a column is not there, has a type that no model takes, lacks whole numbers, or has lists of
        floats of several lengths.
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


Answers = np.ndarray | dict[str, np.ndarray]
"""One value a row; of several labels that, by label."""


def read_answers(table: pa.Table, snapshot: Snapshot) -> tuple[Answers, Answers | None]:
    """Return what a model learns of some rows, and what each row counts: None where all count the same.

    Of several labels both are by label. Where that of a head is not known, the row counts 0 for it.

    :raises DataError: as :func:`read_targets` and :func:`read_weights` do.
    """
    targets, weights = read_labels(table, snapshot), read_weights(table, snapshot)
    if not snapshot.heads:
        return targets[snapshot.label], weights
    rows = np.ones(table.num_rows, np.float32) if weights is None else weights
    return targets, {label: rows * is_known(table, label) for label in targets}


def read_labels(table: pa.Table, snapshot: Snapshot) -> dict[str, np.ndarray]:
    """Return label → the numbers that a model learns, one a row; 0 where that of a head is not known.

    :raises DataError: as :func:`read_targets` does.
    """
    found = {snapshot.label: read_targets(table, snapshot)}
    for name, head in snapshot.heads.items():
        known = problem_named(head.problem).targets(table.column(name).drop_null(), head.classes)
        found[name] = np.zeros(table.num_rows, known.dtype)
        found[name][is_known(table, name)] = known
    return found


def is_known(table: pa.Table, label: str) -> np.ndarray:
    """Return in which rows a label is known."""
    return np.asarray(table.column(label).is_valid().to_numpy(), dtype=bool)


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


def specs_of(columns: Columns) -> dict[str, TensorSpec]:
    """Return what a model's signature says of such inputs: any number of rows, and of texts in a row."""
    specs = {}
    for name, values in columns.items():
        text = values.dtype == object
        more = (-1,) * (values.ndim - 1) if text else values.shape[1:]
        specs[name] = TensorSpec(dtype="string" if text else values.dtype.name, shape=(-1, *more))
    return specs


def _to_array(name: str, column: pa.ChunkedArray) -> np.ndarray:
    kind = column.type
    if is_list(kind):
        return _to_rows(name, column)
    if pa.types.is_binary(kind) or pa.types.is_large_binary(kind):
        return np.asarray(pc.fill_null(column.cast(pa.large_binary()), b"").to_numpy(), dtype=object)
    if pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_dictionary(kind):
        return np.asarray(pc.fill_null(column.cast(pa.string()), "").to_numpy(), dtype=object)
    if pa.types.is_floating(kind) or pa.types.is_decimal(kind):
        return np.asarray(pc.cast(column, pa.float32()).to_numpy(), dtype=np.float32)
    if pa.types.is_null(kind):
        return np.full(len(column), np.nan, dtype=np.float32)
    if not (pa.types.is_integer(kind) or pa.types.is_boolean(kind)):
        raise DataError(
            f"Feature {name!r} has a type that no model takes: {kind}.",
            detail="a model takes text, bytes, floats, whole numbers, truth values, and lists of text or floats",
            hint="Turn it into a number in the feature view (a time: into an age or an hour).",
        )
    if column.null_count:
        raise DataError(
            f"Feature {name!r} holds whole numbers, and {column.null_count} are missing.",
            detail=f"type {kind}, {len(column)} rows; only a float can be missing (NaN)",
            hint="Declare it as a float in its feature view.",
        )
    if pa.types.is_boolean(kind):
        return np.asarray(column.to_numpy(), dtype=bool)
    try:
        return np.asarray(pc.cast(column, pa.int64()).to_numpy(), dtype=np.int64)
    except pa.ArrowInvalid:
        raise DataError(
            f"Feature {name!r} holds whole numbers that are too large for a model.",
            detail=f"type {kind}; a model takes int64, up to 2**63 - 1",
            hint="An id or a hash is a text: declare it as one in its feature view.",
        ) from None


def _to_rows(name: str, column: pa.ChunkedArray) -> np.ndarray:
    """Return lists of floats or of text as a matrix."""
    values = column.type.value_type
    if pa.types.is_floating(values):
        width = list_length(name, column)
        known = column.is_valid().to_numpy()
        matrix = np.full((len(column), width), np.nan, dtype=np.float32)
        flat = pc.list_flatten(column.drop_null())
        matrix[known] = np.asarray(flat.cast(pa.float32()).to_numpy()).reshape(int(known.sum()), width)
        return matrix
    if pa.types.is_string(values) or pa.types.is_large_string(values):
        rows = column.to_pylist()
        longest = max((len(row) for row in rows if row), default=0)
        padded = np.full((len(rows), max(longest, 1)), "", dtype=object)
        for place, row in enumerate(rows):
            if row:
                padded[place, : len(row)] = [text or "" for text in row]
        return padded
    raise DataError(
        f"Feature {name!r} is of lists that no model takes: {column.type}.",
        detail="a model's lists are of floats or of text",
        hint="Let it be a list of floats (an embedding) or of text.",
    )
