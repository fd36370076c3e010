"""A feature repository with all that a service can hold, and rows to put online: for tests of reading."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pandas as pd

from airflow_mlops.engine.features.governance.apply import apply_repo
from airflow_mlops.engine.features.project.location import Location
from airflow_mlops.engine.features.project.store import open_store, quietly
from tests.feast_fixtures import ledger_of
from tests.small_features import SETTINGS

SERVICE = "delivery_v1"
NOON = datetime(2024, 3, 5, 12, tzinfo=UTC)
ROWS = 60

DEFINITIONS = """
import os
from datetime import timedelta

from feast import Entity, FeatureService, FeatureView, Field, FileSource, RequestSource, ValueType
from feast.data_format import ParquetFormat
from feast.on_demand_feature_view import on_demand_feature_view
from feast.types import Bool, Float32, Float64, Int32, Int64, String, UnixTimestamp


def source(view):
    return FileSource(
        name=view + "_rows", path=os.environ["MLOPS_HOME"] + "/features/" + view + "/*.parquet",
        file_format=ParquetFormat(), timestamp_field="event_timestamp",
        created_timestamp_column="created_timestamp",
    )


TAGS = {"owner": "shops@example.com", "allowed_use": "*"}
shop = Entity(name="shop", join_keys=["shop"], value_type=ValueType.STRING)
item = Entity(name="item", join_keys=["item"], value_type=ValueType.INT64)
city = Entity(name="city", join_keys=["city"], value_type=ValueType.STRING)

sales = FeatureView(
    name="sales", entities=[shop], ttl=timedelta(days=3), source=source("sales"), tags=TAGS,
    schema=[
        Field(name="shop", dtype=String), Field(name="turnover", dtype=Float64), Field(name="visits", dtype=Int64),
        Field(name="open", dtype=Bool), Field(name="kind", dtype=String), Field(name="opened_at", dtype=UnixTimestamp),
        Field(name="size", dtype=Float32), Field(name="floors", dtype=Int32),
    ],
)
stock = FeatureView(
    name="stock", entities=[shop, item], ttl=timedelta(days=1), source=source("stock"), tags=TAGS,
    schema=[Field(name="shop", dtype=String), Field(name="item", dtype=Int64), Field(name="pieces", dtype=Float64)],
)
weather = FeatureView(
    name="weather", entities=[city], ttl=None, source=source("weather"), tags=TAGS,
    schema=[Field(name="city", dtype=String), Field(name="rain", dtype=Float64), Field(name="wind", dtype=Float64)],
)


@on_demand_feature_view(
    sources=[
        RequestSource(
            name="order", schema=[Field(name="amount", dtype=Float64), Field(name="at", dtype=UnixTimestamp)]
        ),
        stock[["pieces"]],
    ],
    schema=[Field(name="share", dtype=Float64), Field(name="hour", dtype=Int64), Field(name="label", dtype=String)],
    mode="python",
    tags=TAGS,
)
def order(inputs):
    return {
        "share": [
            None if pieces is None else amount / (pieces + 1)
            for amount, pieces in zip(inputs["amount"], inputs["pieces"])
        ],
        "hour": [at.hour for at in inputs["at"]],
        "label": ["large" if amount > 5 else "small" for amount in inputs["amount"]],
    }


delivery_v1 = FeatureService(
    name="delivery_v1",
    features=[
        order, sales,
        weather[["rain"]].with_name("weather_here").with_join_key_map({"city": "city_from"}),
        weather[["wind"]].with_name("weather_there").with_join_key_map({"city": "city_to"}),
    ],
    tags=TAGS,
)
sales_v1 = FeatureService(name="sales_v1", features=[sales], tags=TAGS)
"""


def delivery(
    tmp_path: Path, overrides: Mapping[str, Any] | None = None, definitions: str = DEFINITIONS, name: str = "delivery"
) -> Location:
    """Write the repository and apply it; nothing is online."""
    repo, home = tmp_path / f"{name}-repo", tmp_path / f"{name}-home"
    repo.mkdir(parents=True)
    (home / "feast").mkdir(parents=True)
    (repo / "feature_store.yaml").write_text(SETTINGS.replace("project: shops", "project: delivery"))
    (repo / "definitions.py").write_text(definitions)
    location = Location(repo, home, overrides or {})
    apply_repo(location, ledger_of(home))
    return location


def fill(location: Location, at: datetime = NOON) -> None:
    """Put rows online: shops s0 to s59, whose items 0 to 2 are in stock, and weather of c0 to c4.

    Every seventh shop has no turnover, and those from s50 on are four days older than ``at``.
    """
    store = open_store(location)
    stamps = [at - timedelta(days=4) if n >= 50 else at - timedelta(minutes=n) for n in range(ROWS)]
    shops = [f"s{n}" for n in range(ROWS)]
    frames = {
        "sales": {
            "shop": shops,
            "turnover": [None if n % 7 == 3 else n * 1.1 for n in range(ROWS)],
            "visits": list(range(ROWS)),
            "open": [n % 2 == 0 for n in range(ROWS)],
            "kind": [["corner", "mall", "ünder"][n % 3] for n in range(ROWS)],
            "opened_at": [at - timedelta(days=400 + n) for n in range(ROWS)],
            "size": pd.Series([n / 3 for n in range(ROWS)], dtype="float32"),
            "floors": pd.Series([n % 4 for n in range(ROWS)], dtype="int32"),
            "event_timestamp": stamps,
        },
        "stock": {
            "shop": [shop for shop in shops for _ in range(3)],
            "item": [item for _ in shops for item in range(3)],
            "pieces": [float(n) for n in range(3 * ROWS)],
            "event_timestamp": [stamp for stamp in stamps for _ in range(3)],
        },
        "weather": {
            "city": [f"c{n}" for n in range(5)],
            "rain": [n / 10 for n in range(5)],
            "wind": [n * 10.0 for n in range(5)],
            "event_timestamp": [at] * 5,
        },
    }
    with quietly():
        for view, columns in frames.items():
            store.write_to_online_store(
                view, pd.DataFrame({**columns, "created_timestamp": columns["event_timestamp"]})
            )


def entity(n: int, **changes: Any) -> dict[str, Any]:
    """Return what is sent for the n-th order."""
    return {
        "shop": f"s{n % ROWS}",
        "item": n % 3,
        "city_from": f"c{n % 5}",
        "city_to": f"c{(n + 1) % 5}",
        "amount": float(n % 10),
        "at": NOON + timedelta(hours=n % 24),
        **changes,
    }
