"""Which expectations SQL answers as pandas does, and in what form an expectation is put to a batch."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping, Sequence, Set
from datetime import UTC, date, datetime, time
from typing import TYPE_CHECKING, Any

from airflow_mlops.engine.data.validation.batches import Kind

if TYPE_CHECKING:
    from great_expectations.expectations.expectation import Expectation
    from great_expectations.expectations.row_conditions import Condition

_COLUMN_ARGUMENTS = ("column", "column_A", "column_B", "column_list")
_COMPARED_ARGUMENTS = ("min_value", "max_value", "value_set")
_CORE = "great_expectations.expectations.core"

_OF_THE_TABLE = {
    "expect_column_to_exist",
    "expect_table_column_count_to_be_between",
    "expect_table_column_count_to_equal",
    "expect_table_columns_to_match_ordered_list",
    "expect_table_columns_to_match_set",
    "expect_table_row_count_to_be_between",
    "expect_table_row_count_to_equal",
}
_OF_COUNTS = {
    "expect_column_proportion_of_non_null_values_to_be_between",
    "expect_column_proportion_of_unique_values_to_be_between",
    "expect_column_unique_value_count_to_be_between",
    "expect_compound_columns_to_be_unique",
}
# SQL and pandas agree on these whatever the column holds, as long as what it is compared with fits.
_OF_ANY_COLUMN = {
    "expect_column_distinct_values_to_be_in_set",
    "expect_column_distinct_values_to_contain_set",
    "expect_column_distinct_values_to_equal_set",
    "expect_column_max_to_be_between",
    "expect_column_min_to_be_between",
    "expect_column_pair_values_a_to_be_greater_than_b",
    "expect_column_pair_values_to_be_equal",
    "expect_column_values_to_be_between",
    "expect_column_values_to_be_in_set",
    "expect_column_values_to_be_null",
    "expect_column_values_to_be_unique",
    "expect_column_values_to_not_be_in_set",
    "expect_column_values_to_not_be_null",
}
_OF_NUMBERS = {
    "expect_column_mean_to_be_between",
    "expect_column_median_to_be_between",
    "expect_column_quantile_values_to_be_between",
    "expect_column_stdev_to_be_between",
    "expect_column_sum_to_be_between",
    "expect_multicolumn_sum_to_equal",
}
_OF_TEXT = {"expect_column_value_lengths_to_be_between", "expect_column_value_lengths_to_equal"}
# The library has these for SQL only.
_NOT_IN_PANDAS = {
    "expect_column_values_to_match_like_pattern",
    "expect_column_values_to_match_like_pattern_list",
    "expect_column_values_to_not_match_like_pattern",
    "expect_column_values_to_not_match_like_pattern_list",
    "unexpected_rows_expectation",
}
# What can be said of a list, a struct or a map without comparing two of them, which no engine does reliably.
_OF_NESTED = {
    "expect_column_proportion_of_non_null_values_to_be_between",
    "expect_column_values_to_be_in_type_list",
    "expect_column_values_to_be_null",
    "expect_column_values_to_be_of_type",
    "expect_column_values_to_not_be_null",
}
_NESTED = re.compile(r"(large_|fixed_size_)?list(_view)?<|struct<|map<|(dense|sparse)_union<")
_FITTING: dict[Kind, tuple[type, ...]] = {
    "number": (int, float),
    "boolean": (int, float),
    "instant": (datetime,),
    "clock": (datetime,),
    "date": (date,),
    "text": (str,),
    "other": (),
}


def named_columns(expectation: Expectation) -> list[str]:
    """Return the columns that an expectation is about."""
    values = [getattr(expectation, name) for name in _COLUMN_ARGUMENTS if getattr(expectation, name, None)]
    return [column for value in values for column in ([value] if isinstance(value, str) else value)]


def is_of_the_table(expectation: Expectation) -> bool:
    """Tell whether it asks about the table's shape: a column that is not there is an answer, not an obstacle."""
    return _type(expectation) in _OF_THE_TABLE


def beyond_judging(expectation: Expectation, types: Mapping[str, str]) -> str | None:
    """Say which of its columns an expectation cannot judge, because it would have to compare lists, structs or maps.

    Asked all the same, an engine may answer that four equal lists are unique.

    :param types: Column → Arrow type.
    """
    if not type(expectation).__module__.startswith(_CORE) or _type(expectation) in _OF_THE_TABLE | _OF_NESTED:
        return None
    for column in named_columns(expectation):
        if _NESTED.match(types.get(column, "")):
            return f"there is no comparing the values of {column!r}: it is {types[column]}"
    return None


