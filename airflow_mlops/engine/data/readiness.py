"""Whether the data that a training needs is complete, and not announced degraded by its upstream."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from typing import TYPE_CHECKING

from airflow_mlops.engine.data.announcements import announced
from airflow_mlops.engine.data.exclusions import excluded_days, exclusions
from airflow_mlops.exceptions import TransientError

if TYPE_CHECKING:
    from airflow_mlops.engine.data.partitions import PartitionStore
    from airflow_mlops.engine.ledger import Ledger


@dataclass(frozen=True)
class Need:
    """The days of a dataset that a training needs.

    :param start: First day.
    :param until: UTC midnight at which the last day ends.
    """

    dataset: str
    start: date
    until: datetime


@dataclass(frozen=True)
class Source:
    """A dataset as a pipeline declares it.

    :param start: First day.
    :param end: Last day, of one that has ended.
    """

    dataset: str
    start: date
    end: date | None = None

    def need(self, cut: datetime) -> Need:
        """Return the days that a training as of ``cut`` needs: up to there, or to the source's own end before it."""
        return Need(self.dataset, self.start, min(cut, _midnight_after(self.end)) if self.end else cut)


def latest_complete(store: PartitionStore, ledger: Ledger, sources: Sequence[Source]) -> datetime:
    """Return the latest UTC midnight up to which every source is complete, those that have ended up to their ends.

    Where a source has nothing yet it is the end of its first day: what a training would have to wait for.

    :raises TransientError: when the ledger or the storage does not answer.
    """
    complete = {source: watermark(store, ledger, source.dataset, source.start) for source in sources}
    going_on = [
        max(moment, _midnight_after(source.start))
        for source, moment in complete.items()
        if source.end is None or moment < _midnight_after(source.end)
    ]
    return min(going_on) if going_on else max(complete.values())


def _midnight_after(day: date) -> datetime:
    return datetime.combine(day, time(), UTC) + timedelta(days=1)


def readiness(store: PartitionStore, ledger: Ledger, needs: Sequence[Need]) -> list[str]:
    """Return, in words, every reason why a training must hold. None means that it may start.

    A dataset holds while its upstream has announced it degraded, and until every needed day is sealed or lies wholly
    inside an exclusion. When the ledger or the storage does not answer, that is a reason too: a training may wait.

    :raises ConfigError: when the ledger or the storage can never answer as it is configured.
    """
    return [reason for need in needs for reason in _reasons(store, ledger, need)]


def watermark(store: PartitionStore, ledger: Ledger, dataset: str, start: date) -> datetime:
    """Return the end of the last day up to which all days from ``start`` on are sealed, or excluded by a person."""
    return store.watermark(dataset, start, skip=excluded_days(exclusions(ledger, dataset)))


def _reasons(store: PartitionStore, ledger: Ledger, need: Need) -> Iterator[str]:
    try:
        latest = announced(ledger, need.dataset)
        if latest is not None and latest.state == "degraded":
            yield f"{need.dataset}: degraded since {latest.at:%Y-%m-%d %H:%M} UTC by {latest.who}: {latest.reason}"
        complete = watermark(store, ledger, need.dataset, need.start)
        if complete < need.until:
            yield (
                f"{need.dataset}: day {complete:%Y-%m-%d} is not sealed; every day from {need.start} up to "
                f"{need.until:%Y-%m-%d} (not included) is needed"
            )
    except TransientError as error:
        yield f"{need.dataset}: {error.headline} {error.detail.partition(chr(10))[0]}".rstrip()
