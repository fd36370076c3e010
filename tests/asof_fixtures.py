"""Feature stores with made-up views, for tests of the point-in-time join: ours, and Feast's own on the same files."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from feast import Entity, FeatureStore, FeatureView, Field, FileSource, RepoConfig, ValueType
from feast.data_format import ParquetFormat
from feast.types import Float64, Int64, String

OURS = "airflow_mlops.engine.features.offline.asof.AsofOfflineStore"
HOUR = timedelta(hours=1)


def open_feast(folder: Path, definitions: list[Any], offline: Mapping[str, Any]) -> FeatureStore:
    """Apply definitions in a registry of their own, and return the store."""
    folder.mkdir(parents=True, exist_ok=True)
    config = RepoConfig(
        project="made_up",
        provider="local",
        registry={"path": str(folder / "registry.db"), "cache_ttl_seconds": 0},
        online_store={"type": "sqlite", "path": str(folder / "online.db")},
        offline_store=dict(offline),
        entity_key_serialization_version=3,
        coerce_tz_aware=False,
    )
    store = FeatureStore(config=config)
    store.apply(definitions)
    return store


def source(folder: Path, name: str, **changes: Any) -> FileSource:
    """The Parquet files of a folder: ``happened``, ``written``, keys and features."""
    settings = {"timestamp_field": "happened", "created_timestamp_column": "written", **changes}
    return FileSource(
        name=f"{name}_rows", path=str(folder / name / "*.parquet"), file_format=ParquetFormat(), **settings
    )


KEY = Entity(name="key", join_keys=["k"], value_type=ValueType.STRING)
NUMBER = Entity(name="number", join_keys=["n"], value_type=ValueType.INT64)


def made_up_views(folder: Path) -> list[Any]:
    """Views whose names say what is special: a time to live, two keys and none to live, no creation times."""
    return [
        KEY,
        NUMBER,
        FeatureView(
            name="short",
            entities=[KEY],
            ttl=3 * HOUR,
            schema=[Field(name="short_a", dtype=Float64), Field(name="short_b", dtype=Int64)],
            source=source(folder, "short"),
        ),
        FeatureView(
            name="endless",
            entities=[KEY, NUMBER],
            ttl=None,
            schema=[Field(name="endless_a", dtype=Float64), Field(name="endless_b", dtype=Int64)],
            source=source(folder, "endless", field_mapping={"raw": "endless_a"}),
        ),
        FeatureView(
            name="uncreated",
            entities=[KEY],
            ttl=2 * HOUR,
            schema=[Field(name="uncreated_a", dtype=String), Field(name="uncreated_b", dtype=Int64)],
            source=source(folder, "uncreated", created_timestamp_column=""),
        ),
    ]


def write_rows(folder: Path, view: str, *tables: pa.Table) -> None:
    """Replace the files of a view."""
    files = folder / view
    files.mkdir(parents=True, exist_ok=True)
    for file in files.iterdir():
        file.unlink()
    for number, table in enumerate(tables):
        pq.write_table(table, files / f"{number}.parquet")
