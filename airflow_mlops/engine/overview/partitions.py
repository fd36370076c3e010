"""The partitions of a dataset, as a calendar.

What is awaited, arrived, valid, sealed, computed, online, blocked, missing, excluded or removed.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from types import MappingProxyType
from typing import Any

from sqlalchemy import String, cast, func, or_, select

from airflow_mlops.engine.data.exclusions import EXCLUDED, excluded_keys, exclusions
from airflow_mlops.engine.data.partitions import FACT as PARTITION
from airflow_mlops.engine.ledger import Fact, Ledger
from airflow_mlops.engine.ledger.models import FactRow
from airflow_mlops.partitioning import Every, Partitioning

VALIDATION = "validation"
_RETENTION = "retention"
_NOT_WEEKLY: tuple[Every, ...] = ("hourly", "monthly", "daily")
_AFTER = "z"
"""Comes after whatever follows in a key, in every collation: some pass over punctuation."""


@dataclass(frozen=True)
class Cell:
    """A partition.

    ``state`` is ``sealed``, ``valid``, ``arrived``, ``awaited``, ``blocked``, ``missing``, ``excluded`` or ``removed``.

    ``features`` of a sealed one are ``online``, ``computed`` or neither.
    """

    key: str
    state: str
    features: str = ""
    rows: int | None = None
    revision: str = ""
    sealed: datetime | None = None
    arrived: str = ""
    reason: str = ""


@dataclass(frozen=True)
class Calendar:
    """The partitions of a dataset in one period: a year, or a month of hours."""

    dataset: str
    every: Every
    period: str
    periods: tuple[str, ...]
    cells: tuple[Cell, ...]

    @property
    def lines(self) -> dict[str, list[Cell]]:
        """Beginning of the keys → the partitions of that day of hours, month of days, or year."""
        length = len({"hourly": "2026-01-15", "daily": "2026-01"}.get(self.every, "2026"))
        found: dict[str, list[Cell]] = {}
        for cell in self.cells:
            found.setdefault(cell.key[:length], []).append(cell)
        return found

    def before(self, key: str) -> int:
        """Return how many partitions of the key's line are before it: days of its month, or hours of its day."""
        start = self.interval(key)[0]
        return {"hourly": start.hour, "daily": start.day - 1, "monthly": start.month - 1}.get(self.every, 0)

    def interval(self, key: str) -> tuple[datetime, datetime]:
        """Return what a key names, as ``[start, end)``, in days of UTC: the ledger knows no zone."""
        return Partitioning(self.every).interval(key)

    @property
    def counts(self) -> dict[str, int]:
        """State → how many partitions of the period."""
        found: dict[str, int] = {}
        for cell in self.cells:
            found[cell.state] = found.get(cell.state, 0) + 1
        return found


def calendar(
    ledger: Ledger,
    dataset: str,
    online: datetime | None = None,
    period: str = "",
    *,
    computed: Collection[str] = (),
    worked_on: Mapping[str, str] = MappingProxyType({}),
) -> Calendar | None:
    """Return the partitions of a dataset in a period; None when none was ever sealed.

    Missing are those between the first and the last that are known, or that were worked on.

    :param online: Up to when the features are online.
    :param period: Beginning of the keys, such as ``2026``; empty: that of the last key.
    :param computed: Keys of which the features are computed.
    :param worked_on: Key → ``awaited``, ``arrived`` or ``missing``: how far a run has come that is to seal it.
    :raises TransientError: when the ledger does not answer.
    """
    with ledger.reading():
        bounds = _bounds(ledger, dataset)
        if bounds is None:
            return None
        first, last = bounds[0], max([bounds[1], *(key for key in worked_on if len(key) == len(bounds[1]))])
        length = len("2026-01") if "T" in last else len("2026")
        period = period if len(period) == length else last[:length]
        sealed = _latest(_within(ledger, PARTITION, dataset, period))
        removed = _latest(_within(ledger, _RETENTION, dataset, period))
        bad = {fact.key: (fact, reason) for fact, reason in reversed([*blocked(ledger, dataset, period=period)])}
        valid = _keys(ledger, VALIDATION, dataset, period)
        excluded = exclusions(ledger, dataset) if ledger.facts(EXCLUDED, dataset, limit=1) else []
        periods = _periods(first, last, length)
    partitioning = Partitioning(_every({first, *sealed, bounds[1]}))
    left_out = excluded_keys(excluded, partitioning)
    now = {key for key in worked_on if key.startswith(period)}
    known = set(filter(partitioning.is_key, {*sealed, *bad, *valid, *now}))
    cells = []
    for key in sorted({*known, *_between(partitioning, max(first, period), min(last, period + _AFTER), known)}):
        state, reason = _state(key, sealed, removed, bad, left_out)
        if state == "missing":
            state = "valid" if key in valid else worked_on.get(key, state)
        is_online = online is not None and partitioning.interval(key)[1] <= online
        made = sealed[key].payload if key in sealed else {}
        cells.append(
            Cell(
                key=key,
                state=state,
                features="" if state != "sealed" else "online" if is_online else "computed" if key in computed else "",
                rows=made.get("rows"),
                revision=made.get("revision", ""),
                sealed=sealed[key].at if key in sealed else None,
                arrived=(made.get("receipt") or {}).get("written_at") or "",
                reason=reason,
            )
        )
    return Calendar(dataset, partitioning.every, period, periods, tuple(cells))


