"""Which earlier days a day is compared with.

Only sealed partitions are asked for, and only valid days are sealed: a bad day never becomes the reference of
the next one.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date, timedelta
from typing import TYPE_CHECKING

from airflow_mlops.contracts import Exclusion, Partition, Profile
from airflow_mlops.engine.data.partitions import day_bounds

if TYPE_CHECKING:
    from airflow_mlops.engine.data.partitions import PartitionStore

ENOUGH = 3
"""Fewer days than this say nothing about what is usual."""


def references(
    store: PartitionStore, dataset: str, key: str, *, history: timedelta, exclusions: Sequence[Exclusion] = ()
) -> list[Profile]:
    """Return the profiles of the valid days before a day, oldest first.

    Days with an excluded hour are left out. When fewer than :data:`ENOUGH` lie within ``history``, as after a long
    outage, the newest ones before it stand in, so that a gap lets no bad day through.
    """
    day = day_bounds(key)[0].date()

    def valid(start: date | None) -> list[Partition]:
        found = store.list(dataset, start, day - timedelta(days=1))
        return [partition for partition in found if not _excluded(partition.key, dataset, exclusions)]

    chosen = valid(day - history)
    if len(chosen) < ENOUGH:
        chosen = valid(None)[-ENOUGH:]
    profiles = (store.profile(partition) for partition in chosen)
    return [profile for profile in profiles if profile is not None]


def comparable(profile: Profile, profiles: Sequence[Profile]) -> list[Profile]:
    """Return those of the same weekday, or all of them where there are fewer than :data:`ENOUGH` such."""
    weekday = day_of(profile).weekday()
    same = [reference for reference in profiles if day_of(reference).weekday() == weekday]
    return same if len(same) >= ENOUGH else list(profiles)


def day_of(profile: Profile) -> date:
    """Return the day that the profile of one partition describes."""
    [key] = profile.revisions
    return day_bounds(key)[0].date()


def _excluded(key: str, dataset: str, exclusions: Sequence[Exclusion]) -> bool:
    start, end = day_bounds(key)
    return any(e.dataset == dataset and e.start < end and e.end > start for e in exclusions)
