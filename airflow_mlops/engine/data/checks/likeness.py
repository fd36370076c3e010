"""Whether a column still looks like itself: shares of true, times of day, distinct values, values of the weekday.

These find a column that was destroyed and is not explained by another unit or another column's values, for which
see :mod:`airflow_mlops.engine.data.checks.distribution`. A rare true that is gone only warns, and below five usual rows
is not found: no flight cancelled, where a few are on other days, is a good day.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Iterator, Sequence
from datetime import timedelta

import numpy as np

from airflow_mlops.contracts import ColumnProfile, ExpectationOutcome, Profile, Severity
from airflow_mlops.engine.data.checks.distribution import ENOUGH_ROWS, RANKS, UNFIT, Numbers
from airflow_mlops.engine.data.checks.references import comparable, cycle_of, interval_of
from airflow_mlops.engine.data.checks.volume import MISSED
from airflow_mlops.engine.data.profiles import distinct, quantiles
from airflow_mlops.engine.data.robust import FAR, Share, logit, median_spread, outcome, rate_shift, rounded

FAR_OUTSIDE = 2.0
"""Log odds by which a share must lie beyond that of every day before to be blocked; the storms of 2013 reach 1.5."""

COLLAPSED = 0.2
"""Share of the fewest distinct values of any day before, at which a column is blocked; real days reach 0.78."""

_SEVERAL = 5.0
"""Distinct values that must be expected for their number to say anything."""

_LEAST_TIME = timedelta(minutes=15)
"""Least scale of a shift in time: with :data:`UNFIT` of it, two hours."""

_LOADED = timedelta(hours=1)
"""Range of a day's times up to which they are taken for those of its load."""

_OTHER_MIX = 0.5
_SAME_MIX = 0.2
"""Share of rows with another value from which on two days differ, and up to which they agree."""

_TWICE = 2
"""Days of one weekday that must agree before their values are taken to be those of that weekday."""


def check_likeness(profile: Profile, references: Sequence[Profile], label: str | None) -> Iterator[ExpectationOutcome]:
    """Compare each column with itself on the days before.

    :param label: Column that is judged as the label, and not again here.
    """
    same_weekdays = comparable(profile, references)
    for name, column in profile.columns.items():
        days = [day for day in references if name in day.columns and day.columns[name].kind == column.kind]
        if name == label or not days or column.min is None:
            continue
        if column.kind == "boolean":
            yield from _share_of_true(name, column, [day.columns[name] for day in days])
        elif column.kind == "time":
            yield from _times(name, profile, [day for day in same_weekdays if day in days] or days)
        elif column.kind == "number":
            yield from _distinct(name, column, [day.columns[name] for day in days])
            yield from _weekday(name, profile, days)


def _share_of_true(name: str, column: ColumnProfile, days: Sequence[ColumnProfile]) -> Iterator[ExpectationOutcome]:
    today, before = _trues(column), [share for share in map(_trues, days) if share.rows]
    shift = rate_shift(today, before)
    if shift is None:
        return
    far = abs(shift.distance) >= FAR
    constant = today.rate in (0.0, 1.0) and not any(share.rate in (0.0, 1.0) for share in before)
    missed = constant and today.rows * min(shift.usual, 1 - shift.usual) >= MISSED
    if not far and not missed:
        return
    levels = [logit(share.hits, share.rows) for share in before]
    level = logit(today.hits, today.rows)
    outside = max(level - max(levels), min(levels) - level)
    yield outcome(
        "share_of_true_as_usual",
        column=name,
        level="block" if far and (constant or outside >= FAR_OUTSIDE) else "warn",
        observed=rounded(shift.rate),
        bound={"usual": rounded(shift.usual), "distance": rounded(shift.distance), "far": FAR},
        note=f"does not look like itself: {shift.rate:.2%} are true, usual {shift.usual:.2%}",
    )


