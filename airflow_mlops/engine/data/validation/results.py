"""From the library's answers to records, and from records to words. No raw value passes."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from datetime import date, datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import numpy as np

from airflow_mlops.contracts import ExpectationOutcome, Severity, ValidationResult
from airflow_mlops.exceptions import DataError, did_you_mean

if TYPE_CHECKING:
    from airflow_mlops.engine.data.validation.running import Answer

_SEVERITIES: dict[str, Severity] = {"critical": "block", "warning": "warn", "info": "info"}
_OF_TYPES = ("expect_column_values_to_be_of_type", "expect_column_values_to_be_in_type_list")
_NAMED = 12
"""Most missing values that a note names."""

_COLUMN_ARGUMENTS = ("column", "column_A", "column_B", "column_list")


def outcome(
    configuration: Mapping[str, Any], answer: Answer, types: Mapping[str, str] | None, row_ids: Sequence[str] = ()
) -> ExpectationOutcome:
    """Return what one expectation said.

    :param configuration: The expectation as JSON.
    :param types: The batch's columns and their types, if known.
    """
    expectation: str = configuration["type"]
    # Of an expectation on the table's columns, these arguments are what is expected, not where to look.
    about_columns = expectation.startswith("expect_table_column")
    columns = [] if about_columns else _named(configuration["kwargs"])
    hidden = {"batch_id"} if about_columns else {"batch_id", *_COLUMN_ARGUMENTS}
    details: Mapping[str, Any] = (answer.result.result if answer.result is not None else None) or {}
    success = answer.raised is None and answer.result is not None and bool(answer.result.success)
    return ExpectationOutcome(
        expectation=expectation,
        column=", ".join(columns) or None,
        severity=_SEVERITIES[configuration["severity"]],
        success=success,
        observed=details.get("observed_value") if about_columns else _observed(details),
        bound={name: value for name, value in configuration["kwargs"].items() if name not in hidden},
        unexpected_count=_count(details.get("unexpected_count")),
        row_ids=tuple(row_ids),
        note="" if success or answer.raised is not None else _note(configuration, answer, types or {}),
        error=None if answer.raised is None else _unknown(answer.raised, configuration["kwargs"], columns, types),
    )


def missing_column(columns: Sequence[str], types: Mapping[str, str]) -> str | None:
    """Return which of some columns is not there, in words."""
    missing = [name for name in columns if name not in types]
    return f"there is no column {missing[0]!r}.{did_you_mean(missing[0], types)}" if missing else None


def explain(result: ValidationResult) -> str:
    """Return one line for each expectation that did not hold, worst first."""
    return "\n".join(_line(outcome, result.rows) for outcome in result.failed)


def enforce(result: ValidationResult) -> None:
    """Refuse a batch that its suite blocks.

    :raises DataError: naming every expectation that did not hold: column, observed value, bound and count.
    """
    if not result.blocked:
        return
    if not result.outcomes:
        raise DataError(
            f"Suite {result.suite!r} checks nothing.",
            detail=result.batch,
            hint="Add an expectation: an empty suite is no reason to trust the data.",
        )
    lines = explain(result).replace("\n", "\n         ")
    unknown = sum(outcome.error is not None for outcome in result.failed)
    raise DataError(
        f"{len(result.failed)} of {len(result.outcomes)} expectations of {result.suite!r} do not hold"
        + (f", {unknown} of them could not be checked." if unknown else "."),
        detail=f"{result.batch} ({result.rows} rows)\n         {lines}",
        hint="Have the upstream correct the data and clear the task, or change the suite if the world changed. "
        "UNKNOWN means that the check itself broke: a column's name or type does not fit it.",
    )


def _note(configuration: Mapping[str, Any], answer: Answer, types: Mapping[str, str]) -> str:
    """Return in words what failed, where no aggregate says it."""
    expectation, kwargs = configuration["type"], configuration["kwargs"]
    if expectation == "expect_column_to_exist" and types:
        missing = missing_column([kwargs["column"]], types)
        return missing or f"it is column {list(types).index(kwargs['column'])}, counted from 0"
    if expectation in _OF_TYPES and types:
        return f"it is {types[kwargs['column']]}"
    if not expectation.startswith("expect_column_distinct_values_"):
        return ""
    details = (answer.result.result if answer.result is not None else None) or {}
    parts = []
    if answer.missing:
        # These are the suite's own words. Values that are there and not expected are data: only counted.
        named = ", ".join(map(repr, answer.missing[:_NAMED])) + (", …" if len(answer.missing) > _NAMED else "")
        parts.append(f"{len(answer.missing)} expected values are missing: {named}")
    if details.get("unexpected_count"):
        parts.append(f"{details['unexpected_count']} distinct values are not expected")
    return ", ".join(parts)


def _unknown(raised: str, kwargs: Mapping[str, Any], columns: Sequence[str], types: Mapping[str, str] | None) -> str:
    for pattern in [kwargs.get("regex"), *(kwargs.get("regex_list") or [])]:
        try:
            re.compile(pattern or "")
        except re.error as error:
            return f"the pattern {pattern!r} is not valid: {error}"
    if types is None:
        return f"{raised} while it was computed"
    if (missing := missing_column(columns, types)) is not None:
        return missing
    if raised.startswith("there is"):
        return raised
    found = ", ".join(f"{name!r} is {types[name]}" for name in columns)
    return f"{raised} while it was computed" + (f"; {found}" if found else "")


def _named(kwargs: Mapping[str, Any]) -> list[str]:
    values = [kwargs[name] for name in _COLUMN_ARGUMENTS if name in kwargs]
    return [column for value in values for column in ([value] if isinstance(value, str) else value)]


def _count(value: Any) -> int | None:
    return None if value is None else int(value)


def _observed(details: Mapping[str, Any]) -> Any:
    """Return an observed aggregate: a number, a time, quantiles, or the share of values that fail.

    Anything else that the library calls observed (the distinct values, the most common ones) is raw data.
    """
    value = details.get("observed_value")
    if isinstance(value, datetime | date):
        return value.isoformat()
    if isinstance(value, Mapping) and "quantiles" in value:
        return {str(q): _number(v) for q, v in zip(value["quantiles"], value["values"], strict=True)}
    if value is None and details.get("unexpected_percent") is not None:
        return {"unexpected_percent": _number(details["unexpected_percent"])}
    return _number(value)


def _number(value: Any) -> float | str | None:
    """Return a number as JSON has it: an infinity is text, and what is not defined is nothing."""
    if isinstance(value, int | np.integer | np.bool_):
        return int(value)
    if isinstance(value, float | np.floating | Decimal) and not math.isnan(value):
        return round(float(value), 6) if math.isfinite(value) else str(float(value))
    return None


def _line(outcome: ExpectationOutcome, rows: int) -> str:
    where = f" on {outcome.column!r}" if outcome.column else ""
    start = f"{outcome.severity.upper()} {outcome.expectation}{where}:"
    bound = ", ".join(f"{name}={value!r}" for name, value in outcome.bound.items()) or "none"
    if outcome.error is not None:
        note = f"; {outcome.note}" if outcome.note else ""
        return f"{start} UNKNOWN, {outcome.error} (bound: {bound}){note}"
    observed, note = _figure(outcome, rows), outcome.note
    parts = [observed, f"bound: {bound}", note] if observed else [note or "observed nothing", f"bound: {bound}"]
    if outcome.row_ids:
        parts.append(f"rows {', '.join(outcome.row_ids)}")
    return f"{start} {'; '.join(filter(None, parts))}"


def _figure(outcome: ExpectationOutcome, rows: int) -> str:
    """Return what was observed and how many rows fail; nothing when there is no figure."""
    observed = outcome.observed
    if isinstance(observed, Mapping) and "unexpected_percent" in observed:
        observed = f"{observed['unexpected_percent']:.4g}% unexpected"
    parts = [] if observed is None else [f"observed {observed}"]
    # Distinct values are not rows: the note counts them.
    if outcome.unexpected_count is not None and "_distinct_values_" not in outcome.expectation:
        parts.append(f"{outcome.unexpected_count} of {rows} rows fail")
    return ", ".join(parts)
