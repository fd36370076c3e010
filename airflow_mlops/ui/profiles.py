"""How the columns of a dataset, or of a feature view, are distributed now, and were when a version was trained."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from markupsafe import Markup

from airflow_mlops.contracts import ColumnProfile, Profile
from airflow_mlops.engine.data.charts import categories, distribution
from airflow_mlops.engine.data.profiles import null_rate
from airflow_mlops.engine.data.profiles.collect import profile_files
from airflow_mlops.engine.features.governance.consumers import read_by
from airflow_mlops.engine.features.project.schema import feature_file, partitioning_of
from airflow_mlops.engine.ledger import Ledger
from airflow_mlops.engine.overview.models import ModelRow
from airflow_mlops.engine.overview.partitions import Calendar
from airflow_mlops.engine.overview.versions import detail
from airflow_mlops.exceptions import MlopsError

_LARGEST = 32 << 20
"""Bytes of a file that is profiled while somebody waits."""


@dataclass(frozen=True)
class Column:
    """One column; ``drawing`` is SVG, empty where nearly all values differ. Means are those of numbers."""

    name: str
    type: str
    nulls: float
    nulls_then: float | None
    mean: float | None
    mean_then: float | None
    drawing: Markup


@dataclass(frozen=True)
class Profiles:
    """Of a dataset; ``problem`` says in words why there are none."""

    problem: str = ""
    now_key: str = ""
    then_key: str = ""
    version: int | None = None
    columns: tuple[Column, ...] = ()


def profiles_of(ledger: Ledger, row: ModelRow, calendar: Calendar | None) -> Profiles:
    """Return the profile of the last sealed partition, over that of the last one that the serving version saw."""
    from airflow_mlops.operators.base import open_home, partition_store

    sealed = [cell for cell in calendar.cells if cell.state == "sealed"] if calendar is not None else []
    if calendar is None or not sealed:
        return Profiles("No partition of this period is sealed.")
    version, then_key, then_revision = _seen(ledger, row, calendar.dataset)
    try:
        store = partition_store(open_home(), ledger)
        now = store.profile(store.get(calendar.dataset, sealed[-1].key, sealed[-1].revision))
        then = store.profile(store.get(calendar.dataset, then_key, then_revision)) if then_key else None
    except MlopsError as error:
        return Profiles(f"The profiles cannot be read here: {error.headline}")
    if now is None:
        return Profiles("No profile was written of the last partition.")
    return Profiles("", sealed[-1].key, then_key if then else "", version, _columns(now, then))


def profiles_of_view(ledger: Ledger, row: ModelRow, view: str) -> Profiles:
    """Return the profile of what was computed last, over that of the last partition that the serving version saw."""
    from airflow_mlops.operators.base import open_home

    try:
        home = open_home()
        keys = sorted(file.stem for file in feature_file(home, view, "*").parent.glob("[!.]*.parquet"))
        if not keys:
            return Profiles("Its features are not computed here.")
        version = _version(row)
        read = read_by(ledger, row.model, version) if version is not None else None
        then_key = read.pinned[view][1] if read is not None and view in read.pinned else ""
        now = _profiled(home, view, keys[-1])
        then = _profiled(home, view, then_key) if then_key in keys else None
    except MlopsError as error:
        return Profiles(f"The features cannot be read here: {error.headline}")
    if now is None:
        return Profiles(f"The file of {keys[-1]} is larger than {_LARGEST >> 20} MiB: too large to look at here.")
    return Profiles("", keys[-1], then_key if then else "", version, _columns(now, then))


def _profiled(home: Path, view: str, key: str) -> Profile | None:
    file = feature_file(home, view, key)
    told = file.stat()
    return _profile(file, view, key, told.st_mtime_ns) if told.st_size <= _LARGEST else None


@lru_cache(maxsize=128)
def _profile(file: Path, view: str, key: str, changed: int) -> Profile:
    return profile_files(
        [file], dataset=view, key=key, revision=str(changed), partitioning=partitioning_of(file.parents[2], view)
    )


def _columns(now: Profile, then: Profile | None) -> tuple[Column, ...]:
    return tuple(
        _column(name, column, then.columns.get(name) if then else None, now, then)
        for name, column in now.columns.items()
    )


def _version(row: ModelRow) -> int | None:
    """Return the version that serves, or was judged last."""
    version = next((one.version for one in row.serving if one.version is not None), None)
    return version or (row.verdict.version if row.verdict else None)


def _seen(ledger: Ledger, row: ModelRow, dataset: str) -> tuple[int | None, str, str]:
    """Return the version that serves, or was judged last; and the last partition that it was trained on."""
    version = _version(row)
    if version is not None:
        for held in detail(ledger, row.model, version).held:
            if held.dataset == dataset and held.partitions:
                key = max(held.partitions)
                return version, key, held.partitions[key]
    return version, "", ""


def _column(
    name: str, now: ColumnProfile, then: ColumnProfile | None, profile: Profile, other: Profile | None
) -> Column:
    """Draw a column. Of texts only the values of slices, which somebody declared, are named."""
    if now.kind in ("number", "time"):
        drawing = distribution(now, then)
    else:
        known = {"True", "False", "true", "false", *profile.slices.get(name, {})}
        known |= other.slices.get(name, {}).keys() if other else set()
        drawing = categories(now, then, known)
    mean, mean_then = (one.mean if one is not None and one.kind == "number" else None for one in (now, then))
    return Column(name, now.type, null_rate(now), null_rate(then) if then else None, mean, mean_then, Markup(drawing))
