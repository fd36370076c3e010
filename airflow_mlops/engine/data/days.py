"""Runs of days, and whether a dataset has every one of them."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from datetime import date, timedelta

from airflow_mlops.contracts import Partition
from airflow_mlops.exceptions import DataError


def days_between(first: date, last: date, without: Collection[str] = ()) -> Iterator[str]:
    """Yield the keys of the days from ``first`` to ``last``, both included."""
    for n in range((last - first).days + 1):
        if (day := str(first + timedelta(days=n))) not in without:
            yield day


def every_day(
    partitions: Iterable[Partition], dataset: str, first: date, last: date, skip: Collection[str] = ()
) -> list[Partition]:
    """Return a dataset's partitions of all days from ``first`` to ``last``, without the days to skip.

    :param partitions: What there is of the dataset.
    :raises DataError: when one is missing.
    """
    days = set(days_between(first, last, skip))
    found = [partition for partition in partitions if partition.key in days]
    missing = sorted(days - {partition.key for partition in found})
    if missing:
        raise DataError(
            f"{len(missing)} of {len(days)} days of {dataset!r} are not sealed; the first is {missing[0]}.",
            detail=f"needed: {first} to {last}; missing: {', '.join(missing[:7])}{' …' if missing[7:] else ''}",
            hint="Run the features DAG for the missing days first, oldest first.",
        )
    return found
