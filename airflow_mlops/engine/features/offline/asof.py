"""An offline store inside Feast's plugin interface whose point-in-time join is right and fast.

Feast joins every entity row with every row of its key and ranks afterwards: time and memory grow with the length of
the history. Here both sides are sorted once (:mod:`~airflow_mlops.engine.features.offline.join`). Beyond what Feast
promises, a value counts only from when it was known, rows come back in the order in which they were asked for, and
rows that are equal in time are told apart by their values: the answer does not depend on files or threads.

Named in ``feature_store.yaml`` as
``offline_store: {type: airflow_mlops.engine.features.offline.asof.AsofOfflineStore}``.
It reads what ``type: duckdb`` reads, local Parquet files fastest, and writes as it does.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path

import ibis
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from feast import FeatureView, OnDemandFeatureView, RepoConfig
from feast.data_source import DataSource
from feast.infra.offline_stores.duckdb import DuckDBOfflineStore, DuckDBOfflineStoreConfig, _write_data_source
from feast.infra.offline_stores.ibis import IbisRetrievalJob
from feast.infra.offline_stores.offline_store import RetrievalJob, RetrievalMetadata
from feast.infra.registry.base_registry import BaseRegistry
from feast.saved_dataset import SavedDatasetStorage

from airflow_mlops.engine.features.offline.entities import Entities, check_columns, check_names, read_entities
from airflow_mlops.engine.features.offline.join import History, TiedError, latest, latest_as_of
from airflow_mlops.engine.features.offline.reading import files_of
from airflow_mlops.engine.features.offline.rows import read_rows
from airflow_mlops.engine.features.offline.types import (
    Unit,
    as_whole,
    check_kind,
    check_whole,
    comparable,
    declared_type,
    ticks,
    ticks_up,
    unit_of,
)
from airflow_mlops.engine.features.project.schema import key_fields
from airflow_mlops.exceptions import ConfigError

_ROWS_AT_ONCE = 1_000_000
_TICK = timedelta(microseconds=1)
_EARLIEST = datetime.min.replace(tzinfo=UTC)


class AsofOfflineStoreConfig(DuckDBOfflineStoreConfig):
    """Settings: those of ``type: duckdb``, and ``knowledge_time``.

    ``knowledge_time: false`` lets a value count from its event on, known or not, as Feast does unless it is called
    with ``filter_by_created_timestamp=True``.
    """

    type: str = "airflow_mlops.engine.features.offline.asof.AsofOfflineStore"
    knowledge_time: bool = True


class AsofOfflineStore(DuckDBOfflineStore):
    """Files, joined point in time by one sort and one search."""

    @staticmethod
    def get_historical_features(  # noqa: PLR0917 - Feast's signature
        config: RepoConfig,
        feature_views: list[FeatureView],
        feature_refs: list[str],
        entity_df: pd.DataFrame | pa.Table | str,
        registry: BaseRegistry,
        project: str,
        full_feature_names: bool = False,
        filter_by_created_timestamp: bool = False,
        **_dates: datetime,
    ) -> RetrievalJob:
        """Return each entity row, in the order given, with the latest value of every feature that it could see.

        A value can be seen from its event and, unless ``knowledge_time`` is off, its creation on, until its time to
        live is over, both ends included. Of those the latest event counts; among values of one event the latest
        created; among these the row with the greatest values. Where there is none, features are null. Values of
        which the creation is unknown are never seen when it matters.

        :param entity_df: Rows with a timestamp with a zone and the join keys, as pandas or Arrow; or a query for
            DuckDB.
        :raises ConfigError: when the rows lack a column, their times have no zone or lie in the future, or a key is
            of another type than the registry says.
        :raises DataError: when the rows of a view are gone, or of other types than the registry says. Raised when
            the job is run, as it reads then.
        """
        entities = read_entities(entity_df)
        as_created = filter_by_created_timestamp or config.offline_store.knowledge_time
        views = [_asked(view, feature_refs, config, full_names=full_feature_names) for view in feature_views]
        on_demand = OnDemandFeatureView.get_requested_odfvs(feature_refs, project, registry)
        check_columns(entities, [(key, f"feature view {view.name!r}") for view in views for key in view.keys.values()])
        requested = [(name, f"on-demand view {view.name!r}") for view in on_demand for name in _request(view)]
        check_columns(entities, requested)
        check_names(entities, [name for view in views for name in view.features])
        for view in views:
            for ours, theirs in view.keys.items():
                kind = entities.rows.schema.field(theirs).type
                check_kind(kind, view.declared[ours], f"Column {theirs!r} of the entity rows", error=ConfigError)
        first, last = entities.bounds if entities.rows.num_rows else (None, None)
        return AsofRetrievalJob(
            partial(_join, entities, views, as_created=as_created),
            config,
            on_demand_feature_views=on_demand,
            full_feature_names=full_feature_names,
            metadata=RetrievalMetadata(
                features=feature_refs,
                keys=[column for column in entities.rows.column_names if column != entities.moment],
                min_event_timestamp=first,
                max_event_timestamp=last,
            ),
        )

    @staticmethod
    def pull_latest_from_table_or_query(  # noqa: PLR0917 - Feast's signature
        config: RepoConfig,
        data_source: DataSource,
        join_key_columns: list[str],
        feature_name_columns: list[str],
        timestamp_field: str,
        created_timestamp_column: str | None,
        start_date: datetime,
        end_date: datetime,
    ) -> RetrievalJob:
        """Return, of the events between two moments, both included, the row of the last of each key.

        Among equals in time the one that :meth:`get_historical_features` would take. Unless ``knowledge_time`` is
        off, rows that are not known by now do not count: those whose creation is null, or lies in the future.
        """

        def pull() -> pa.Table:
            columns = [*join_key_columns, *feature_name_columns, timestamp_field]
            if created_timestamp_column:
                columns.append(created_timestamp_column)
            rows = read_rows(
                data_source,
                columns,
                repo_path=str(config.repo_path),
                event=timestamp_field,
                start=start_date.astimezone(),
                end=end_date.astimezone(),
            )
            if created_timestamp_column and config.offline_store.knowledge_time:
                rows = _known(rows, created_timestamp_column, datetime.now(UTC))
            keys = [rows[column] for column in join_key_columns]
            history, _ = _history(rows, keys, timestamp_field, created_timestamp_column)
            history = history._replace(features=rows.select(sorted(set(feature_name_columns))))
            return rows.take(pa.array(latest(history)))

        return AsofRetrievalJob(pull, config)

    @staticmethod
    def pull_all_from_table_or_query(  # noqa: PLR0917 - Feast's signature
        config: RepoConfig,
        data_source: DataSource,
        join_key_columns: list[str],
        feature_name_columns: list[str],
        timestamp_field: str,
        created_timestamp_column: str | None = None,
        start_date: datetime | None = None,
        end_date: datetime | None = None,
    ) -> RetrievalJob:
        """Return the rows of the events between two moments, both included, in the order of the files."""
        columns = [*join_key_columns, *feature_name_columns, timestamp_field]
        if created_timestamp_column:
            columns.append(created_timestamp_column)
        pull = partial(
            read_rows,
            data_source,
            [column for column in columns if column != "__log_date"],  # as Feast: a folder's name, not a column
            repo_path=str(config.repo_path),
            event=timestamp_field,
            start=start_date.astimezone() if start_date else None,
            end=end_date.astimezone() if end_date else None,
        )
        return AsofRetrievalJob(pull, config)


class AsofRetrievalJob(RetrievalJob):
    """Reads and joins when it is asked for its rows, each time."""

    def __init__(
        self,
        run: Callable[[], pa.Table],
        config: RepoConfig,
        *,
        on_demand_feature_views: Sequence[OnDemandFeatureView] = (),
        full_feature_names: bool = False,
        metadata: RetrievalMetadata | None = None,
    ) -> None:
        self._run = run
        self._config = config
        self._on_demand_feature_views = list(on_demand_feature_views)
        self._full_feature_names = full_feature_names
        self._metadata = metadata

    @property
    def full_feature_names(self) -> bool:
        """Whether features are named ``view__feature``."""
        return self._full_feature_names

    @property
    def on_demand_feature_views(self) -> list[OnDemandFeatureView]:
        """The views whose features are computed from the rows."""
        return self._on_demand_feature_views

    @property
    def metadata(self) -> RetrievalMetadata | None:
        """What was asked for."""
        return self._metadata

    def _to_arrow_internal(self, timeout: int | None = None) -> pa.Table:
        return self._run()

    def _to_df_internal(self, timeout: int | None = None) -> pd.DataFrame:
        return self._run().to_pandas()

    def persist(self, storage: SavedDatasetStorage, allow_overwrite: bool = False, timeout: int | None = None) -> None:
        """Write the rows where Feast's DuckDB store would."""
        self._as_feasts().persist(storage, allow_overwrite, timeout)

    def supports_remote_storage_export(self) -> bool:
        """Whether a staging location is configured."""
        return self._config.offline_store.staging_location is not None

    def to_remote_storage(self) -> list[str]:
        """Write the rows to the staging location, and return the files."""
        return list(self._as_feasts().to_remote_storage())

    def _as_feasts(self) -> IbisRetrievalJob:
        return IbisRetrievalJob(
            ibis.memtable(self._run()),
            self._on_demand_feature_views,
            self._full_feature_names,
            metadata=self._metadata,
            data_source_writer=_write_data_source,
            staging_location=self._config.offline_store.staging_location,
            staging_location_endpoint_override=self._config.offline_store.staging_location_endpoint_override,
            repo_path=str(self._config.repo_path),
        )


