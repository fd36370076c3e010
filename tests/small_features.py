"""A small feature repository of its own: two entities, two feature views, a few days of Parquet files.

View ``shop_sales`` (by ``shop``, ttl 3 days) has a row an hour and shop; view ``item_price`` (by ``item``, ttl 7 days)
a row a day and item. Values say what they are of: see :func:`sales` and :func:`price`.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from airflow_mlops.engine.features.project.location import Location
from airflow_mlops.engine.features.project.schema import feature_file

PROJECT = "shops"
SERVICE = "shop_v1"
FIRST = date(2024, 3, 1)
SHOPS = ("ash", "birch", "cedar")
ITEMS = (1, 2)

SETTINGS = """
project: shops
provider: local
registry:
  registry_type: sql
  path: sqlite:///${MLOPS_HOME}/feast/registry.db
  cache_ttl_seconds: 60
online_store:
  type: sqlite
  path: ${MLOPS_HOME}/feast/online.db
entity_key_serialization_version: 3
"""

DEFINITIONS = """
import os
from datetime import timedelta

from feast import Entity, FeatureService, FeatureView, Field, FileSource, ValueType
from feast.data_format import ParquetFormat
from feast.types import Float64, Int64, String


def source(view):
    return FileSource(
        name=view + "_rows", path=os.environ["MLOPS_HOME"] + "/features/" + view + "/*.parquet",
        file_format=ParquetFormat(), timestamp_field="event_timestamp",
        created_timestamp_column="created_timestamp",
    )


shop = Entity(name="shop", join_keys=["shop"], value_type=ValueType.STRING)
item = Entity(name="item", join_keys=["item"], value_type=ValueType.INT64)
shop_sales = FeatureView(
    name="shop_sales", entities=[shop], ttl=timedelta(days=3), source=source("shop_sales"),
    schema=[Field(name="shop", dtype=String), Field(name="sales", dtype=Float64), Field(name="visits", dtype=Int64)],
    tags={"owner": "shops@example.com", "allowed_use": "*"},
)
item_price = FeatureView(
    name="item_price", entities=[item], ttl=timedelta(days=7), source=source("item_price"),
    schema=[Field(name="item", dtype=Int64), Field(name="price", dtype=Float64)],
    tags={"owner": "shops@example.com", "allowed_use": "*"},
)
shop_v1 = FeatureService(
    name="shop_v1", features=[shop_sales, item_price], tags={"owner": "shops@example.com", "allowed_use": "*"}
)
"""


def day(n: int) -> datetime:
    """Return the midnight at which the n-th day starts, from 0."""
    return datetime.combine(FIRST, datetime.min.time(), UTC) + timedelta(days=n)


def sales(shop: str, moment: datetime) -> float:
    """Return what feature ``sales`` of a shop is at a full hour."""
    return SHOPS.index(shop) * 1000.0 + (moment - day(0)) / timedelta(hours=1)


def price(item: int, moment: datetime) -> float:
    """Return what feature ``price`` of an item is from a midnight on."""
    return item + (moment - day(0)) / timedelta(days=1) / 100


def write_repo(folder: Path, definitions: str = DEFINITIONS, settings: str = SETTINGS) -> Path:
    """Write the repository."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "feature_store.yaml").write_text(settings)
    (folder / "shops.py").write_text(definitions)
    return folder


def write_days(home: Path, days: int, first: int = 0) -> None:
    """Write the feature files of so many days."""
    for start in (day(n) for n in range(first, first + days)):
        hours = [start + timedelta(hours=n) for n in range(24)]
        by_shop = [(shop, hour) for hour in hours for shop in SHOPS]
        shop_rows = {
            "shop": [shop for shop, _ in by_shop],
            "sales": [sales(*row) for row in by_shop],
            "visits": pa.array([hour.hour for _, hour in by_shop], pa.int64()),
            **_times([hour for _, hour in by_shop]),
        }
        item_rows = {
            "item": pa.array(ITEMS, pa.int64()),
            "price": [price(item, start) for item in ITEMS],
            **_times([start for _ in ITEMS]),
        }
        for view, rows in (("shop_sales", shop_rows), ("item_price", item_rows)):
            file = feature_file(home, view, str(start.date()))
            file.parent.mkdir(parents=True, exist_ok=True)
            pq.write_table(pa.table(rows), file)


def shops(tmp_path: Path, days: int = 3, overrides: Mapping[str, Any] | None = None, name: str = "shops") -> Location:
    """Write a repository and a home with so many days of features; nothing is applied yet."""
    home = tmp_path / f"{name}-home"
    home.mkdir()
    write_days(home, days)
    return Location(write_repo(tmp_path / f"{name}-repo"), home, overrides or {})


def _times(moments: list[datetime]) -> dict[str, pa.Array]:
    kind = pa.timestamp("us", tz="UTC")
    return {name: pa.array(moments, kind) for name in ("event_timestamp", "created_timestamp")}