def only_in_sql(expectation: Expectation) -> bool:
    """Tell whether pandas cannot answer it."""
    return _type(expectation) in _NOT_IN_PANDAS


def used_columns(expectation: Expectation) -> list[str] | None:
    """Return the columns whose values an expectation needs, or None when that cannot be told."""
    condition = getattr(expectation, "row_condition", None)
    if _type(expectation) in _OF_THE_TABLE or isinstance(condition, str):
        return None
    columns = named_columns(expectation)
    parts = list(_parts(condition))
    if any(part.type == "pass_through" for part in parts):
        return None
    return [*columns, *(part.column.name for part in parts)] if columns else None


def fits_sql(expectation: Expectation, kinds: Mapping[str, Kind]) -> bool:
    """Tell whether SQL gives the answer that pandas gives, so that the faster one may be asked.

    The expectation has the form that :func:`adapted` gave it.
    """
    kind = _type(expectation)
    if kind in _OF_THE_TABLE or kind in _NOT_IN_PANDAS:
        return True
    if not type(expectation).__module__.startswith(_CORE) or not _condition_fits(expectation, kinds):
        return False
    if kind in _OF_COUNTS:
        return True
    found = {kinds[column] for column in named_columns(expectation)}
    if kind in _OF_NUMBERS:
        return found <= {"number", "boolean"}
    if kind in _OF_TEXT:
        return found == {"text"}
    return kind in _OF_ANY_COLUMN and len(found) == 1 and _values_fit(expectation, found.pop())


def adapted(expectation: Expectation, kinds: Mapping[str, Kind], *, sql: bool) -> Expectation:
    """Return an expectation whose bounds have the types that its column has.

    A date, or a text, that is compared with a column of times is read as a time, in UTC if it says nothing else:
    JSON has no other. In SQL, true and false count as 1 and 0.

    :raises ValueError: when such a text is not a time.
    """
    columns = named_columns(expectation)
    kind = kinds.get(columns[0]) if columns else None
    changes = {}
    for name in _COMPARED_ARGUMENTS:
        value = getattr(expectation, name, None)
        if kind in ("instant", "clock", "date", "boolean") and value is not None:
            changes[name] = [_typed(v, kind, sql) for v in value] if name == "value_set" else _typed(value, kind, sql)
    return expectation.copy(update=changes) if changes else expectation


def _typed(value: Any, kind: Kind, sql: bool) -> Any:
    if kind == "boolean":
        return int(value) if sql and isinstance(value, bool) else value
    if kind == "date":
        return date.fromisoformat(value) if isinstance(value, str) else value
    if isinstance(value, str):
        value = datetime.fromisoformat(value)
    elif isinstance(value, date) and not isinstance(value, datetime):
        value = datetime.combine(value, time())
    if not isinstance(value, datetime):
        return value
    if kind == "clock":
        return value.astimezone(UTC).replace(tzinfo=None) if value.tzinfo else value
    return value if value.tzinfo else value.replace(tzinfo=UTC)


def _type(expectation: Expectation) -> str:
    return str(expectation.expectation_type)


def _values_fit(expectation: Expectation, kind: Kind) -> bool:
    values = [value for name in _COMPARED_ARGUMENTS for value in _listed(getattr(expectation, name, None))]
    return all(value is None or isinstance(value, _FITTING[kind]) for value in values) and kind != "other"


def _listed(value: Any) -> Collection[Any]:
    return value if isinstance(value, Sequence | Set) and not isinstance(value, str) else [value]


def _condition_fits(expectation: Expectation, kinds: Mapping[str, Kind]) -> bool:
    """Tell whether a row condition keeps the same rows in SQL.

    Of "not equal" and "not in", SQL says nothing about a null, and pandas says yes.
    """
    condition = getattr(expectation, "row_condition", None)
    if isinstance(condition, str):
        return False
    for part in _parts(condition):
        if part.type == "pass_through":
            return False
        if part.type == "comparison":
            if part.operator in ("!=", "NOT_IN"):
                return False
            fitting = _FITTING[kinds[part.column.name]]
            if not all(isinstance(value, fitting) for value in _listed(part.parameter)):
                return False
    return True


def _parts(condition: Condition | None) -> Iterator[Any]:
    if condition is None:
        return
    if condition.type in ("and", "or"):
        for part in condition.conditions:
            yield from _parts(part)
    else:
        yield condition