@dataclass(frozen=True)
class _Asked:
    """What is asked of a feature view, in the names of its source's columns.

    ``keys`` is source's column → column of the entity rows; ``features`` name in the answer → source's column;
    ``declared`` column → type by the registry, of keys and all features; ``files`` what to read instead of the source.
    """

    name: str
    source: DataSource
    repo_path: str
    event: str
    created: str | None
    keys: Mapping[str, str]
    features: Mapping[str, str]
    declared: Mapping[str, pa.DataType]
    lives: timedelta | None
    files: Sequence[Path] | None


def _asked(view: FeatureView, feature_refs: list[str], config: RepoConfig, *, full_names: bool) -> _Asked:
    source = view.batch_source
    if source is None:
        raise ConfigError(
            f"Feature view {view.name!r} has no source to read its history from.",
            hint="Give its definition a batch source.",
        )
    mapped = {feature: column for column, feature in source.field_mapping.items()}
    keys = key_fields(view)
    prefix = f"{view.projection.name_alias or view.name}__" if full_names else ""
    refs = (ref.partition(":") for ref in feature_refs)
    features = [feature for name, _, feature in refs if name == view.projection.name_to_use()]
    created = source.created_timestamp_column
    return _Asked(
        name=view.name,
        source=source,
        repo_path=str(config.repo_path),
        event=mapped.get(source.timestamp_field, source.timestamp_field),
        created=mapped.get(created, created) if created else None,
        keys={mapped.get(k.name, k.name): view.projection.join_key_map.get(k.name, k.name) for k in keys},
        features={prefix + feature: mapped.get(feature, feature) for feature in features},
        declared={mapped.get(field.name, field.name): declared_type(field.dtype) for field in (*keys, *view.features)},
        lives=view.ttl or None,
        files=files_of(view.name),
    )


