"""Whether the data that a training needs is complete, and not announced degraded by its upstream."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import date, datetime
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
