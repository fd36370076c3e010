"""What each feature costs: bytes offline and online, and the milliseconds of reading it, measured."""

from __future__ import annotations

import sqlite3
import statistics
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from airflow_mlops.contracts import Record
from airflow_mlops.engine.data.shared import fetch_views
from airflow_mlops.engine.features.project.location import Location
from airflow_mlops.engine.features.project.schema import key_fields
from airflow_mlops.engine.features.project.store import feast_errors, open_store
from airflow_mlops.exceptions import ConfigError, did_you_mean

if TYPE_CHECKING:
    from feast import FeatureStore, FeatureView

_ENTITIES = 100  # of which memory is asked, and which are read
_READS = 50


class FeatureCost(Record):
    """What one stored feature costs. ``online_ms`` is a read of this feature alone, of one entity."""

    feature: str
    offline_bytes: int
    online_bytes: int | None = None
    online_ms: float | None = None


class ViewCost(Record):
    """What a stored view costs: over all of its files, all that is online, and a read of all features of one entity.

    ``online_bytes`` and ``online_ms`` are None where they are not known, and ``unknown`` says why; ``sampled`` is of
    how many entities ``online_bytes`` was measured, when not of all. ``keys_bytes`` are those of its keys and times.
    """

    view: str
    days: int
    rows: int
    offline_bytes: int
    keys_bytes: int
    online_bytes: int | None
    online_ms: float | None
    sampled: int | None = None
    unknown: str = ""
    features: tuple[FeatureCost, ...]


def measure_cost(location: Location, views: Sequence[str] = ()) -> list[ViewCost]:
    """Return what stored feature views cost, dearest online read first; the online store is really read.

    :param views: Only these; none means all.
    :raises ConfigError: when there is no such view.
    :raises TransientError: when the registry or the online store does not answer.
    """
    store = open_store(location)
    with feast_errors():
        known = {view.name: view for view in store.list_feature_views()}
        for name in views:
            if name not in known:
                raise ConfigError(
                    f"There is no stored feature view {name!r}.{did_you_mean(name, known)}",
                    detail=f"Feast project {store.project!r} has: {', '.join(sorted(known)) or 'none'}",
                    hint="Apply the feature repository if it is new.",
                )
        found = [_view_cost(store, location.home, known[name]) for name in views or sorted(known)]
    return sorted(found, key=lambda one: -(one.online_ms or 0.0))


def _view_cost(store: FeatureStore, home: Path, view: FeatureView) -> ViewCost:
    fetch_views(home, [view.name])
    files = sorted((home / "features" / view.name).glob("*.parquet"))
    names = [field.name for field in view.features]
    rows, columns = _column_bytes(files)
    entities = _entities(view, files)
    online, sampled, unknown = _online_bytes(store, view, entities, files)
    timed = {name: _milliseconds(store, view, entities, [name]) for name in names} if entities else {}
    return ViewCost(
        view=view.name,
        days=len(files),
        rows=rows,
        offline_bytes=sum(columns.values()),
        keys_bytes=sum(size for column, size in columns.items() if column not in names),
        online_bytes=None if online is None else sum(online.values()),
        online_ms=_milliseconds(store, view, entities, names) if entities else None,
        sampled=sampled,
        unknown="no rows were computed, so there is no entity to read" if not entities else unknown,
        features=tuple(
            FeatureCost(
                feature=name,
                offline_bytes=columns.get(name, 0),
                online_bytes=None if online is None else online.get(name, 0),
                online_ms=timed.get(name),
            )
            for name in names
        ),
    )


def _column_bytes(files: Sequence[Path]) -> tuple[int, dict[str, int]]:
    """Return the rows of Parquet files, and column → bytes on disk."""
    import pyarrow.parquet as pq

    rows, columns = 0, dict[str, int]()
    for file in files:
        metadata = pq.read_metadata(file)
        rows += metadata.num_rows
        for group in (metadata.row_group(index) for index in range(metadata.num_row_groups)):
            for chunk in (group.column(index) for index in range(group.num_columns)):
                name = chunk.path_in_schema.partition(".")[0]
                columns[name] = columns.get(name, 0) + chunk.total_compressed_size
    return rows, columns


def _entities(view: FeatureView, files: Sequence[Path]) -> list[dict[str, Any]]:
    """Return some entities of the newest day that has rows."""
    import pyarrow.parquet as pq

    keys = [field.name for field in key_fields(view)]
    for file in reversed(files):
        table = pq.read_table(file, columns=keys).group_by(keys).aggregate([]).slice(0, _ENTITIES)
        if table.num_rows:
            return [row for row in table.to_pylist() if None not in row.values()]
    return []


