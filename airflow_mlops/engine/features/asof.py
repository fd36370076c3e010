"""Feast's DuckDB offline store with its point-in-time join done as an ASOF join.

Feast joins every entity row with every row of its key and ranks afterwards: time and memory grow with the length
of the history. DuckDB's ASOF join sorts both sides once. The values are the same.

Named in ``feature_store.yaml`` as ``offline_store: {type: airflow_mlops.engine.features.asof.AsofOfflineStore}``.
Feature views that do not read Parquet files fall back to Feast's own join.
"""

from __future__ import annotations

from datetime import timedelta

import duckdb
import ibis
import pandas as pd
from feast import FeatureView, FileSource, OnDemandFeatureView, RepoConfig
from feast.data_format import ParquetFormat
from feast.infra.offline_stores.duckdb import DuckDBOfflineStore, DuckDBOfflineStoreConfig, _write_data_source
from feast.infra.offline_stores.ibis import IbisRetrievalJob
from feast.infra.offline_stores.offline_store import RetrievalJob, RetrievalMetadata
from feast.infra.offline_stores.offline_utils import infer_event_timestamp_from_entity_df
from feast.infra.registry.base_registry import BaseRegistry


class AsofOfflineStoreConfig(DuckDBOfflineStoreConfig):
    """Settings: those of ``type: duckdb``."""

    type: str = "airflow_mlops.engine.features.asof.AsofOfflineStore"


class AsofOfflineStore(DuckDBOfflineStore):
    """DuckDB over Parquet files, joined point in time by ASOF join."""

    @staticmethod
    def get_historical_features(  # noqa: PLR0917 - Feast's signature
        config: RepoConfig,
        feature_views: list[FeatureView],
        feature_refs: list[str],
        entity_df: pd.DataFrame | str,
        registry: BaseRegistry,
        project: str,
        full_feature_names: bool = False,
        filter_by_created_timestamp: bool = False,
    ) -> RetrievalJob:
        """Return each entity row with the latest value of every feature that it could see.

        A value can be seen from its event time, with ``filter_by_created_timestamp`` not before its creation,
        until its time to live is over, both ends included. Of those, the latest event counts; among values of
        one event, the latest created.

        Times are compared as nanoseconds since the epoch, whatever unit a file holds: DuckDB's arithmetic on
        timestamps with a zone depends on the zone that the machine is set to.
        """
        if not isinstance(entity_df, pd.DataFrame) or not all(_is_parquet(view) for view in feature_views):
            return DuckDBOfflineStore.get_historical_features(
                config,
                feature_views,
                feature_refs,
                entity_df,
                registry,
                project,
                full_feature_names,
                filter_by_created_timestamp,
            )
        moment = infer_event_timestamp_from_entity_df(dict(entity_df.dtypes))
        first, last = entity_df[moment].min(), entity_df[moment].max()
        columns, joins, parameters = ["entity.*"], [], []
        for number, view in enumerate(feature_views):
            rows = f"view_{number}"
            columns += _columns(view, rows, feature_refs, moment, full_feature_names=full_feature_names)
            joins.append(_join(view, rows, moment, as_created=filter_by_created_timestamp))
            parameters.append(view.batch_source.path)
        with duckdb.connect() as connection:
            connection.register("entity", entity_df)
            query = f"SELECT {', '.join(columns)} FROM entity {' '.join(joins)}"
            joined = connection.sql(query, params=parameters).to_arrow_table()
        return IbisRetrievalJob(
            ibis.memtable(joined),
            OnDemandFeatureView.get_requested_odfvs(feature_refs, project, registry),
            full_feature_names,
            metadata=RetrievalMetadata(
                features=feature_refs,
                keys=[column for column in entity_df.columns if column != moment],
                min_event_timestamp=first,
                max_event_timestamp=last,
            ),
            data_source_writer=_write_data_source,
            staging_location=config.offline_store.staging_location,
            staging_location_endpoint_override=config.offline_store.staging_location_endpoint_override,
            repo_path=str(config.repo_path),
        )


def _is_parquet(view: FeatureView) -> bool:
    source = view.batch_source
    return isinstance(source, FileSource) and isinstance(source.file_format or ParquetFormat(), ParquetFormat)


def _columns(
    view: FeatureView, rows: str, feature_refs: list[str], moment: str, *, full_feature_names: bool
) -> list[str]:
    """The features asked for, null once their time to live is over."""
    mapped = {feature: column for column, feature in view.batch_source.field_mapping.items()}
    prefix = f"{view.projection.name_alias or view.name}__" if full_feature_names else ""
    alive = "true"
    if view.ttl:
        nanoseconds = view.ttl // timedelta(microseconds=1) * 1000
        alive = f"{rows}.__event + {nanoseconds} >= epoch_ns(entity.{_column(moment)})"
    features = [ref.partition(":")[2] for ref in feature_refs if ref.startswith(f"{view.projection.name_to_use()}:")]
    return [
        f"CASE WHEN {alive} THEN {rows}.{_column(mapped.get(feature, feature))} END AS {_column(prefix + feature)}"
        for feature in features
    ]


def _join(view: FeatureView, rows: str, moment: str, *, as_created: bool) -> str:
    """Join the last row that could be seen: of the rows in the order in which they became known, those that are
    the latest event so far. Among equals in time, the latest event, then the latest created counts.
    """
    keys = view.projection.join_key_map or {column.name: column.name for column in view.entity_columns}
    own = ", ".join(map(_column, keys))
    source = view.batch_source
    event = f"epoch_ns({_column(source.timestamp_field)})"
    created = f"epoch_ns({_column(source.created_timestamp_column)})" if source.created_timestamp_column else event
    known = f"greatest({event}, {created})" if as_created else event
    seen = f"""
        SELECT * FROM (
            SELECT *, {event} AS __event, {known} AS __known FROM read_parquet(?)
            QUALIFY row_number() OVER (PARTITION BY {own}, {known} ORDER BY {event} DESC, {created} DESC) = 1
        ) QUALIFY __event = max(__event) OVER (PARTITION BY {own} ORDER BY __known)"""
    on = [f"entity.{_column(theirs)} = {rows}.{_column(ours)}" for ours, theirs in keys.items()]
    return (
        f"ASOF LEFT JOIN ({seen}) {rows} ON {' AND '.join(on)} AND epoch_ns(entity.{_column(moment)}) >= {rows}.__known"
    )


def _column(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'
