"""Into the online store, in bulk: the latest row of each key in a span of time, never over a newer one.

SQLite and Redis or Valkey have writers of their own, ``write_sqlite`` and ``write_redis``, which guard each row where
it is written. Every other store is written through Feast's interface, after keys that are online with a newer event
time were left out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from feast.utils import _convert_arrow_to_proto, _get_column_names, _run_pyarrow_field_mapping

from airflow_mlops.engine.features.materialization.chunks import TICK
from airflow_mlops.engine.features.materialization.encode import Column, encode_feature, encode_keys
from airflow_mlops.engine.features.materialization.watermarks import Span
from airflow_mlops.engine.features.offline.types import check_whole, declared_type
from airflow_mlops.exceptions import DataError

if TYPE_CHECKING:
    from feast import FeatureStore, FeatureView, Field, RepoConfig

BATCH = 20_000
"""Rows that are converted and written at a time."""
_FEAST_BATCH = 1_000
_MICROSECONDS = pa.timestamp("us", tz="UTC")
UNKNOWN = np.iinfo(np.int64).min
"""The moment that stands for none."""


class EncodedRows:
    """Rows of a feature view as an online store keeps them: keys, feature → values, times in microseconds UTC.

    ``created`` is None when the view's source has no such column; where it is null, it is :data:`UNKNOWN`.
    """

    def __init__(self, rows: pa.Table, view: FeatureView, config: RepoConfig) -> None:
        source = view.batch_source
        self.keys = encode_keys(rows, view, config.entity_key_serialization_version)
        self.features: dict[str, Column] = {}
        for field in view.features:
            with _fitting(view, field, rows):
                self.features[field.name] = encode_feature(rows.column(field.name), field.dtype.to_value_type())
        self.events = _moments(rows.column(source.timestamp_field))
        created = source.created_timestamp_column
        self.created = _moments(rows.column(created)) if created else None


Writer = Callable[[EncodedRows], None]


def is_guarded(store: FeatureStore, view: FeatureView) -> bool:
    """Return whether we write the view ourselves: a stored view, as it is, by Feast's local engine.

    Views that are transformed on the way, or written by a cluster, are Feast's to materialise: whatever it writes
    overwrites what is there.
    """
    from feast import FeatureView as StoredFeatureView
    from feast.infra.compute_engines.local.compute import LocalComputeEngine

    engine = getattr(store._get_provider(), "batch_engine", None)
    return (
        type(view) is StoredFeatureView
        and not view.source_views
        and getattr(view, "feature_transformation", None) is None
        and not view.offline
        and type(engine) is LocalComputeEngine
    )


def write_latest(store: FeatureStore, view: FeatureView, span: Span) -> int:
    """Write the latest row of each key in a span online, unless a newer one is there; return how many keys it has."""
    rows, write = _by_key(read_latest(store, view, span), view, store.config), _writer(store, view)
    for start in range(0, rows.num_rows, BATCH):
        write(rows.slice(start, BATCH))
    return rows.num_rows


def read_latest(store: FeatureStore, view: FeatureView, span: Span) -> pa.Table:
    """Return the latest row of each key in a span, by the offline store's own means.

    :raises DataError: when a key is null, or a whole number by the registry has a fraction.
    """
    entities = [store.get_entity(name) for name in view.entities if name != "__dummy"]
    keys, features, event, created = _get_column_names(view, entities)
    job = store._get_provider().offline_store.pull_latest_from_table_or_query(
        config=store.config,
        data_source=view.batch_source,
        join_key_columns=keys,
        feature_name_columns=features,
        timestamp_field=event,
        created_timestamp_column=created,
        start_date=span[0],
        end_date=span[1] - TICK,
    )
    rows = _run_pyarrow_field_mapping(job.to_arrow(), view.batch_source.field_mapping)
    for field in view.entity_columns:
        if field.name not in rows.column_names:  # a view without entities: Feast keeps it under one empty key
            rows = rows.append_column(field.name, pa.array([""] * rows.num_rows))
        if nulls := rows.column(field.name).null_count:
            raise DataError(
                f"{field.name!r} is null in {nulls} of {rows.num_rows} rows of feature view {view.name!r}.",
                detail=f"rows of {span[0].isoformat()} to {span[1].isoformat()}",
                hint="An entity must have a key: leave such rows out where they are computed.",
            )
    for field in (*view.entity_columns, *view.features):  # Feast would cut fractions off
        what = f"Column {field.name!r} of the rows of feature view {view.name!r}"
        check_whole(rows.column(field.name), declared_type(field.dtype), what)
    return rows


def _by_key(rows: pa.Table, view: FeatureView, config: RepoConfig) -> pa.Table:
    """Return rows in the order of their keys as they are stored: an index is filled from left to right."""
    with _fitting(view, view.entity_columns[0], rows):
        keys = pa.array(encode_keys(rows, view, config.entity_key_serialization_version), pa.binary())
    return rows.take(pc.array_sort_indices(keys))


def _writer(store: FeatureStore, view: FeatureView) -> Callable[[pa.Table], None]:
    from airflow_mlops.engine.features.materialization import write_redis, write_sqlite

    for bulk in (write_sqlite, write_redis):
        if (online := bulk.knows(store)) is not None:
            write = bulk.writer(online, store.config, view)
            return lambda rows: write(EncodedRows(rows, view, store.config))
    return lambda rows: _through_feast(store, view, rows)


@contextmanager
def _fitting(view: FeatureView, field: Field, rows: pa.Table) -> Iterator[None]:
    """Say in words what Feast's conversion raises about a value that is not of the type that is registered."""
    try:
        yield
    except (AssertionError, TypeError, ValueError, OverflowError) as error:
        raise DataError(
            f"Column {field.name!r} of feature view {view.name!r} is not of type {field.dtype}.",
            detail=f"its rows have the type {rows.schema.field(field.name).type}: {error}",
            hint="Compute the days again with the type that is registered, or change the type in the repository.",
        ) from error


def _through_feast(store: FeatureStore, view: FeatureView, rows: pa.Table) -> None:
    provider, config = store._get_provider(), store.config
    if getattr(config.online_store, "skip_dedup", None) is False:
        # Redis skips a row of the very moment that is there: values that were computed again would never arrive.
        online = config.online_store.model_copy(update={"skip_dedup": True})
        config = config.model_copy()
        config.online_store = online
    types = {field.name: field.dtype.to_value_type() for field in view.entity_columns}
    known = [view.features[0].name]
    for batch in rows.to_batches(max_chunksize=_FEAST_BATCH):
        data = _convert_arrow_to_proto(batch, view, types)
        there = provider.online_read(store.config, view, [key for key, *_ in data], list(known))
        due = [row for row, (at, _) in zip(data, there, strict=True) if at is None or _aware(at) <= _aware(row[2])]
        if due:
            provider.online_write_batch(config, view, due, lambda _: None)


def _aware(moment: datetime) -> datetime:
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment


def _moments(column: pa.ChunkedArray) -> np.ndarray[Any, Any]:
    """Return times in microseconds since the epoch; naive ones are UTC, as everywhere in Feast."""
    array = column.combine_chunks()
    if array.type.tz is None:
        array = pc.cast(array, pa.timestamp("us"), safe=False)
    moments = pc.cast(pc.cast(array, _MICROSECONDS, safe=False), pa.int64())
    return pc.fill_null(moments, UNKNOWN).to_numpy(zero_copy_only=False)
