"""When a row happened, and when its label is known."""

from __future__ import annotations

import math
import re
from datetime import UTC, date, datetime, timedelta

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from airflow_mlops.engine.survey.values import is_text
from airflow_mlops.exceptions import ConfigError, DataError

_NEARLY_ALL = 0.99
_DAY = 86_400
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def times(schema: pa.Schema) -> list[str]:
    """Return the columns that can say when a row happened."""
    return [one.name for one in schema if pa.types.is_timestamp(one.type) or pa.types.is_date(one.type)]


def check_time(rows: pa.Table, time: str) -> None:
    """Refuse a column that does not say when a row happened.

    :raises ConfigError: when it is of another type.
    :raises DataError: when it has no value, or when a few of its values are no times.
    """
    kind = rows[time].type
    if pa.types.is_timestamp(kind) or pa.types.is_date(kind):
        if len(rows) and rows[time].null_count == len(rows):
            raise DataError(f"The time {time!r} is missing in every row.", hint="Name another column: --time.")
        return
    sample = rows[time].drop_null()
    if is_text(kind) and (other := _no_times(sample)):
        raise DataError(
            f"{len(other):,} of {len(sample):,} values of the time {time!r} are no times.",
            detail=f"such as {_shape(other[0])!r}; the others are",
            hint="Correct these rows, or leave them out.",
        )
    like = _shape(sample[0].as_py()) if len(sample) else ""
    if is_text(kind):
        hint = (
            "Nobody can say which of 01/02 is the month. Write times as ISO 8601 does, 2024-01-15 10:00:00: in pandas "
            f'by pd.to_datetime(rows["{time}"], format="%d/%m/%Y %H:%M"). Or, of CSV, say their format: --reader '
            f'\'{{"timestampformat": "%d/%m/%Y %H:%M", "types": {{"{time}": "TIMESTAMP"}}}}\''
        )
    else:
        hint = (
            "Nobody can say what it counts. Write times as ISO 8601 does, 2024-01-15 10:00:00: in pandas by "
            f'pd.to_datetime(rows["{time}"], unit="s"), if it is the seconds since 1970.'
        )
    raise ConfigError(
        f"The time {time!r} is {'a text' if is_text(kind) else str(kind)}, and no time.",
        detail=f"it looks like {like!r}" if like else "it has no value",
        hint=hint,
    )


def _shape(value: object) -> str:
    """Return how a value looks, without what it says."""
    return re.sub(r"[A-Za-z]", "a", re.sub(r"[0-9]", "9", str(value)[:30]))


def _no_times(texts: pa.ChunkedArray) -> list[str]:
    """Return those texts that are no times as ISO 8601 writes them, if they are fewer than those that are."""
    import pandas as pd

    values = texts.to_pandas()
    other = values[pd.to_datetime(values, format="ISO8601", errors="coerce", utc=True).isna()]
    return [str(one) for one in other] if len(other) < len(values) / 2 else []


def usual_begin(rows: pa.Table, time: str) -> date | None:
    """Return the day on which nearly all rows begin, if the few before take most of the time; None where they do not.

    1970-01-01 is what many programs write that know no time.
    """
    moments = rows[time].drop_null().cast(pa.timestamp("us")).cast(pa.int64())
    first, usual, last = (int(one) for one in np.quantile(moments.to_numpy(), [0, 1 - _NEARLY_ALL, _NEARLY_ALL]))
    return (_EPOCH + timedelta(microseconds=usual)).date() if usual - first > last - usual else None


def known_at_of(rows: pa.Table, time: str, label: str) -> str:
    """Return the column that looks like when the label is known; empty where none does."""
    known = rows.filter(pc.is_valid(rows[label]))
    found: dict[str, float] = {}
    for name in times(rows.schema):
        if name == time:
            continue
        waited = _waited(known, time, name)
        there = len(waited) / max(1, len(known))
        if there >= _NEARLY_ALL and (waited >= 0).mean() >= _NEARLY_ALL and (waited > 0).any():
            found[name] = float(np.median(waited))
    # The last of them, of several: nobody can know before that.
    return max(found, key=lambda name: found[name], default="")


def _waited(rows: pa.Table, time: str, until: str) -> np.ndarray:
    """Return the seconds from one column's times to another's, where both are there."""
    both = rows.filter(pc.and_(pc.is_valid(rows[time]), pc.is_valid(rows[until])))
    begin, end = (both[name].cast(pa.timestamp("us", "UTC")).cast(pa.int64()).to_numpy() for name in (time, until))
    over = _DAY if pa.types.is_date(rows[until].type) else 0  # what is known on a date is known when it is over
    return np.asarray((end - begin) / 1e6 + over)


def matures_after(rows: pa.Table, time: str, label: str, known_at: str) -> timedelta:
    """Return in how many days nearly all labels are known; seven where nothing says it."""
    if not known_at:
        return timedelta(days=7)
    waited = _waited(rows.filter(pc.is_valid(rows[label])), time, known_at)
    return timedelta(days=max(1, math.ceil(float(np.quantile(waited, 0.995)) / _DAY)))
