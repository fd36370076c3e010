"""Values of text columns against the days before: another casing, another column's values, too few or too many."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence

import numpy as np

from airflow_mlops.contracts import ColumnProfile, ExpectationOutcome, Profile, Severity
from airflow_mlops.engine.data.profiles import distinct
from airflow_mlops.engine.data.robust import FAR, median_spread, outcome, rounded

MOSTLY_UNKNOWN = 0.5
"""Share of rows with values never seen before that is blocked; :data:`SOME_UNKNOWN` warns."""
SOME_UNKNOWN = 0.02

MOST_MOVED = 0.5
"""Share of rows that hold another value than usual at which it is blocked; :data:`SOME_MOVED` warns."""
SOME_MOVED = 0.2

A_FEW = 0.01
"""Share of rows in another casing up to which it only warns."""

FEWER = 0.2
MORE = 5.0
"""Ratios of the usual number of distinct values that are blocked; half and twice of it warn."""

_RECOGNISED = 0.9
"""Share of rows whose values another column is known for, so that they are taken to be its values."""

_IDENTIFIER = 0.5
"""Distinct values a row from which on a column is taken for an identifier."""

_ONE_MORE = 0.5
"""Least spread of a number of distinct values: one more or fewer is nothing."""

_COMPLETE = 0.95
"""Share of rows that the most frequent values must cover for the others not to matter."""


def check_categories(
    profile: Profile, usual_days: Sequence[Profile], named: Sequence[str], skip: Collection[str] = ()
) -> list[ExpectationOutcome]:
    """Compare the values of text columns with those of the days before.

    :param named: Columns whose values may be quoted: the slices, whose names are reported anyway.
    :param skip: Columns that identify rows: their values are new each day.
    """
    known = known_values(usual_days)
    outcomes: list[ExpectationOutcome] = []
    for name, column in profile.columns.items():
        if column.kind != "category" or name in skip:
            continue
        days = [day.columns[name] for day in usual_days if name in day.columns]
        if name in known and column.top:
            outcomes += _unknown_values(name, column, known, name in named)
            outcomes += _mix(name, column, days)
        if days:
            outcomes += _cardinality(name, column, days)
    return outcomes or [outcome("categories_as_usual", observed={"columns": len(known)})]


def known_values(usual_days: Sequence[Profile]) -> dict[str, Counter[str]]:
    """Return column → values of the days before, of those text columns whose every value is in the profiles.

    Values that hardly ever come again, as ids in a small feed, are no categories.
    """
    known: dict[str, Counter[str]] = {}
    incomplete = set()
    for day in usual_days:
        for name, column in day.columns.items():
            if column.kind == "category":
                known.setdefault(name, Counter()).update(column.top)
                if sum(column.top.values()) < _COMPLETE * (column.count - column.nulls):
                    incomplete.add(name)
    return {
        name: values
        for name, values in known.items()
        if name not in incomplete and values and len(values) <= _IDENTIFIER * sum(values.values())
    }


def _unknown_values(
    name: str, column: ColumnProfile, known: Mapping[str, Counter[str]], named: bool
) -> Iterator[ExpectationOutcome]:
    rows = max(column.count - column.nulls, 1)
    spellings = {_plain(value): value for value in known[name]}
    new = {value: count for value, count in column.top.items() if value not in known[name]}
    respelt = {value: count for value, count in new.items() if _plain(value) in spellings}
    unseen = sum(new.values()) - sum(respelt.values())
    if respelt:
        example = max(respelt, key=respelt.__getitem__)
        before = spellings[_plain(example)]
        words = f", such as {before!r} → {example!r}" if named else ""
        share = sum(respelt.values()) / rows
        yield outcome(
            "casing_unchanged",
            column=name,
            level="block" if share > A_FEW else "warn",
            observed=rounded(share),
            bound={"max": 0.0},
            count=sum(respelt.values()),
            note=f"{len(respelt)} known values came in another {_difference(before, example)}{words}",
        )
    if unseen > SOME_UNKNOWN * rows:
        level: Severity = "block" if unseen > MOSTLY_UNKNOWN * rows else "warn"
        note = f"{unseen / rows:.1%} of the rows hold values never seen before"
        other = _other_column(name, column, known)
        if other is not None:
            note = f"holds what {other!r} usually holds: were columns shifted or swapped?"
        yield outcome(
            "categories_known",
            column=name,
            level=level,
            observed=rounded(unseen / rows),
            bound={"max": MOSTLY_UNKNOWN, "known": len(known[name])},
            count=unseen,
            note=note,
        )


def _other_column(name: str, column: ColumnProfile, known: Mapping[str, Counter[str]]) -> str | None:
    rows = max(column.count - column.nulls, 1)
    shares = {
        other: sum(count for value, count in column.top.items() if value in values) / rows
        for other, values in known.items()
        if other != name
    }
    best = max(shares, key=shares.__getitem__, default=None)
    return best if best is not None and shares[best] >= _RECOGNISED else None


def _mix(name: str, column: ColumnProfile, days: Sequence[ColumnProfile]) -> Iterator[ExpectationOutcome]:
    """Compare the shares of the values by total variation: the share of rows that would have to change their value."""
    values = sorted({value for day in (column, *days) for value in day.top})
    shares = np.array([[day.top.get(value, 0) / max(sum(day.top.values()), 1) for value in values] for day in days])
    usual = np.median(shares, axis=0)
    today = np.array([column.top.get(value, 0) for value in values]) / sum(column.top.values())
    moved = min(float(np.abs(today - usual).sum() / 2), 1.0)  # medians of shares need not add up to 1
    median, spread = median_spread(np.abs(shares - usual).sum(axis=1) / 2)
    if moved < SOME_MOVED or moved - median < FAR * max(spread, 1 / np.sqrt(sum(column.top.values()))):
        return
    yield outcome(
        "category_mix_as_usual",
        column=name,
        level="block" if moved >= MOST_MOVED else "warn",
        observed=rounded(moved),
        bound={"usual": rounded(median), "max": MOST_MOVED},
        note=f"{moved:.0%} of the rows hold another value than usual, {median:.0%} do on other days",
    )


def _cardinality(name: str, column: ColumnProfile, days: Sequence[ColumnProfile]) -> Iterator[ExpectationOutcome]:
    """Compare the number of distinct values; of an identifier as a share of the rows, which it follows."""
    counts = np.array([distinct(day) for day in days])
    rows = np.array([max(day.count - day.nulls, 1) for day in days])
    found = distinct(column)
    if np.median(counts / rows) > _IDENTIFIER:
        found *= float(np.median(rows)) / max(column.count - column.nulls, 1)
        counts = counts / rows * np.median(rows)
    usual, spread = median_spread(counts)
    ratio = found / max(usual, 1)
    if abs(found - usual) < FAR * max(spread, _ONE_MORE):
        return
    level: Severity | None = "warn" if ratio <= 0.5 or ratio >= 2 else None
    if ratio <= FEWER or ratio >= MORE:
        level = "block"
    if level is not None:
        yield outcome(
            "distinct_values_as_usual",
            column=name,
            level=level,
            observed=rounded(found),
            bound={"usual": rounded(usual), "min_ratio": FEWER, "max_ratio": MORE},
            note=f"{found:.0f} distinct values, {usual:.0f} are usual",
        )


def _plain(value: str) -> str:
    return "".join(value.split()).casefold()


def _difference(before: str, after: str) -> str:
    return "casing" if "".join(before.split()) != "".join(after.split()) else "white space"
