"""Which earlier days a day is compared with.

Only sealed partitions are asked for, and only valid days are sealed: a bad day never becomes the reference of
the next one.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from airflow_mlops.contracts import Exclusion, Partition, Profile
from airflow_mlops.partitioning import Partitioning

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
    partitioning = store.partitioning(dataset)
    begin = partitioning.interval(key)[0]

    def valid(start: datetime | None) -> list[Partition]:
        found = store.list(dataset, start, begin)
        return [one for one in found if not _excluded(partitioning.interval(one.key), dataset, exclusions)]

    chosen = valid(begin - history)
    if len(chosen) < ENOUGH:
        chosen = valid(None)[-ENOUGH:]
    profiles = (store.profile(partition) for partition in chosen)
    return [profile for profile in profiles if profile is not None and profile.rows]


def comparable(profile: Profile, profiles: Sequence[Profile]) -> list[Profile]:
    """Return those of the same weekday, or all of them where there are fewer than :data:`ENOUGH` such."""
    same = [reference for reference in profiles if cycle_of(reference) == cycle_of(profile)]
    return same if len(same) >= ENOUGH else list(profiles)


def key_of(profile: Profile) -> str:
    """Return the key of the one partition that a profile describes."""
    [key] = profile.revisions
    return key


def interval_of(profile: Profile) -> tuple[datetime, datetime]:
    """Return the interval of the one partition that a profile describes, in UTC."""
    return Partitioning.parse(profile.partitioning).interval(key_of(profile))


def cycle_of(profile: Profile) -> Hashable:
    """Return what the partitions that can be compared with this one have in common, such as its weekday."""
    return Partitioning.parse(profile.partitioning).cycle(key_of(profile))


def _excluded(interval: tuple[datetime, datetime], dataset: str, exclusions: Sequence[Exclusion]) -> bool:
    start, end = interval
    return any(e.dataset == dataset and e.start < end and e.end > start for e in exclusions)