def _times(name: str, profile: Profile, days: Sequence[Profile]) -> Iterator[ExpectationOutcome]:
    """Compare how far times lie from the start of their day.

    A column whose times usually lie within an hour says when a day was loaded: a late load only warns.
    """
    gaps = np.array([gap for gap in (_gaps(day, name) for day in days) if gap is not None])
    found = _gaps(profile, name)
    if found is None or not len(gaps):
        return
    usual, spread = median_spread(gaps)
    reach = float(usual[-1] - usual[0])
    rows = profile.columns[name].count - profile.columns[name].nulls
    sampling = 0.38 / np.sqrt(rows)  # standard error of the median of normal values, as a share of this range
    scale = np.maximum(np.maximum(spread, reach * max(1 / 50, sampling)), _LEAST_TIME.total_seconds())
    misfit = float(np.median(np.abs(found - usual) / scale))
    if misfit < UNFIT:
        return
    shift = float(np.median(found - usual))
    words = f"{abs(shift) / 86400:,.1f} days" if abs(shift) >= 2 * 86400 else f"{abs(shift) / 3600:.1f} hours"
    words += " later" if shift > 0 else " earlier"
    level: Severity = "block" if reach > _LOADED.total_seconds() else "warn"
    yield outcome(
        "times_as_usual",
        column=name,
        level=level,
        observed={"shift_seconds": rounded(shift)},
        bound={"misfit": rounded(misfit), "max_misfit": UNFIT},
        note=f"does not look like itself: against its day, {words} than usual",
    )


def _distinct(name: str, column: ColumnProfile, days: Sequence[ColumnProfile]) -> Iterator[ExpectationOutcome]:
    """Block numbers that hold one value, or nearly so, and never did."""
    rows = column.count - column.nulls
    found, fewest = distinct(column), min(map(distinct, days))
    expected = fewest * min(1.0, rows / max(float(np.median([day.count - day.nulls for day in days])), 1.0))
    collapsed = expected >= _SEVERAL and found <= COLLAPSED * expected
    flag = found == 1 and fewest >= 2 and rows >= ENOUGH_ROWS and _rare_before(column, days)
    if collapsed or flag:
        yield outcome(
            "distinct_numbers_as_usual",
            column=name,
            level="block",
            observed=rounded(found),
            bound={"fewest": rounded(fewest), "min_ratio": COLLAPSED},
            note=f"does not look like itself: {found:.0f} distinct values, never fewer than {fewest:.0f} before",
        )


def _rare_before(column: ColumnProfile, days: Sequence[ColumnProfile]) -> bool:
    """Say whether the one value that a column of few whole numbers holds was never the most of a day."""
    return len(column.top) == 1 and all(day.top and _moved(column, day) > _OTHER_MIX for day in days)


def _weekday(name: str, profile: Profile, days: Sequence[Profile]) -> Iterator[ExpectationOutcome]:
    """Block a few whole numbers that follow the weekday and are those of another one.

    A month that begins is none: no weekday has been twice in it before the same one of today was.
    """
    column = profile.columns[name]
    if not column.top or not all(day.columns[name].top for day in days):
        return
    by_weekday: dict[Hashable, list[ColumnProfile]] = defaultdict(list)
    for day in days:
        by_weekday[cycle_of(day)].append(day.columns[name])
    own = by_weekday.pop(cycle_of(profile), [])
    agree = len(own) >= _TWICE and all(_moved(day, own[0]) <= _SAME_MIX for day in own)
    if not agree or min(_moved(column, day) for day in own) < _OTHER_MIX:
        return
    for others in by_weekday.values():
        if len(others) >= _TWICE and all(_moved(column, day) <= _SAME_MIX for day in others):
            yield outcome(
                "values_of_the_weekday",
                column=name,
                level="block",
                observed=rounded(_moved(column, own[-1])),
                bound={"max": _OTHER_MIX},
                note="holds what it usually holds on another weekday: is it counted from another day?",
            )
            return


def _trues(column: ColumnProfile) -> Share:
    rows = column.count - column.nulls
    return Share(round((column.mean or 0.0) * rows), rows)


def _gaps(day: Profile, name: str) -> Numbers | None:
    """Return the quantiles of a time column in seconds since the start of the day; None when it has no value."""
    column = day.columns[name]
    if column.min is None:
        return None
    start = interval_of(day)[0].timestamp()
    return np.array(quantiles(column, RANKS)) / 1e6 - start


def _moved(one: ColumnProfile, other: ColumnProfile) -> float:
    """Return the total variation distance of two mixes of values."""
    all_of_one, all_of_other = max(sum(one.top.values()), 1), max(sum(other.top.values()), 1)
    values = {*one.top, *other.top}
    return sum(abs(one.top.get(v, 0) / all_of_one - other.top.get(v, 0) / all_of_other) for v in values) / 2
