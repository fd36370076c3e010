"""Counts of rows that must add up: of a transform, of repeated keys, of columns in which each row has its own value."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from airflow_mlops.contracts import ExpectationOutcome, Profile
from airflow_mlops.engine.data.profiles import distinct, null_rate
from airflow_mlops.engine.data.robust import FAR, Share, outcome, rate_shift, rounded
from airflow_mlops.exceptions import ConfigError

TOO_MANY_DUPLICATES = 0.05
"""Share of rows with a repeated key that is blocked, whatever is usual."""

NEARLY_UNIQUE = 0.9
ENOUGH_ROWS = 100
"""A column with more distinct values than this share of more rows than that says who a row is about."""

NULLS_JUMP = 0.5
"""Rise of the share of nulls that is blocked; a rise of :data:`NULLS_RISE` warns."""
NULLS_RISE = 0.02


def reconcile_rows(
    rows_in: int,
    rows_out: int,
    rejected: Mapping[str, int],
    *,
    expected_ratio: float = 1.0,
    tolerance: float = 0.0,
    by_slice: Mapping[str, tuple[int, int, int]] | None = None,
) -> list[ExpectationOutcome]:
    """Check that a transform lost no row without saying so: of the rows not rejected, ``expected_ratio`` come out.

    :param rejected: Reason → rows that were left out for it.
    :param expected_ratio: The declared change: 0.3 for a sample of 30 %, 1 for one row each.
    :param tolerance: Largest deviation of the ratio that passes, as a share of ``expected_ratio``.
    :param by_slice: Slice value → rows in, out and rejected: a loss in one slice can hide in the total.
    :raises ConfigError: when a count is negative, or the ratio is not positive, or a number is NaN or infinite.
    """
    counts = (rows_in, rows_out, *rejected.values(), *(n for slices in (by_slice or {}).values() for n in slices))
    finite = all(map(math.isfinite, (*counts, expected_ratio, tolerance)))  # no comparison with NaN is true
    if not finite or min(counts) < 0 or expected_ratio <= 0 or tolerance < 0:
        raise ConfigError(
            "Rows cannot be reconciled with these numbers.",
            detail=f"smallest count {min(counts)}, expected_ratio={expected_ratio}, tolerance={tolerance}",
            hint="Counts and tolerance are finite and not negative, and the ratio is positive.",
        )
    reasons = ", ".join(f"{reason}: {count}" for reason, count in rejected.items() if count) or "none"
    everything = {"": (rows_in, rows_out, sum(rejected.values())), **(by_slice or {})}
    return [
        _reconciled(name, counts, expected_ratio, tolerance, "" if name else f"rejected: {reasons}")
        for name, counts in everything.items()
    ]


def _reconciled(
    name: str, counts: tuple[int, int, int], ratio: float, tolerance: float, note: str
) -> ExpectationOutcome:
    rows_in, rows_out, rejected = counts
    expected = (rows_in - rejected) * ratio
    missing = expected - rows_out
    fails = abs(missing) > tolerance * expected + 1e-9 or rejected > rows_in
    where = f"slice {name!r}: " if name else ""
    words = (
        f"{abs(missing):.0f} rows are {'missing' if missing > 0 else 'too many'} without a reason; " if fails else ""
    )
    return outcome(
        "rows_reconciled",
        level="block" if fails else None,
        observed={"rows_in": rows_in, "rows_out": rows_out, "rejected": rejected},
        bound={"expected_ratio": ratio, "tolerance": tolerance},
        count=round(abs(missing)) if fails else 0,
        note=(where + words + note).rstrip("; "),
    )


def check_duplicates(profile: Profile, usual_days: Sequence[Profile]) -> ExpectationOutcome:
    """Compare the share of rows whose key was there before with the usual one."""
    assert profile.duplicates is not None  # the caller asked for a unique key
    rate = profile.duplicates / max(profile.rows, 1)
    days = [day for day in usual_days if day.duplicates is not None]
    usual = float(np.median([(day.duplicates or 0) / max(day.rows, 1) for day in days])) if days else 0.0
    history = [Share(day.duplicates or 0, day.rows) for day in days] or [Share(0, profile.rows)]
    shift = rate_shift(Share(profile.duplicates, profile.rows), history)
    more = shift is not None and shift.distance >= FAR
    blocked = rate > usual + TOO_MANY_DUPLICATES
    return outcome(
        "duplicates_as_usual",
        column=", ".join(profile.unique) or None,
        level="block" if blocked else "warn" if more else None,
        observed=rounded(rate),
        bound={"usual": rounded(usual), "max": rounded(usual + TOO_MANY_DUPLICATES)},
        count=profile.duplicates,
        note=f"{profile.duplicates} of {profile.rows} rows repeat a key" if profile.duplicates else "",
    )


def check_near_unique(profile: Profile, declared: Sequence[str]) -> Iterator[ExpectationOutcome]:
    """Warn of every text column in which nearly each row has a value of its own and which was not declared so.

    Numbers and times are left out: a measurement is nearly unique by nature.
    """
    for name, column in profile.columns.items():
        rows = column.count - column.nulls
        if column.kind != "category" or name in declared or rows <= ENOUGH_ROWS:
            continue
        share = min(distinct(column) / rows, 1.0)
        if share > NEARLY_UNIQUE:
            yield outcome(
                "column_not_nearly_unique",
                column=name,
                level="warn",
                observed=rounded(share),
                bound={"max": NEARLY_UNIQUE, "rows": rows},
                note="nearly every row has a value of its own: declare it as an identifier, or keep it out",
            )


def check_nulls(
    profile: Profile, usual_days: Sequence[Profile], late: Sequence[str] = ()
) -> Iterator[ExpectationOutcome]:
    """Compare the share of nulls and NaN in each column with the usual one; only more of them is bad.

    :param late: Columns that are filled in later: that the newest days lack them is no news.
    """
    for name, column in profile.columns.items():
        if name in late:
            continue
        days = [day.columns[name] for day in usual_days if name in day.columns and day.columns[name].count]
        history = [Share(null_rate(day) * day.count, day.count) for day in days]
        shift = rate_shift(Share(null_rate(column) * column.count, column.count), history)
        if shift is None or shift.distance < FAR or shift.rate - shift.usual < NULLS_RISE:
            continue
        yield outcome(
            "nulls_as_usual",
            column=name,
            level="block" if shift.rate - shift.usual >= NULLS_JUMP else "warn",
            observed=rounded(shift.rate),
            bound={"usual": rounded(shift.usual), "max": rounded(shift.usual + NULLS_JUMP)},
            count=column.nulls + column.nans,
            note=f"{shift.rate:.1%} null, usual {shift.usual:.1%}",
        )


def check_infinities(profile: Profile, usual_days: Sequence[Profile]) -> Iterator[ExpectationOutcome]:
    """Block a column with infinite values where there never were any."""
    for name, column in profile.columns.items():
        days = [day.columns[name] for day in usual_days if name in day.columns]
        if column.infinities and not any(day.infinities for day in days):
            yield outcome(
                "no_new_infinities",
                column=name,
                level="block",
                observed=column.infinities,
                bound={"max": 0},
                count=column.infinities,
                note="a division by zero, or a missing value written as infinity",
            )
