"""Great Expectations on a batch of Parquet files: one suite, one pass, and no raw values in the answer.

Two things differ from what the library says by itself. A check that could not be computed (a column that is
not there, a bound of another type) is *unknown*, not a failure of the data, and it blocks whatever its
severity. And of values that fail, only counts leave this module.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
import os
from collections.abc import Mapping, Sequence
from datetime import date, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from airflow_mlops.contracts import ExpectationOutcome, Severity, ValidationResult, content_hash
from airflow_mlops.engine.data.files import identity
from airflow_mlops.engine.data.parquet import column_types, difference, readable
from airflow_mlops.exceptions import ConfigError, DataError, did_you_mean

if TYPE_CHECKING:
    from great_expectations.expectations.expectation import Expectation

# Before the library is imported, which is below: no telemetry, and no hundred lines about its own start in the
# log of every task.
os.environ.setdefault("GX_ANALYTICS_ENABLED", "false")
logging.getLogger("great_expectations").setLevel(logging.WARNING)

_SEVERITIES: dict[str, Severity] = {"critical": "block", "warning": "warn", "info": "info"}

_COLUMN_ARGUMENTS = ("column", "column_A", "column_B", "column_list")

# Counts and observed aggregates, without the samples of failing values that every format adds by default.
_RESULT_FORMAT = {"result_format": "BASIC", "partial_unexpected_count": 0}


def validate(files: Sequence[Path], suite: Sequence[Expectation], *, suite_name: str, batch: str) -> ValidationResult:
    """Check all rows of some Parquet files, as one table, against a suite.

    :param suite: Great Expectations objects; their ``severity`` says what a failure does: ``critical`` blocks,
        ``warning`` warns, ``info`` informs.
    :param suite_name: What the suite is called in reports.
    :param batch: What the batch is called in reports.
    :raises DataError: when the files cannot be read, disagree on their columns, or have no rows.
    :raises ConfigError: when ``suite`` is not a list of expectations, or the library cannot run it.
    """
    configurations = _configurations(suite, suite_name)
    table, batch_hash = _read(files)
    results = _run(table, suite, suite_name)
    order = {_key(configuration): position for position, configuration in enumerate(configurations)}
    results.sort(key=lambda result: order.get(_key(result.expectation_config.to_json_dict()), len(order)))
    return ValidationResult(
        suite=suite_name,
        suite_hash=content_hash(sorted(order)),
        batch=batch,
        batch_hash=batch_hash,
        rows=table.num_rows,
        outcomes=tuple(_outcome(result, column_types(table.schema)) for result in results),
    )


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


# --- running ----------------------------------------------------------------------------------------------


def _configurations(suite: Sequence[Expectation], suite_name: str) -> list[dict[str, Any]]:
    from great_expectations.expectations.expectation import Expectation

    if not isinstance(suite, Sequence) or not all(isinstance(item, Expectation) for item in suite):
        raise ConfigError(
            f"Suite {suite_name!r} is not a list of expectations.",
            detail=f"it is a {type(suite).__name__}",
            hint="Return a list such as [gxe.ExpectColumnValuesToNotBeNull(column='id')].",
        )
    return [expectation.configuration.to_json_dict() for expectation in suite]


def _key(configuration: Mapping[str, Any]) -> str:
    """Return what makes two expectations the same check: its type, arguments and severity."""
    kwargs = {name: value for name, value in configuration["kwargs"].items() if name != "batch_id"}
    return json.dumps([configuration["type"], kwargs, configuration.get("severity")], sort_keys=True, default=str)


def _read(files: Sequence[Path]) -> tuple[pa.Table, str]:
    """Read every file once: the bytes that are hashed are the bytes that are validated."""
    digests, tables = {}, []
    for file in files:
        with readable(file):
            contents = file.read_bytes()
            parquet = pq.ParquetFile(pa.BufferReader(contents), page_checksum_verification=True)
            tables.append(parquet.read().replace_schema_metadata())
        digests[file.name] = hashlib.sha256(contents).hexdigest()
        if not tables[-1].schema.equals(tables[0].schema):
            types = column_types(tables[0].schema), column_types(tables[-1].schema)
            raise DataError(
                "The Parquet files of one batch have different columns.",
                detail=f"{file}: {difference(*types)}",
                hint="All files of a batch need the same columns and types.",
            )
    if not any(table.num_rows for table in tables):
        raise DataError(
            "There are no rows to validate.",
            detail=", ".join(map(str, files)) or "no files",
            hint="See why the upstream landed nothing. An empty batch would pass most expectations.",
        )
    return pa.concat_tables(tables), identity(digests)


def _run(table: pa.Table, suite: Sequence[Expectation], suite_name: str) -> list[Any]:
    import great_expectations as gx
    from great_expectations.data_context.types.base import ProgressBarsConfig
    from great_expectations.exceptions import GreatExpectationsError

    context = gx.get_context(mode="ephemeral")
    context.config.progress_bars = ProgressBarsConfig(globally=False)
    asset = context.data_sources.add_pandas("pandas").add_dataframe_asset("batch")
    batch = asset.get_batch(asset.build_batch_request({"dataframe": table.to_pandas()}))
    try:
        answer = batch.validate(gx.ExpectationSuite(suite_name, list(suite)), result_format=_RESULT_FORMAT)
    except Exception as error:  # not every error in an expectation's own code is caught by the library
        said = f": {error}" if isinstance(error, GreatExpectationsError) else ""  # else it may quote raw values
        raise ConfigError(
            f"Great Expectations could not run suite {suite_name!r}.",
            detail=f"{type(error).__name__}{said}",
            hint="Leave out the expectation that breaks it; validate them one by one to find it.",
        ) from None
    return list(answer.results)


# --- reading the answer -----------------------------------------------------------------------------------


def _outcome(result: Any, columns: Mapping[str, str]) -> ExpectationOutcome:
    configuration = result.expectation_config.to_json_dict()
    expectation: str = configuration["type"]
    about_columns = expectation.startswith("expect_table_column")  # its lists are what is expected
    named = [] if about_columns else _named_columns(configuration["kwargs"])
    hidden = {"batch_id"} if about_columns else {"batch_id", *_COLUMN_ARGUMENTS}
    error = _raised(result.exception_info)
    if error is not None:
        error = _explain_unknown(error, named, columns)
    details = result.result or {}
    return ExpectationOutcome(
        expectation=expectation,
        column=", ".join(named) or None,
        severity=_SEVERITIES[configuration["severity"]],
        success=bool(result.success) and error is None,
        observed=details.get("observed_value") if about_columns else _observed(details),
        bound={name: value for name, value in configuration["kwargs"].items() if name not in hidden},
        unexpected_count=details.get("unexpected_count"),
        error=error,
    )


def _explain_unknown(raised: str, named: Sequence[str], columns: Mapping[str, str]) -> str:
    missing = [name for name in named if name not in columns]
    if missing:
        return f"there is no column {missing[0]!r}.{did_you_mean(missing[0], columns)}"
    types = ", ".join(f"{name!r} is {columns[name]}" for name in named)
    return f"{raised} while it was computed" + (f"; {types}" if types else "")


def _named_columns(kwargs: Mapping[str, Any]) -> list[str]:
    values = [kwargs[name] for name in _COLUMN_ARGUMENTS if name in kwargs]
    return [column for value in values for column in ([value] if isinstance(value, str) else value)]


def _raised(info: Mapping[str, Any]) -> str | None:
    """Return the type of what a metric raised. It hides in the answer, one level deep or two.

    Only its type: the message may quote the values that it stumbled over.
    """
    if info.get("raised_exception"):
        lines = str(info["exception_traceback"]).splitlines()
        raised = (line for line in lines if line and not line.startswith((" ", "Traceback")))
        return next(raised, "error").partition(":")[0].rpartition(".")[2]
    nested = (_raised(value) for value in info.values() if isinstance(value, Mapping))
    return next((name for name in nested if name is not None), None)


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


def _number(value: Any) -> float | None:
    if isinstance(value, int | np.integer):
        return int(value)
    if isinstance(value, float | np.floating) and math.isfinite(value):
        return round(float(value), 6)
    return None


def _line(outcome: ExpectationOutcome, rows: int) -> str:
    where = f" on {outcome.column!r}" if outcome.column else ""
    start = f"{outcome.severity.upper()} {outcome.expectation}{where}:"
    bound = ", ".join(f"{name}={value!r}" for name, value in outcome.bound.items()) or "none"
    if outcome.error is not None:
        return f"{start} UNKNOWN, {outcome.error} (bound: {bound})"
    count = "" if outcome.unexpected_count is None else f", {outcome.unexpected_count} of {rows} rows fail"
    observed = outcome.observed
    if isinstance(observed, Mapping) and "unexpected_percent" in observed:
        observed = f"{observed['unexpected_percent']:.4g}% unexpected"
    return f"{start} observed {observed}{count}; bound: {bound}"