def blocked(ledger: Ledger, dataset: str, *, period: str = "", latest: int | None = None) -> Iterator[tuple[Fact, str]]:
    """Yield the validations of a dataset's partitions that blocked, newest first, with the first reason.

    :param period: Beginning of the keys; empty: all.
    :param latest: Only of so many validations, the last ones; None: of all.
    """
    told = cast(FactRow.payload, String)
    # Only what failed is read at all: of thousands of partitions nearly all validations passed.
    failed = or_(told.like('%"success": false%'), told.like('%"outcomes": []%'))
    among = [failed]
    if latest is not None:
        last = select(FactRow.id).where(FactRow.kind == VALIDATION, FactRow.subject == dataset)
        ids = last.order_by(FactRow.id.desc()).limit(latest).subquery()
        among.append(FactRow.id >= select(func.min(ids.c.id)).scalar_subquery())
    for fact in _within(ledger, VALIDATION, dataset, period, *among):
        outcomes = fact.payload["outcomes"]
        bad = [
            one
            for one in outcomes
            if not one["success"] and (one["severity"] == "block" or one.get("error") is not None)
        ]
        if fact.key and (bad or not outcomes):
            yield fact, _reason(bad[0]) if bad else "nothing was checked"


def _reason(outcome: Mapping[str, Any]) -> str:
    column = f" of {outcome['column']}" if outcome.get("column") else ""
    return f"{outcome['expectation']}{column}{': ' if outcome.get('note') else ''}{outcome.get('note', '')}"


def _state(
    key: str,
    sealed: Mapping[str, Fact],
    removed: Mapping[str, Fact],
    bad: Mapping[str, tuple[Fact, str]],
    left_out: set[str],
) -> tuple[str, str]:
    if key in left_out:
        return "excluded", "excluded from training"
    if key in bad and (key not in sealed or sealed[key].id < bad[key][0].id):
        return "blocked", bad[key][1]
    if key not in sealed:
        return "missing", ""
    gone = removed.get(key)
    if gone is not None and gone.id > sealed[key].id and gone.payload["revision"] == sealed[key].payload["revision"]:
        return "removed", f"removed: {gone.payload['reason']}"
    return "sealed", ""


def _bounds(ledger: Ledger, dataset: str) -> tuple[str, str] | None:
    query = select(func.min(FactRow.key), func.max(FactRow.key))
    query = query.where(FactRow.kind == PARTITION, FactRow.subject == dataset)
    with ledger.transaction() as connection:
        first, last = connection.execute(query).one()
    return None if first is None else (first, last)


def _keys(ledger: Ledger, kind: str, dataset: str, period: str) -> set[str]:
    query = select(FactRow.key).where(FactRow.kind == kind, FactRow.subject == dataset).distinct()
    query = query.where(FactRow.key >= period, FactRow.key < period + _AFTER)
    with ledger.transaction() as connection:
        return set(connection.execute(query).scalars())


def _within(ledger: Ledger, kind: str, dataset: str, period: str, *more: Any) -> list[Fact]:
    query = select(FactRow.__table__).where(FactRow.kind == kind, FactRow.subject == dataset, *more)
    if period:
        query = query.where(FactRow.key >= period, FactRow.key < period + _AFTER)
    query = query.order_by(FactRow.id.desc())
    with ledger.transaction() as connection:
        rows = connection.execute(query).mappings().all()
    return [Fact(**{**row, "at": datetime.fromisoformat(row["at"])}) for row in rows]


def _latest(facts: Sequence[Fact]) -> dict[str, Fact]:
    return {fact.key: fact for fact in reversed(facts)}


def _periods(first: str, last: str, length: int) -> tuple[str, ...]:
    """Return the periods from the first to the last key, without asking the ledger for each."""
    years = range(int(first[:4]), int(last[:4]) + 1)
    if length == len("2026"):
        return tuple(f"{year:04}" for year in years)
    months = [f"{year:04}-{month:02}" for year in years for month in range(1, 13)]
    return tuple(month for month in months if first[:length] <= month <= last[:length])


def _every(keys: Collection[str]) -> Every:
    """Return how a dataset is cut, as its keys show; a single Monday is taken for a day."""
    cuts: tuple[Every, ...] = ("hourly", "monthly", "weekly", "daily") if len(set(keys)) > 1 else _NOT_WEEKLY
    return next((cut for cut in cuts if all(map(Partitioning(cut).is_key, keys))), "daily")


def _between(partitioning: Partitioning, first: str, last: str, known: set[str]) -> Iterator[str]:
    """Yield the keys from the first to the last known one of a period."""
    inside = sorted(key for key in known if first <= key <= last)
    if inside:
        yield from partitioning.keys(partitioning.interval(inside[0])[0], partitioning.interval(inside[-1])[1])
