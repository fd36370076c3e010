"""How old the features are that a model would be served right now, against how old they may be."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from airflow_mlops.contracts import Record
from airflow_mlops.durations import parse_duration
from airflow_mlops.engine.data.shared import fetch_views
from airflow_mlops.engine.features.computing.compute import EVENT
from airflow_mlops.engine.features.computing.computed import stored_here
from airflow_mlops.engine.features.governance.tags import readable
from airflow_mlops.engine.features.online.reader import OnlineReader, check_moment
from airflow_mlops.engine.features.project.location import Location
from airflow_mlops.engine.features.project.schema import describe, feature_file, partitioning_of
from airflow_mlops.engine.features.project.store import feast_errors

if TYPE_CHECKING:
    from feast import FeatureView

    from airflow_mlops.engine.features.online.views import StoredView

_SAMPLE = 20
_TICK = timedelta(microseconds=1)
_SECOND = timedelta(seconds=1)  # what SQLite keeps of an event time


class ViewFreshness(Record):
    """How old a feature view is online: the newest event time that was read, its age, and what is allowed, seconds.

    ``newest`` and ``age`` are None when there was no value to read.
    """

    view: str
    newest: datetime | None
    age: float | None
    max_age: float
    fresh: bool

    def __str__(self) -> str:
        allowed = f"allowed {timedelta(seconds=self.max_age)}"
        if self.newest is None or self.age is None:
            return f"{self.view}: nothing to read online ({allowed})"
        return f"{self.view}: {timedelta(seconds=round(self.age))} old, of {self.newest:%Y-%m-%d %H:%M} UTC ({allowed})"


class Freshness(Record):
    """How fresh the feature views of a service are online, by name."""

    project: str
    service: str
    as_of: datetime
    views: dict[str, ViewFreshness]

    @property
    def fresh(self) -> bool:
        """True when there is a view, and each of them is fresh."""
        return bool(self.views) and not self.stale

    @property
    def stale(self) -> tuple[ViewFreshness, ...]:
        """The views that are not."""
        return tuple(view for view in self.views.values() if not view.fresh)

    @property
    def ages(self) -> dict[str, float | None]:
        """Feature view → age in seconds, None when there is nothing to read."""
        return {name: view.age for name, view in self.views.items()}


def freshness(location: Location, service: str, *, as_of: datetime, max_age: timedelta) -> Freshness:
    """Return, for each feature view of a service, how old the newest value is that can be read online.

    Values are really read from the online store, for some of the entities with the newest rows offline: of all rows,
    of those before ``as_of``, and of those a day earlier. A row without a single value counts for nothing.

    A view is fresh when its newest value is no older than allowed, and can still be served: not past its time to
    live. A view whose rows come seldom (one an event) is also fresh when no newer row exists: the newest that was
    computed is online, and the days since were computed and have none. So is one of which the last partition was
    computed and none has a row yet, as in the first days of a feed.

    :param as_of: The moment that ages are counted from; values newer than it have age 0.
    :param max_age: How old a view may be that does not say so itself, in its tag ``max_age``.
    :raises ConfigError: when the service is unknown, or cannot be read online, or ``as_of`` has no time zone.
    :raises TransientError: when the registry or the online store does not answer.
    """
    check_moment(as_of)
    reader = OnlineReader(location, service)
    views = describe(reader.store).views
    found: dict[str, ViewFreshness] = {}
    for view in reader.plan.stored:
        name = view.table.name
        if name in found:
            continue  # read under several aliases
        tag = readable(views[name].tags).get("max_age") if name in views else None
        allowed = parse_duration(tag) if tag else max_age
        files = _Files(location.home, name, [key for key, _ in view.keys])
        if stored_here(reader.store, location.home, [name]):
            sample = files.sample(as_of)
        else:
            sample = _source_sample(reader, view, as_of, allowed)
        newest = _newest_online(reader, view, sample)
        found[name] = _judge(name, newest, files, as_of=as_of, max_age=allowed, ttl=view.ttl)
    return Freshness(project=reader.store.project, service=service, as_of=as_of, views=found)


def _judge(
    view: str, newest: datetime | None, files: _Files, *, as_of: datetime, max_age: timedelta, ttl: timedelta | None
) -> ViewFreshness:
    def verdict(age: timedelta | None, *, fresh: bool) -> ViewFreshness:
        seconds = None if age is None else age.total_seconds()
        return ViewFreshness(view=view, newest=newest, age=seconds, max_age=max_age.total_seconds(), fresh=fresh)

    if newest is None:
        return verdict(None, fresh=files.computed_without_rows(as_of))
    age = max(timedelta(0), as_of - newest)
    if ttl is not None and age > ttl:
        return verdict(age, fresh=False)
    return verdict(age, fresh=age <= max_age or as_of - files.known_until(newest, as_of) <= max_age)


def _newest_online(reader: OnlineReader, view: StoredView, entities: list[dict[str, Any]]) -> datetime | None:
    read = reader.read_view(view.name, entities) if entities else []
    stamps = [stamp for stamp, values in read if stamp is not None and any(value is not None for value in values)]
    return max(stamps, default=None)


class _Files:
    """The feature files of a view, one a partition."""

    def __init__(self, home: Path, view: str, keys: list[str]) -> None:
        fetch_views(home, [view])
        files = feature_file(home, view, "*").parent.glob("[!.]*.parquet")
        self._cut = partitioning_of(home, view)
        self._files = {self._cut.interval(file.stem)[0]: file for file in files if self._cut.is_key(file.stem)}
        self._keys = keys

    def sample(self, as_of: datetime) -> list[dict[str, Any]]:
        """Return the keys of entities that ought to be online, or to have been lately."""
        rows: dict[tuple[Any, ...], dict[str, Any]] = {}
        for until in (None, as_of, as_of - timedelta(days=1)):
            table = self._last(until)
            for row in table.to_pylist() if table is not None else ():
                row.pop(EVENT)
                rows[tuple(row.values())] = row
        return list(rows.values())

    def computed_without_rows(self, as_of: datetime) -> bool:
        """Return whether the partition that ends at ``as_of`` was computed, and none up to it has rows."""
        return self._cut.floor(as_of - _TICK) in self._files and self._last(as_of) is None

    def known_until(self, online: datetime, as_of: datetime) -> datetime:
        """Return up to when the value that is online is known to be the newest; at least its own time."""
        last = self._last(as_of)
        if last is None or pc.max(last[EVENT]).as_py() > online + _SECOND:
            return online
        days = sorted(day for day in self._files if self._cut.floor(online) <= day < as_of)
        known = online
        for day in days:
            if known < day:
                break  # a day was not computed
            known = max(known, self._cut.next(day))
        return min(known, as_of)

    def _last(self, until: datetime | None) -> pa.Table | None:
        """Return the rows stamped last; days without rows are looked past."""
        for day in sorted(self._files, reverse=True):
            if until is not None and day >= until:
                continue
            schema = pq.read_schema(self._files[day])
            table = pq.read_table(self._files[day], columns=[*(k for k in self._keys if k in schema.names), EVENT])
            if until is not None:
                table = table.filter(pc.less(table[EVENT], pa.scalar(until, table[EVENT].type)))
            if table.num_rows:
                return table.take(pc.sort_indices(table, [(EVENT, "descending")])[:_SAMPLE])
        return None


def _source_sample(reader: OnlineReader, view: StoredView, as_of: datetime, max_age: timedelta) -> list[dict[str, Any]]:
    """Return keys of a view whose rows are not files of ours, by way of Feast's offline store.

    Of as long as the view may be old, and no longer: the tables of a warehouse are large.
    """
    table: FeatureView = view.table
    names: Mapping[str, str] = {feature: column for column, feature in table.batch_source.field_mapping.items()}
    keys = [names.get(key, key) for key, _ in view.keys]
    with feast_errors():
        job = reader.store._get_provider().offline_store.pull_latest_from_table_or_query(
            config=reader.store.config,
            data_source=table.batch_source,
            join_key_columns=keys,
            feature_name_columns=[],
            timestamp_field=table.batch_source.timestamp_field,
            created_timestamp_column=table.batch_source.created_timestamp_column,
            start_date=as_of - max_age,
            end_date=as_of,
        )
        rows = job.to_arrow().sort_by([(table.batch_source.timestamp_field, "descending")]).slice(0, _SAMPLE)
    return rows.select(keys).rename_columns([key for key, _ in view.keys]).to_pylist()