# --- online ---------------------------------------------------------------------------------------------------


def _entity_keys(view: FeatureView, entities: Sequence[Mapping[str, Any]]) -> list[Any]:
    from feast.protos.feast.types.EntityKey_pb2 import EntityKey
    from feast.type_map import python_values_to_proto_values

    kinds = {field.name: field.dtype.to_value_type() for field in view.entity_columns}
    return [
        EntityKey(
            join_keys=list(kinds),
            entity_values=[
                python_values_to_proto_values([entity.get(key, "")], kind)[0] for key, kind in kinds.items()
            ],
        )
        for entity in entities
    ]


def _milliseconds(
    store: FeatureStore, view: FeatureView, entities: Sequence[Mapping[str, Any]], names: list[str]
) -> float:
    """Return the median time of reading features of one entity."""
    online, keys = store._get_provider().online_store, _entity_keys(view, entities)
    taken = []
    for number in range(_READS + 1):
        started = time.perf_counter()
        online.online_read(store.config, view, [keys[number % len(keys)]], names)
        taken.append(time.perf_counter() - started)
    return round(1000 * statistics.median(taken[1:]), 4)  # the first one connects


def _online_bytes(
    store: FeatureStore, view: FeatureView, entities: Sequence[Mapping[str, Any]], files: Sequence[Path]
) -> tuple[dict[str, int] | None, int | None, str]:
    """Return feature → bytes, of how many entities that was measured if not of all, and why it is not known."""
    from feast.infra.online_stores.sqlite import SqliteOnlineStore

    online = store._get_provider().online_store
    if isinstance(online, SqliteOnlineStore):
        return _sqlite_bytes(store, view), None, ""
    if _is_redis(online):
        if not entities:
            return None, None, ""
        return _redis_bytes(store, view, entities, _live_entities(view, files)), len(entities), ""
    return None, None, f"{type(online).__name__} does not say how many bytes it holds"


def _sqlite_bytes(store: FeatureStore, view: FeatureView) -> dict[str, int]:
    from feast.infra.online_stores.helpers import compute_table_id
    from feast.infra.online_stores.sqlite import SqliteOnlineStore

    table = compute_table_id(store.project, view, store.config.registry.enable_online_feature_view_versioning)
    columns = ["entity_key", "feature_name", "value", "value_text", "vector_value", "event_ts", "created_ts"]
    size = " + ".join(f"coalesce(length(CAST({column} AS BLOB)), 0)" for column in columns)
    path = Path(SqliteOnlineStore._get_db_path(store.config)).absolute()
    connection = sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True)
    try:
        rows = connection.execute(f'SELECT feature_name, sum({size}) FROM "{table}" GROUP BY feature_name')
        return dict(rows.fetchall())
    finally:
        connection.close()


def _is_redis(online: Any) -> bool:
    return any(cls.__name__ == "RedisOnlineStore" for cls in type(online).__mro__)


def _redis_bytes(
    store: FeatureStore, view: FeatureView, entities: Sequence[Mapping[str, Any]], live: int
) -> dict[str, int]:
    """Return feature → bytes: a key's memory, shared among its fields by their length, times the live entities."""
    from feast.infra.online_stores.helpers import _mmh3, _redis_key

    client = store._get_provider().online_store._get_client(store.config.online_store)
    version = store.config.entity_key_serialization_version
    keys = [_redis_key(store.project, key, version) for key in _entity_keys(view, entities)]
    fields = {_mmh3(f"{view.name}:{field.name}"): field.name for field in view.features}
    found = dict.fromkeys(fields.values(), 0.0)
    for key in keys:
        held = client.hgetall(key)
        length = sum(len(field) + len(value) for field, value in held.items())
        if not length:
            continue
        memory = client.memory_usage(key, samples=0) or 0
        for field, name in fields.items():
            if field in held:
                found[name] += memory * (len(field) + len(held[field])) / length
    return {name: round(size * live / len(keys)) for name, size in found.items()}


def _live_entities(view: FeatureView, files: Sequence[Path]) -> int:
    """Return how many entities have a row within the time to live before the newest day's end."""
    import pyarrow.dataset as ds

    days = len(files) if not view.ttl else min(len(files), view.ttl.days + 1)
    keys = [field.name for field in key_fields(view)]
    table = ds.dataset([str(file) for file in files[len(files) - days :]], format="parquet").to_table(columns=keys)
    return int(table.group_by(keys).aggregate([]).num_rows)
