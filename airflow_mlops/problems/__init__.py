"""Problem types: what differs between predicting a truth value, a class, a number and an order.

Metrics, baselines, default gates, what a label may be and how it is checked, the name of what is served, and what is
too good to be true: nothing outside this package asks which type it is. A new type is one file here, and a line below.

Importing it loads no library: a DAG file names gates by their metrics.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from airflow_mlops.exceptions import ConfigError, DataError, did_you_mean
from airflow_mlops.problems.base import Metric, Problem, Tally
from airflow_mlops.problems.binary import Binary
from airflow_mlops.problems.multiclass import Multiclass
from airflow_mlops.problems.ranking import Ranking
from airflow_mlops.problems.regression import Regression

if TYPE_CHECKING:
    import pyarrow as pa

    from airflow_mlops.contracts import ColumnProfile

__all__ = [
    "METRICS",
    "PROBLEMS",
    "Metric",
    "Problem",
    "Tally",
    "as_label",
    "check_groups",
    "check_label",
    "head_of",
    "less_is_better",
    "metrics_of",
    "of_head",
    "problem_named",
    "problem_of",
]

PROBLEMS: dict[str, Problem] = {one.name: one for one in (Binary(), Multiclass(), Regression(), Ranking())}
"""By name; a label that nobody said the type of is of the first that claims it."""

METRICS = tuple(dict.fromkeys(metric for one in PROBLEMS.values() for metric in one.metrics))
"""The metrics of all of them."""


def problem_named(name: str) -> Problem:
    """Return a problem type.

    :raises ConfigError: when there is none of that name.
    """
    if name not in PROBLEMS:
        raise ConfigError(
            f"There is no problem type {name!r}.{did_you_mean(name, PROBLEMS)}",
            hint=f"Problem types: {', '.join(PROBLEMS)}.",
        )
    return PROBLEMS[name]


def metrics_of(problems: Mapping[str, str]) -> dict[str, Metric]:
    """Return the metrics of a label by name, and those of heads as ``<head>.<metric>``.

    :param problems: Head → name of its problem type; that of the label itself at ``""``.
    """
    return {
        of_head(head, metric): one
        for head, problem in problems.items()
        for metric, one in problem_named(problem).metrics.items()
    }


def of_head(head: str, metric: str) -> str:
    """Return what the metric of a head is called; of none, as its problem type calls it."""
    return f"{head}.{metric}" if head else metric


def head_of(metric: str) -> str:
    """Return the head that a metric is of; empty: of the label itself."""
    return metric.rpartition(".")[0]


def less_is_better(metric: str) -> bool | None:
    """Return whether less of a metric is better; None when the problem types do not know it, or disagree."""
    own = metric.rpartition(".")[2]  # that of a head is <head>.<metric>
    known = {one.metrics[own].less_is_better for one in PROBLEMS.values() if own in one.metrics}
    return known.pop() if len(known) == 1 else None


def check_groups(problems: Iterable[str], group: str, where: str) -> None:
    """Refuse a type that holds rows against each other where nobody says within what, and groups of no such type.

    :param problems: Names of the problem types, of the label and of the heads; empty where nobody said it.
    :param group: Column of the groups; empty: none.
    :param where: What was written, for the error.
    :raises ConfigError: when there is no such type, or groups and types do not fit.
    """
    grouped = [name for name in problems if name and problem_named(name).grouped]
    if bool(grouped) != bool(group):
        raise ConfigError(
            f"{where} does not say one clear thing.",
            hint="A ranking needs the column of its groups, such as group='search_id'; nothing else has groups.",
        )


def as_label(rows: pa.Table, label: str, where: str, problem: str = "") -> pa.Table:
    """Return rows with the label as its problem type has it: truth values, texts or floats; null where it is unknown.

    :param where: What the rows are, for the error.
    :param problem: Name of the problem type; empty: by the type of the column.
    :raises DataError: when it is no such label, or could be several.
    """
    column = rows[label]
    found = problem_named(problem) if problem else next((one for one in PROBLEMS.values() if one.claims(column)), None)
    if found is None:
        raise _unclear(label, str(column.type), where)
    return rows.set_column(rows.schema.get_field_index(label), label, found.convert(column, label, where))


def problem_of(kind: pa.DataType, problem: str = "") -> Problem:
    """Return the problem type of a label that :func:`as_label` has made, by its Arrow type.

    :param problem: Its name, where somebody said it.
    """
    if problem:
        return problem_named(problem)
    return next(one for one in PROBLEMS.values() if one.label_type == str(kind))


def check_label(column: ColumnProfile | None, label: str, where: str, problem: str = "") -> None:
    """Refuse the first partition of a label that cannot be learned, and not a training months later.

    :param column: Its profile; None of one that is not there, which is told where it is read.
    :raises DataError: when it is no label of the problem type, or of any.
    """
    if column is None or column.type == "null":
        return
    for one in [problem_named(problem)] if problem else PROBLEMS.values():
        if one.claims_profile(column, said=bool(problem)):
            one.check_profile(column, label, where)
            return
    if problem:
        raise problem_named(problem).no_label(label, column.type, where)
    raise _unclear(label, column.type, where)


def _unclear(label: str, kind: str, where: str) -> DataError:
    if kind.startswith(("int", "uint")):
        return DataError(
            f"The label {label!r} is of whole numbers: are they classes, or amounts?",
            detail=f"{where}, type {kind}",
            hint='Say it: Label(..., problem="multiclass"), or problem="regression"; of a head '
            f'heads={{{label!r}: "multiclass"}}.',
        )
    return DataError(
        f"The label {label!r} is of type {kind}, of which nothing can be learned.",
        detail=where,
        hint="A label is true or false, a text that names a class, or a number; and null where it is not known.",
    )
