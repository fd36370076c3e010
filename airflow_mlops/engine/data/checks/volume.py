"""Rows of a day, and of every value of its slices, against the days before.

A slice must be far from usual in two ways at once: against its own history, and against that history scaled by how
the rest of the day changed. A quiet holiday shrinks every slice and none against the rest; a large slice that breaks
down raises every other one's share and none's count. Either way the alarm is one, not twenty.

Measured on the flights of 2013 (29 January to 31 December, every day a reference of the next 56): of 5,392 days and
carriers one is blocked, both in the departures and in the arrivals (EV at 39 % on Christmas Day); of 1,011 days and
airports and of 35,000 days and destinations none. Of the totals, one is blocked: the arrivals of the storm of
9 February (18 %). Warned: 13 of some 83,000 days and slices. A slice at 30 % of its usual volume is far enough from it
where 33 rows or more are usual; smaller slices are only noticed when they vanish.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np

from airflow_mlops.contracts import ExpectationOutcome, Profile, Severity
from airflow_mlops.engine.data.robust import FAR, median_spread, outcome, rounded

BLOCKED_BELOW = 0.5
"""Share of the usual rows at which a day or slice is blocked. The day after Thanksgiving lands at 0.56."""

WARNED_BELOW = 0.7
BLOCKED_ABOVE = 2.0
WARNED_ABOVE = 1.5

SURELY_THERE = 10.0
"""Usual rows from which on none at all cannot be chance (``exp(-10)``)."""

MISSED = 5.0
"""Usual rows from which on none at all is worth a warning, if there were some on every day before."""


def check_rows(profile: Profile, usual_days: Sequence[Profile]) -> ExpectationOutcome:
    """Compare the total number of rows with the usual one."""
    median, spread = median_spread(np.array([day.rows for day in usual_days], dtype=float))
    distance = (profile.rows - median) / max(spread, math.sqrt(max(median, 1)))
    ratio = profile.rows / max(median, 1)
    return outcome(
        "rows_as_usual",
        level=_level(distance, ratio),
        observed={"rows": profile.rows, "usual": rounded(median), "ratio": rounded(ratio)},
        bound={"min_ratio": BLOCKED_BELOW, "max_ratio": BLOCKED_ABOVE, "far": FAR},
        note=f"{ratio:.0%} of the usual rows",
    )


def check_slices(
    profile: Profile, usual_days: Sequence[Profile], column: str, references: Sequence[Profile] = ()
) -> list[ExpectationOutcome]:
    """Compare the rows of each value of a slice column; one outcome a deviating value, or one for all of them.

    :param references: More days on which a value may have been seen, so that it is not new.
    """
    days = [day for day in usual_days if column in day.slices]
    if not days:
        note = "no day before was sliced by it"
        return [outcome("slice_rows_as_usual", column=column, at_worst="info", note=note)]
    known = {value for day in days for value in day.slices[column]}
    ever = {value for day in references for value in day.slices.get(column, {})}
    found = [
        *_vanished_or_shifted(profile, days, column, sorted(known)),
        *_new(profile, column, known | ever),
    ]
    return found or [
        outcome(
            "slice_rows_as_usual",
            column=column,
            observed={"slices": len(known)},
            bound={"min_ratio": BLOCKED_BELOW, "far": FAR, "days": len(days)},
        )
    ]


def _vanished_or_shifted(
    profile: Profile, days: Sequence[Profile], column: str, values: Sequence[str]
) -> Iterator[ExpectationOutcome]:
    """Go over the values that there were, because a group-by of today has no row for one that vanished."""
    history = np.array([[_rows(day, column, value) for value in values] for day in days], dtype=float)
    today = np.array([_rows(profile, column, value) for value in values], dtype=float)
    totals = history.sum(axis=1, keepdims=True)
    medians, spreads = median_spread(history)
    rest = (sum(s.rows for s in profile.slices[column].values()) - today) / np.maximum(
        np.median(totals - history, axis=0), 1
    )
    if len(values) == 1:
        rest = np.ones(1)
    for i, value in enumerate(values):
        low, high = medians[i] * min(1, rest[i]), medians[i] * max(1, rest[i])
        bound = {"slice": value, "usual": rounded(medians[i]), "scaled_by_the_rest": rounded(medians[i] * rest[i])}
        level = _slice_level(today[i], low, high, spreads[i])
        if today[i] == 0:
            level = _vanished(low, history[:, i])
            if level is not None:
                note = f"slice {value!r} vanished: no row, {medians[i]:.0f} are usual"
                yield outcome("slice_present", column=column, level=level, observed=0, bound=bound, note=note)
        elif level is not None:
            note = f"slice {value!r} has {today[i]:.0f} rows, {today[i] / max(medians[i], 1):.0%} of the usual number"
            yield outcome(
                "slice_rows_as_usual", column=column, level=level, observed=int(today[i]), bound=bound, note=note
            )


def _new(profile: Profile, column: str, known: set[str]) -> Iterator[ExpectationOutcome]:
    """Count the values that no earlier day had. They are not named: what was never seen before may be anything."""
    new = [slice_profile.rows for value, slice_profile in profile.slices[column].items() if value not in known]
    if new:
        yield outcome(
            "slices_known",
            column=column,
            level="warn" if max(new) >= SURELY_THERE else "info",
            observed={"new": len(new), "rows": sum(new)},
            bound={"known": len(known)},
            note=f"{len(new)} slices are new, with {sum(new)} rows in all",
        )


def _rows(profile: Profile, column: str, value: str) -> int:
    found = profile.slices[column].get(value)
    return 0 if found is None else found.rows


def _vanished(low: float, history: np.ndarray) -> Severity | None:
    if low >= SURELY_THERE:
        return "block"
    return "warn" if low >= MISSED and history.min() > 0 else None


def _slice_level(rows: float, low: float, high: float, spread: float) -> Severity | None:
    """A slice that grows only warns: what is too much of one is for the total and the duplicates to refuse."""
    if rows < low:
        return _level((rows - low) / max(spread, math.sqrt(max(low, 1))), rows / low)
    if rows <= high:
        return None
    grown = _level((rows - high) / max(spread, math.sqrt(max(high, 1))), rows / max(high, 1))
    return "warn" if grown else None


def _level(distance: float, ratio: float) -> Severity | None:
    if abs(distance) < FAR:
        return None
    if ratio <= BLOCKED_BELOW or ratio >= BLOCKED_ABOVE:
        return "block"
    return "warn" if ratio <= WARNED_BELOW or ratio >= WARNED_ABOVE else None
