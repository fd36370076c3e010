"""Whether the data that a training needs is complete, and not announced degraded by its upstream."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import TYPE_CHECKING

from airflow_mlops.engine.data.announcements import announced
from airflow_mlops.engine.data.exclusions import excluded_keys, exclusions
from airflow_mlops.engine.data.tombstones import tombstones
from airflow_mlops.exceptions import TransientError
from airflow_mlops.partitioning import DAILY, Partitioning, finest_of

if TYPE_CHECKING:
    from airflow_mlops.engine.data.partitions import PartitionStore
    from airflow_mlops.engine.ledger import Ledger


_TICK = timedelta(microseconds=1)


@dataclass(frozen=True)
class Need:
    """The partitions of a dataset that a training needs.

    :param start: First day, in the dataset's zone.
    :param until: Moment up to which all of them that have ended are needed.
    """

    dataset: str
    start: date
    until: datetime


@dataclass(frozen=True)
class Source:
    """A dataset as a pipeline declares it.

    :param start: First day, in the dataset's zone.
    :param end: Last day, of one that has ended.
    :param ahead: Whether its partitions are there when their time begins.
    """

    dataset: str
    start: date
    end: date | None = None
    ahead: bool = False

    def need(self, cut: datetime, partitioning: Partitioning = DAILY) -> Need:
        """Return what a training as of ``cut`` needs: up to there, or to the source's own end before it."""
        until = partitioning.ceil(cut) if self.ahead else cut
        return Need(self.dataset, self.start, min(until, partitioning.after(self.end)) if self.end else until)


def latest_complete(store: PartitionStore, ledger: Ledger, sources: Sequence[Source]) -> datetime:
    """Return the latest moment up to which every source is complete, those that have ended up to their ends.

    It is where a partition of the finest source begins. A source of larger partitions is complete as long as the one
    that goes on has not ended. Where a source has nothing yet it is the end of its first partition: what a training
    would have to wait for.

    :raises TransientError: when the ledger or the storage does not answer.
    """
    cuts = {source: store.partitioning(source.dataset) for source in sources}
    finest = finest_of(cuts.values())
    complete = {source: watermark(store, ledger, source.dataset, source.start) for source in sources}
    going_on = [
        finest.floor(
            there if source.ahead else cut.next(there) - _TICK,
        )
        for source, moment in complete.items()
        if (cut := cuts[source])
        and (there := max(moment, cut.next(cut.first(source.start))))
        and (source.end is None or moment < cut.after(source.end))
    ]
    return min(going_on) if going_on else max(complete.values())


def readiness(store: PartitionStore, ledger: Ledger, needs: Sequence[Need]) -> list[str]:
    """Return, in words, every reason why a training must hold. None means that it may start.

    A dataset holds while its upstream has announced it degraded, and until every needed day is sealed or lies wholly
    inside an exclusion. When the ledger or the storage does not answer, that is a reason too: a training may wait.

    :raises ConfigError: when the ledger or the storage can never answer as it is configured.
    """
    return [reason for need in needs for reason in _reasons(store, ledger, need)]


def watermark(store: PartitionStore, ledger: Ledger, dataset: str, start: date | datetime) -> datetime:
    """Return the end of the last partition up to which all from ``start`` on are sealed, or excluded by a person.

    What retention has removed at the beginning was there: it counts from the first partition that is left.
    """
    partitioning = store.partitioning(dataset)
    skip = excluded_keys(exclusions(ledger, dataset), partitioning)
    keys = store.keys(dataset)
    if keys:
        first = partitioning.interval(min(keys))[0]
        before = partitioning.key(first - _TICK)
        if partitioning.span(start, start)[0] < first and tombstones(store.folder(dataset, before)):
            start = first
    return store.watermark(dataset, start, skip=skip)


def _reasons(store: PartitionStore, ledger: Ledger, need: Need) -> Iterator[str]:
    try:
        latest = announced(ledger, need.dataset)
        if latest is not None and latest.state == "degraded":
            yield f"{need.dataset}: degraded since {latest.at:%Y-%m-%d %H:%M} UTC by {latest.who}: {latest.reason}"
        complete = watermark(store, ledger, need.dataset, need.start)
        partitioning = store.partitioning(need.dataset)
        if complete < (until := partitioning.floor(need.until)):
            yield (
                f"{need.dataset}: partition {partitioning.key(complete)} is not sealed; every one from {need.start} up "
                f"to {partitioning.key(until)} (not included) is needed"
            )
    except TransientError as error:
        yield f"{need.dataset}: {error.headline} {error.detail.partition(chr(10))[0]}".rstrip()
