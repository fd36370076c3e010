"""How old the data is, whatever the age of the file that holds it."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import numpy as np

from airflow_mlops.contracts import ExpectationOutcome, Profile
from airflow_mlops.engine.data.checks.references import interval_of, key_of
from airflow_mlops.engine.data.robust import FAR, median_spread, outcome, unknown
from airflow_mlops.exceptions import did_you_mean

_LEAST_GAP = timedelta(hours=1)
"""Two days' last events may differ by this much without anyone noticing."""

_ENOUGH_COLUMNS = 3
"""As many columns of numbers must be the same as on another day for it to be a copy of that day."""


def check_age(
    profile: Profile,
    usual_days: Sequence[Profile],
    event_time: str,
    interval: tuple[datetime, datetime],
    written_at: datetime | None,
) -> ExpectationOutcome:
    """Compare the newest event with the end of the interval, and with when the file was written.

    A file written today can hold rows of last month: its own age then says nothing.
    """
    column = profile.columns.get(event_time)
    if column is None or column.kind != "time" or column.max is None:
        error = f"there is no time in column {event_time!r}.{did_you_mean(event_time, profile.columns)}"
        return unknown("data_as_new_as_its_file", error, column=event_time)
    newest = datetime.fromtimestamp(column.max / 1e6, UTC)
    start, end = interval
    gap, allowed = end - newest, _usual_gap(usual_days, event_time)
    note = f"newest event {newest:%Y-%m-%d %H:%M} UTC, {gap} before the end of the interval; up to {allowed} is usual"
    if written_at is not None:
        note += f"; the file was written {written_at:%Y-%m-%d %H:%M} UTC"
    if newest < start:
        note += f"; all rows lie before {start:%Y-%m-%d %H:%M} UTC: does the upstream cut by another time zone?"
    old = "the file is fresh, the data is old: " if written_at is not None and written_at >= start else ""
    level = "block" if newest < start else "warn" if gap > allowed else None
    return outcome(
        "data_as_new_as_its_file",
        column=event_time,
        level=level,  # type: ignore[arg-type]
        observed={"gap_seconds": gap.total_seconds()},
        bound={"max_gap_seconds": allowed.total_seconds()},
        note=(old if level else "") + note,
    )


def check_repeated(profile: Profile, references: Sequence[Profile]) -> ExpectationOutcome:
    """Block a day whose numbers are those of another day: a frozen source that writes a fresh file every night."""
    today = _fingerprint(profile)
    same = [key_of(day) for day in references if _fingerprint(day) == today] if len(today) else []
    repeated = bool(same) and len(today) > _ENOUGH_COLUMNS
    return outcome(
        "day_not_repeated",
        level="block" if repeated else None,
        observed={"same_as": same},
        note=f"rows and all numbers are those of {same[-1]}: the source is frozen" if repeated else "",
    )


def _usual_gap(days: Sequence[Profile], event_time: str) -> timedelta:
    """Return the largest gap between a day's last event and its end that is nothing new."""
    gaps = []
    for day in days:
        newest = day.columns[event_time].max if event_time in day.columns else None
        if newest is not None:
            _, end = interval_of(day)
            gaps.append(end.timestamp() - newest / 1e6)
    if not gaps:
        return timedelta(days=1)
    median, spread = median_spread(np.array(gaps))
    return timedelta(seconds=round(max(*gaps, median + FAR * spread))) + _LEAST_GAP


def _fingerprint(profile: Profile) -> list[tuple[object, ...]]:
    """Return what two days have in common only if they hold the same rows: mean and spread of their numbers."""
    columns = [
        (name, column.nulls, round(column.mean, 9), round(column.m2, 6))
        for name, column in profile.columns.items()
        if column.kind == "number" and column.mean is not None and column.m2
    ]
    return [(profile.rows,), *sorted(columns)]