def _request(view: OnDemandFeatureView) -> list[str]:
    return [field.name for source in view.source_request_sources.values() for field in source.schema]


def _join(entities: Entities, views: Sequence[_Asked], *, as_created: bool) -> pa.Table:
    """Return the entity rows with their features, joined span of time by span of time where they are many."""
    count = -(-entities.rows.num_rows // _ROWS_AT_ONCE)
    if count <= 1:
        features = _features(entities, views, as_created=as_created)
    else:
        order = pc.sort_indices(entities.times).to_numpy()
        spans = (entities.rows.take(pa.array(span)) for span in np.array_split(order, count))
        parts = [_features(entities._replace(rows=rows), views, as_created=as_created) for rows in spans]
        features = pa.concat_tables(parts, promote_options="permissive").take(pa.array(np.argsort(order)))
    answer = entities.rows
    for name in features.column_names:
        answer = answer.append_column(name, features[name])
    return answer


def _features(entities: Entities, views: Sequence[_Asked], *, as_created: bool) -> pa.Table:
    """Return the features that each entity row could see."""
    columns = {
        name: column for view in views for name, column in _values(entities, view, as_created=as_created).items()
    }
    return pa.table(columns)


def _values(entities: Entities, view: _Asked, *, as_created: bool) -> dict[str, pa.Array]:
    """Return the features of one view that each entity row could see."""
    wanted = list(dict.fromkeys(view.features.values()))
    others = sorted(set(view.declared) - set(view.keys) - set(wanted))
    try:
        rows, positions = _found(entities, view, wanted, as_created=as_created, all_read=not others)
    except TiedError:
        rows, positions = _found(entities, view, [*wanted, *others], as_created=as_created, all_read=True)
    values = {
        column: as_whole(rows[column].combine_chunks().take(positions), view.declared[column]) for column in wanted
    }
    return {name: values[column] for name, column in view.features.items()}


def _found(
    entities: Entities, view: _Asked, features: Sequence[str], *, as_created: bool, all_read: bool
) -> tuple[pa.Table, pa.Array]:
    """Return rows of a view, and which of them each entity row sees."""
    rows = _rows(entities, view, features)
    if as_created and view.created:
        rows = rows.filter(pc.is_valid(rows[view.created]))
    pairs = [
        comparable(rows[ours], entities.rows[theirs], f"Column {theirs!r} of the entity rows")
        for ours, theirs in view.keys.items()
    ]
    history, unit = _history(rows, [ours for ours, _ in pairs], view.event, view.created)
    history = history._replace(features=rows.select(sorted(features)) if all_read else None)
    lives = None if view.lives is None else view.lives // timedelta(microseconds=1) * (1000 if unit == "ns" else 1)
    return rows, latest_as_of(
        history,
        [theirs for _, theirs in pairs],
        ticks(entities.times, unit),
        as_created=as_created,
        oldest=None if lives is None else ticks_up(entities.times, unit) - lives,
    )


def _rows(entities: Entities, view: _Asked, features: Sequence[str]) -> pa.Table:
    """Read what can matter of a view: keys, times, and some of its features."""
    times = [view.event, *([view.created] if view.created else [])]
    columns = list(dict.fromkeys([*view.keys, *times, *features]))
    if not entities.rows.num_rows or (view.files is not None and not view.files):
        kinds = {**dict.fromkeys(times, pa.timestamp("us", "UTC")), **view.declared}
        return pa.schema([(column, kinds[column]) for column in columns]).empty_table()
    first, last = entities.bounds
    rows = read_rows(
        view.source,
        columns,
        repo_path=view.repo_path,
        event=view.event,
        start=first - view.lives if view.lives and first - _EARLIEST > view.lives else None,
        end=last + _TICK,  # nanoseconds were cut off
        files=view.files,
    )
    for column in (*view.keys, *features):
        what = f"Column {column!r} of the rows of feature view {view.name!r}"
        check_kind(rows.schema.field(column).type, view.declared[column], what)
        check_whole(rows[column], view.declared[column], what)
    return rows


def _known(rows: pa.Table, created: str, now: datetime) -> pa.Table:
    """Return the rows that were created by a moment."""
    mask = pc.less_equal(rows[created], pa.scalar(now, pa.timestamp("us", "UTC"))).fill_null(False)
    return rows if pc.all(mask).as_py() is not False else rows.filter(mask)


def _history(rows: pa.Table, keys: Sequence[pa.ChunkedArray], event: str, created: str | None) -> tuple[History, Unit]:
    """Return rows as the join takes them, and the unit of its ticks."""
    happened, known = rows[event], rows[created or event]
    unit = unit_of(happened, known)
    return History(keys, ticks(happened, unit), ticks(known, unit), features=None), unit
