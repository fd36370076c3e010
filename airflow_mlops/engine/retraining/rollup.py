"""Partitions that are trained on together: whether all of a week are there, or enough of them by a deadline."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from airflow_mlops.durations import parse_duration
from airflow_mlops.engine.data.partitions import PartitionStore
from airflow_mlops.engine.data.readiness import Source, latest_complete
from airflow_mlops.engine.ledger import Ledger
from airflow_mlops.engine.retraining.requests import requests
from airflow_mlops.moments import parse_day
from airflow_mlops.partitioning import Partitioning

_TICK = timedelta(microseconds=1)


@dataclass(frozen=True)
class Rollup:
    """What is waited for.

    :param every: Periods whose partitions are trained on together: ``weekly``, in the zone of the source.
    :param cut: How the source is cut.
    :param sources: All feeds: a partition is there when the features of its time can be trained on.
    :param minimum: So many partitions of the source are enough, from the first of the period on; None: all.
    :param deadline: How long after its end the missing ones of a period are waited for; None: not at all.
    """

    every: Partitioning
    cut: Partitioning
    sources: tuple[Source, ...]
    minimum: int | None = None
    deadline: timedelta | None = None

    @classmethod
    def of(cls, given: Mapping[str, Any]) -> Rollup:
        """Return what a DAG says in plain values."""
        sources = (
            Source(
                one["dataset"],
                parse_day(one["start"], "start"),
                parse_day(one["end"], "end") if one["end"] else None,
                bool(one["ahead"]),
            )
            for one in given["sources"]
        )
        return cls(
            Partitioning.parse(given["every"]),
            Partitioning.parse(given["cut"]),
            tuple(sources),
            given["minimum"],
            parse_duration(given["deadline"]) if given["deadline"] else None,
        )


@dataclass(frozen=True)
class Period:
    """A period, and how much of it can be trained on.

    :param key: Its partition key, such as the Monday of a week.
    :param complete: Until when all data is there.
    """

    key: str
    end: datetime
    there: int
    of: int
    complete: datetime

    def enough(self, rollup: Rollup, now: datetime) -> bool:
        """Return whether it is to be trained on."""
        if self.there == self.of:
            return True
        waited = rollup.deadline is None or now >= self.end + rollup.deadline
        return rollup.minimum is not None and self.there >= rollup.minimum and waited

    def words(self, rollup: Rollup) -> str:
        """Return how far it is, in words."""
        said = f"{self.there} of {self.of} partitions of the period from {self.key} are complete"
        if self.there == self.of:
            return said
        enough = "all" if rollup.minimum is None else f"{rollup.minimum}"
        if rollup.minimum is not None and rollup.deadline is not None:
            enough = f"all, or {rollup.minimum} from {self.end + rollup.deadline:%Y-%m-%d %H:%M} UTC on,"
        return f"{said}, {enough} are asked for; the next one is {rollup.cut.key(self.complete)}"


def due(
    ledger: Ledger, store: PartitionStore, model: str, rollup: Rollup, *, seen: datetime | None, now: datetime
) -> tuple[bool, Period, str]:
    """Return whether a period asks for a training, which one, and what there is to say.

    It is the one that fills up, or else the one before, unless it was trained for.

    :param seen: Of which moment's knowledge the last training was; None: there was none.
    :raises TransientError: when the ledger or the storage does not answer.
    """
    periods = list(_periods(rollup, latest_complete(store, ledger, rollup.sources)))
    said = [periods[0].words(rollup)]
    for period in periods:
        if not period.enough(rollup, now):
            continue
        if seen is not None and seen >= period.end:
            said.append(f"the last training has seen the period from {period.key}")
        elif run := _answered(ledger, model, period.key):
            said.append(f"the period from {period.key} was trained for by {run}")
        else:
            return True, period, period.words(rollup)
    return False, periods[0], "; ".join(said)


def prefix(key: str) -> str:
    """Return how the keys of the requests for a period begin."""
    return f"rollup:{key}:"


def _periods(rollup: Rollup, complete: datetime) -> Iterator[Period]:
    """Yield the period that fills up, and the one before it. What lies before the data begins is part of none."""
    every, at = rollup.every, complete
    first = max(rollup.cut.first(source.start) for source in rollup.sources)
    for _ in range(2):
        end = every.next(every.floor(at))
        begin, until = max(every.floor(at), first), min(complete, end)
        if begin < end:
            there, of = _count(rollup.cut, begin, until), _count(rollup.cut, begin, end)
            yield Period(every.key(begin), end, there, of, complete=until)
        at = every.floor(at) - _TICK


def _count(cut: Partitioning, begin: datetime, end: datetime) -> int:
    return sum(1 for _ in cut.within(begin, end))


def _answered(ledger: Ledger, model: str, key: str) -> str:
    """Return the run of the training that answered a period; empty when none did."""
    asked = (one for one in requests(ledger, model, ["done", "merged"]) if one.key.startswith(prefix(key)))
    return next((one.run for one in asked), "")
