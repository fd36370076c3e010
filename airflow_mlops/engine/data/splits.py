"""How the rows of a snapshot are divided into train, validation and test: by time, or by the hash of a column."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from airflow_mlops.contracts import Exclusion, SplitName, SplitRule
from airflow_mlops.exceptions import ConfigError

TIME = pa.timestamp("us", tz="UTC")
BY_TIME = SplitRule()
_HASHES = 2**64


class SplitRows(NamedTuple):
    """The rows of one split, whose event times lie in ``[start, end)``."""

    rows: pa.Table
    start: datetime
    end: datetime


def between(rows: pa.Table, column: str, start: datetime, end: datetime) -> pa.Table:
    """Return the rows with times in ``[start, end)``."""
    return rows.filter(within(rows[column], start, end))


def within(times: pa.ChunkedArray, start: datetime, end: datetime) -> pa.ChunkedArray:
    """Return which times lie in ``[start, end)``."""
    return pc.and_(pc.greater_equal(times, pa.scalar(start, TIME)), pc.less(times, pa.scalar(end, TIME)))


def without(rows: pa.Table, column: str, excluded: Iterable[Exclusion]) -> pa.Table:
    """Return the rows whose times lie in none of the windows."""
    for window in excluded:
        rows = rows.filter(pc.invert(within(rows[column].cast(TIME), window.start, window.end)))
    return rows


def by_time(
    rows: pa.Table, event_time: str, begin: datetime, end: datetime, *, validation: timedelta, test: timedelta
) -> dict[SplitName, SplitRows]:
    """Divide ``[begin, end)`` by time: its last part is for testing, the part before it for validation."""
    bounds = [begin, end - test - validation, end - test, end]
    names: tuple[SplitName, ...] = ("train", "validation", "test")
    return {
        name: SplitRows(between(rows, event_time, first, last), first, last)
        for name, first, last in zip(names, bounds[:-1], bounds[1:], strict=True)
    }


def by_entity(rows: pa.Table, rule: SplitRule, begin: datetime, end: datetime) -> dict[SplitName, SplitRows]:
    """Divide rows so that all rows of a value of ``rule.column`` are in one split, whenever they happened.

    The same value is on the same side in every process, on every machine, and in every later snapshot with the
    same shares and salt. Null counts as one value.

    :param rule: With its column and both shares set.
    """
    if rule.column is None or rule.validation is None or rule.test is None:
        raise ConfigError(
            "A split by entity needs a column and the shares of validation and test.",
            detail=f"column={rule.column!r}, validation={rule.validation}, test={rule.test}",
            hint="Name the column whose values must not be on two sides, such as the aircraft of a flight.",
        )
    if min(rule.validation, rule.test) <= 0 or rule.validation + rule.test >= 1:
        raise ConfigError(
            "The shares of validation and test leave a split empty.",
            detail=f"validation={rule.validation}, test={rule.test}",
            hint="Both must be above 0, and together below 1.",
        )
    place = _uniform(rows[rule.column], rule.salt)
    masks: dict[SplitName, np.ndarray] = {
        "train": place >= rule.test + rule.validation,
        "validation": (place >= rule.test) & (place < rule.test + rule.validation),
        "test": place < rule.test,
    }
    return {name: SplitRows(rows.filter(pa.array(mask)), begin, end) for name, mask in masks.items()}


def _uniform(column: pa.ChunkedArray, salt: str) -> np.ndarray:
    """Return a number in [0, 1) for each row: the first 8 bytes of the SHA-256 of salt and value."""
    values = column.cast(pa.string()).combine_chunks().dictionary_encode("encode")
    digests = [hashlib.sha256(f"{salt}\0{value}".encode()).digest() for value in values.dictionary.to_pylist()]
    numbers = np.array([int.from_bytes(digest[:8], "big") for digest in digests], dtype=np.float64) / _HASHES
    return numbers[values.indices.to_numpy(zero_copy_only=False)]
