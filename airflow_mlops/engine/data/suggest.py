"""A suite drawn from profiles, for a person to edit: what the data looked like is not yet what it must look like.

Every expectation holds on each day it was drawn from, with head-room, and its note says what was seen. Structure
(columns, types, keys, nulls, sets, volume) is ``critical``; ranges and levels, which may move, are ``warning``.
Columns that are nearly unique (identifiers, free text) get neither values nor a range. Times get no bounds, as they
move with the days, and no type, as Great Expectations has no name for times with a zone: the partition's event-time
check and the schema contract look after them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from datetime import date, datetime
from typing import Any, NamedTuple

import numpy as np

from airflow_mlops.contracts import ColumnProfile, Exclusion, Partition, Profile
from airflow_mlops.engine.data.partitions import PartitionStore
from airflow_mlops.engine.data.profiles import distinct, label_rate, merge, near_unique, null_rate, profile_files, std
from airflow_mlops.engine.data.sources import no_partitions
from airflow_mlops.exceptions import ConfigError

_SPREAD = 6
"""Robust standard deviations (1.4826 x median absolute deviation) that a day's figure may be off the median."""

_ENOUGH_DAYS = 7

_FEW = 50
"""Most values that are written down as a category's set."""

_TYPES: dict[str, tuple[str, ...]] = {
    # As pandas calls them; whole numbers with nulls become floating there.
    "int": ("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64", "float64"),
    "uint": ("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64", "float64"),
    "float": ("float16", "float32", "float64"),
    "double": ("float16", "float32", "float64"),
    "string": ("str",),
    "large_string": ("str",),
    "bool": ("bool",),
}

Entry = dict[str, Any]


def suggest_from_store(
    store: PartitionStore,
    dataset: str,
    start: date | None = None,
    end: date | None = None,
    exclusions: Sequence[Exclusion] = (),
) -> dict[str, Any]:
    """Return the suite suggested by the sealed partitions of ``[start, end]``.

    A partition without a stored profile is profiled from its files.

    :param exclusions: Those in force. A day that one of them touches is left out whole: its profile cannot tell the
        bad rows from the good ones.
    :raises ConfigError: when there are no partitions in that time, or all are excluded.
    :raises DataError: when there is no such dataset.
    """
    interval = store.partitioning(dataset).interval
    partitions = [one for one in store.list(dataset, start, end) if not _touched(interval(one.key), exclusions)]
    if not partitions and not store.keys(dataset):
        raise no_partitions(store, dataset)
    if not partitions:
        raise ConfigError(
            f"There are no sealed partitions of {dataset!r} to draw a suite from.",
            detail=f"from {start or 'the first day'} to {end or 'the last day'}, {len(exclusions)} exclusions in force",
            hint="Seal some days first, or ask for other ones: `airflow-mlops partitions DATASET` lists them.",
        )
    return suggest_suite(
        [store.profile(partition) or _profiled(store, partition) for partition in partitions], name=dataset
    )


def _touched(interval: tuple[datetime, datetime], exclusions: Sequence[Exclusion]) -> bool:
    begin, end = interval
    return any(one.start < end and begin < one.end for one in exclusions)


def _profiled(store: PartitionStore, partition: Partition) -> Profile:
    dataset, key, revision = partition.dataset, partition.key, partition.revision
    folder = store.profile_path(dataset, key, revision).parent / revision
    files = [folder / file.name for file in partition.files]
    return profile_files(files, dataset=dataset, key=key, revision=revision, partitioning=store.partitioning(dataset))


def suggest_suite(profiles: Profile | Sequence[Profile], *, name: str, margin: float = 0.25) -> dict[str, Any]:
    """Return a suite in the JSON that Great Expectations and ``load_suite`` read.

    :param profiles: One a day, so that the spread between days is known; a single one will do, with wider bounds.
    :param name: What the suite will be called.
    :param margin: Head-room of ranges and levels, as a share of the observed range.
    :raises ConfigError: when there are no profiles, or they are of different datasets.
    """
    days = [profiles] if isinstance(profiles, Profile) else list(profiles)
    whole = merge(days)
    entries = [*_table(whole, days, margin)]
    for column in _always(whole, days):
        present = [day.columns[column] for day in days]
        entries += _column(column, whole.columns[column], present, margin, is_label=column == whole.label)
    return {
        "name": name,
        "expectations": entries,
        "meta": {"version": "1", "notes": f"Suggested from {len(days)} profiles of {whole.dataset}: read and edit."},
    }


def _always(whole: Profile, days: Sequence[Profile]) -> list[str]:
    """Return the columns that every day has: one that began later is no reason to refuse what came before."""
    return [name for name in whole.columns if all(name in day.columns for day in days)]


def _entry(type: str, kwargs: dict[str, Any], notes: str, severity: str = "critical") -> Entry:
    return {"type": type, "kwargs": kwargs, "severity": severity, "meta": {"notes": notes}}


# --- the table --------------------------------------------------------------------------------------------


def _table(whole: Profile, days: Sequence[Profile], margin: float) -> Iterator[Entry]:
    always = _always(whole, days)
    yield _entry(
        "expect_table_columns_to_match_set",
        {"column_set": always, "exact_match": False},
        "Every day had these columns. More are allowed.",
    )
    rows = _usual([day.rows for day in days], margin)
    yield _entry(
        "expect_table_row_count_to_be_between",
        {"min_value": max(1, math.floor(rows.low)), "max_value": math.ceil(rows.high)},
        f"Rows a day: {rows.seen}.",
    )
    if whole.unique and whole.duplicates == 0:
        yield _entry(*_key(whole.unique), "The declared key. No day repeated one.")
    if whole.label is not None and (rates := [rate for day in days if (rate := label_rate(day)) is not None]):
        usual = _usual(rates, margin, scale=1)
        yield _entry(
            "expect_column_mean_to_be_between",
            {"column": whole.label, "min_value": _down(max(0, usual.low)), "max_value": _up(min(1, usual.high))},
            f"Rate of positive labels a day: {usual.seen}.",
            "warning",
        )


