"""Merging the profiles of several partitions: the rows are never read again."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from airflow_mlops.contracts import ColumnProfile, Profile, SliceProfile
from airflow_mlops.engine.data.profiles.slices import joined
from airflow_mlops.engine.data.profiles.statistics import Statistics
from airflow_mlops.exceptions import ConfigError


def merge(profiles: Iterable[Profile]) -> Profile:
    """Return the profile of all the rows together.

    Counts, minima and maxima are exact, and so are the distinct sketches; quantiles and top values keep their stated
    errors. Merge many at once rather than one after the other: it is faster, and top values are cut off only once.
    ``duplicates`` adds up: a key that two partitions have is not noticed. A column that is not of one kind in all
    of them keeps its count and nulls only (kind ``other``).

    :raises ConfigError: when there are none, or they are of different datasets.
    """
    every = list(profiles)
    datasets = {profile.dataset for profile in every}
    if len(datasets) != 1:
        raise ConfigError(
            "Only profiles of one dataset can be merged, and at least one.",
            detail=f"{len(every)} profiles, of {', '.join(sorted(datasets)) or 'nothing'}",
        )
    if len(every) == 1:
        return every[0]
    names = list(dict.fromkeys(name for profile in every for name in profile.columns))
    same_key = len({profile.unique for profile in every}) == 1
    counted = [profile.duplicates for profile in every if profile.duplicates is not None]
    labels = {profile.label for profile in every}
    return Profile(
        dataset=every[0].dataset,
        revisions={key: revision for profile in every for key, revision in profile.revisions.items()},
        rows=sum(profile.rows for profile in every),
        columns={name: _column(name, every) for name in names},
        slices=_slices(every),
        duplicates=sum(counted) if same_key and len(counted) == len(every) else None,
        unique=every[0].unique if same_key else (),
        label=labels.pop() if len(labels) == 1 else None,
        partitioning=every[0].partitioning,
    )


def _column(name: str, profiles: Sequence[Profile]) -> ColumnProfile:
    parts = [Statistics.of(profile.columns[name]) for profile in profiles if name in profile.columns]
    return Statistics.merged(parts).profile()


def _slices(profiles: Sequence[Profile]) -> dict[str, dict[str, SliceProfile]]:
    sums: dict[str, dict[str, SliceProfile]] = {}
    for profile in profiles:
        for column, values in profile.slices.items():
            known = sums.setdefault(column, {})
            for value, found in values.items():
                known[value] = joined(known[value], found) if value in known else found
    return {column: dict(sorted(values.items())) for column, values in sums.items()}
