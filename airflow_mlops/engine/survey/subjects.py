"""What names a row, and what is predicted of it."""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa
import pyarrow.compute as pc

from airflow_mlops.engine.survey.values import distinct, is_text
from airflow_mlops.exceptions import ConfigError, DataError
from airflow_mlops.problems import PROBLEMS, Problem, as_label, problem_named

FEW_VALUES = 50
"""Different texts that a model learns one by one, at most."""


def entities(rows: pa.Table) -> list[str]:
    """Return the columns that can name a row: no value is missing, and none is there twice."""
    named = [one.name for one in rows.schema if is_text(one.type) or pa.types.is_integer(one.type)]
    return [one for one in named if not rows[one].null_count and pc.count_distinct(rows[one]).as_py() == len(rows)]


def labels(rows: pa.Table, taken: Sequence[str]) -> list[str]:
    """Return the columns that can be predicted, those first that look like it."""
    possible = [
        one.name
        for one in rows.schema
        if one.name not in taken and (pa.types.is_boolean(one.type) or 2 <= distinct(rows[one.name]) <= FEW_VALUES)
    ]
    return sorted(possible, key=lambda name: (not pa.types.is_boolean(rows[name].type), rows.column_names.index(name)))


def check_entity(rows: pa.Table, entity: str) -> None:
    """Refuse a column that does not name a row.

    :raises DataError: when a value is missing, or there twice.
    """
    column = rows[entity]
    if column.null_count:
        raise DataError(
            f"The entity {entity!r} is missing in {column.null_count} of {len(rows)} rows.",
            hint="Name a column that every row has a value of, its own: --entity.",
        )
    if repeated := len(column) - distinct(column):
        possible = entities(rows)
        raise DataError(
            f"The entity {entity!r} does not name a row: {repeated} of {len(rows)} rows repeat one.",
            detail=f"columns that do: {', '.join(possible) or 'none'}",
            hint="Name the column that is different in every row: --entity. What rows share, such as a customer, is "
            "--key.",
        )


def labelled(rows: pa.Table, label: str, problem: str) -> tuple[pa.Table, Problem]:
    """Return the rows with the label as its problem type has it, and the type."""
    column = rows[label]
    if column.null_count == len(column):
        raise DataError(f"The label {label!r} is missing in every row.", hint="Name another column: --label.")
    if pa.types.is_temporal(column.type):
        raise ConfigError(
            f"The label {label!r} is a time, of which nothing can be learned.",
            hint="Name a column of true and false, of classes, or of numbers: --label.",
        )
    if distinct(column) == 1:
        raise DataError(
            f"The label {label!r} has one value only: there is nothing to tell apart.",
            detail=f"{len(column) - column.null_count} rows",
            hint="Name another label; or look where the rows of the other class went.",
        )
    if not problem and is_text(column.type) and distinct(column) > FEW_VALUES:
        raise DataError(
            f"The label {label!r} is a text of {distinct(column):,} values: are they classes?",
            hint="Name another label; or say that they are: --problem multiclass.",
        )
    if not problem and pa.types.is_integer(column.type) and not PROBLEMS["binary"].claims(column):
        raise ConfigError(
            f"The label {label!r} is of whole numbers: are they classes, or amounts?",
            detail=f"{distinct(column)} different values",
            hint="Say it: --problem multiclass, or --problem regression.",
        )
    if problem:
        problem_named(problem)
        if problem == "ranking":
            raise ConfigError(
                "A project for a ranking cannot be written from one table yet.",
                hint="Begin with --problem regression. docs/models/problem-types.md has Label(problem='ranking').",
            )
    rows = as_label(rows, label, "the rows that were looked at", problem)
    of_type = problem_named(problem) if problem else next(o for o in PROBLEMS.values() if o.claims(column))
    return rows, of_type


def usual_label(label: pa.ChunkedArray) -> tuple[tuple[str, ...], float]:
    """Return the classes, the most frequent first, and what is usual of the label."""
    if pa.types.is_string(label.type):
        counted = sorted(pc.value_counts(label).to_pylist(), key=lambda one: (-one["counts"], one["values"]))
        return tuple(one["values"] for one in counted), counted[0]["counts"] / len(label)
    return (), float(pc.mean(label.cast(pa.float64())).as_py())