def _key(unique: Sequence[str]) -> tuple[str, dict[str, Any]]:
    if len(unique) == 1:
        return "expect_column_values_to_be_unique", {"column": unique[0]}
    return "expect_compound_columns_to_be_unique", {"column_list": list(unique)}


# --- a column ---------------------------------------------------------------------------------------------


def _column(
    name: str, whole: ColumnProfile, days: Sequence[ColumnProfile], margin: float, *, is_label: bool
) -> Iterator[Entry]:
    if whole.nulls + whole.nans == whole.count:
        return  # never a value: nothing to go by
    types = _TYPES.get(whole.type.rstrip("0123456789"))
    if types and whole.kind != "other":
        yield _entry(
            "expect_column_values_to_be_in_type_list",
            {"column": name, "type_list": list(types)},
            f"Arrow type {whole.type}.",
        )
    identifies = near_unique(whole) or any(map(near_unique, days))
    yield _missing(name, days, "Nearly unique, so no values and no range are written here." if identifies else "")
    if identifies:
        return
    if whole.kind == "category":
        yield from _category(name, whole, days, margin)
    elif whole.kind == "number" and whole.min is not None and whole.max is not None and not is_label:
        yield _range(name, whole, whole.min, whole.max, margin)
        if not whole.infinities and math.isfinite(whole.mean or 0):
            yield _level(name, whole, days, margin)


def _missing(name: str, days: Sequence[ColumnProfile], note: str) -> Entry:
    worst = max(map(null_rate, days))
    kwargs: dict[str, Any] = {"column": name}
    if worst:
        kwargs["mostly"] = _down(max(0, 1 - 1.5 * worst - 0.01))
    return _entry("expect_column_values_to_not_be_null", kwargs, f"Missing: at most {worst:.2%} a day. {note}".strip())


def _category(name: str, whole: ColumnProfile, days: Sequence[ColumnProfile], margin: float) -> Iterator[Entry]:
    usual = _usual([distinct(day) for day in days], margin)
    yield _entry(
        "expect_column_unique_value_count_to_be_between",
        {"column": name, "min_value": max(1, math.floor(usual.low)), "max_value": math.ceil(usual.high)},
        f"Different values a day: {usual.seen}.",
        "warning",
    )
    if len(whole.top) <= _FEW and whole.top_error == 0:
        yield _entry(
            "expect_column_values_to_be_in_set",
            {"column": name, "value_set": sorted(whole.top)},
            f"The {len(whole.top)} values seen.",
        )


def _range(name: str, whole: ColumnProfile, low: float, high: float, margin: float) -> Entry:
    room = margin * (high - low or abs(low))
    if not math.isfinite(high - low + 2 * room):
        room = 0.0
    down, up = (math.floor, math.ceil) if "int" in whole.type else (_down, _up)
    # What was never negative probably cannot be: then 0 is as far as the head-room goes.
    kwargs: dict[str, Any] = {
        "column": name,
        "min_value": down(low - room if low < 0 else max(0, low - room)),
        "max_value": up(high + room),
    }
    if whole.infinities:
        kwargs["mostly"] = _down(max(0, 1 - 2 * whole.infinities / (whole.count - whole.nulls - whole.nans)))
    return _entry("expect_column_values_to_be_between", kwargs, f"Seen: {low:g} to {high:g}.", "warning")


def _level(name: str, whole: ColumnProfile, days: Sequence[ColumnProfile], margin: float) -> Entry:
    usual = _usual([day.mean for day in days if day.mean is not None], margin, scale=std(whole) or 0)
    low, high = usual.low, usual.high
    if whole.min is not None and whole.max is not None:
        low, high = max(low, whole.min), min(high, whole.max)
    return _entry(
        "expect_column_mean_to_be_between",
        {"column": name, "min_value": _down(low), "max_value": _up(high)},
        f"Mean of a day: {usual.seen}.",
        "warning",
    )


# --- bounds -----------------------------------------------------------------------------------------------


class _Usual(NamedTuple):
    low: float
    high: float
    seen: str


def _usual(values: Sequence[float], margin: float, scale: float | None = None) -> _Usual:
    """Return bounds for a figure of a day: six robust standard deviations around the median, and all days seen.

    :param scale: What ``margin`` is a share of while there are too few days to tell their spread; their median.
    """
    low, median, high = min(values), float(np.median(values)), max(values)
    spread = _SPREAD * 1.4826 * float(np.median(np.abs(np.asarray(values) - median)))
    width = high - low
    if len(values) < _ENOUGH_DAYS:
        width = max(width, abs(median) if scale is None else scale)
    room = margin * width
    seen = f"{low:.4g} to {high:.4g}, median {median:.4g}, of {len(values)} profile{'s' if len(values) > 1 else ''}"
    return _Usual(min(median - spread, low - room), max(median + spread, high + room), seen)


def _down(value: float) -> float:
    """Round down to three significant digits."""
    return _rounded(value, math.floor)


def _up(value: float) -> float:
    """Round up to three significant digits."""
    return _rounded(value, math.ceil)


def _rounded(value: float, towards: Callable[[float], int]) -> float:
    if not value or not math.isfinite(value):
        return value
    digits = 2 - math.floor(math.log10(abs(value)))
    if digits > 0:
        rounded = towards(value * 10.0**digits) / 10.0**digits if digits < 300 else value
        return int(rounded) if rounded.is_integer() else rounded
    return towards(value / 10**-digits) * 10**-digits
