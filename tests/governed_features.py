"""A small feature repository to change: two stored views, one on demand, one service; and models that read it."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

from airflow_mlops.contracts import Deployment, Snapshot
from airflow_mlops.engine.features.governance.consumers import applied, record_model
from airflow_mlops.engine.features.project.location import Location
from airflow_mlops.engine.ledger import Ledger
from tests.small_features import SETTINGS, write_days, write_repo

DEFINITIONS = """
import os
from datetime import timedelta

from feast import Entity, FeatureService, FeatureView, Field, FileSource, RequestSource, ValueType
from feast.data_format import ParquetFormat
from feast.on_demand_feature_view import on_demand_feature_view
from feast.types import Float64, Int64

OWNED = {"owner": "shops@example.com"}


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
    schema=[Field(name="sales", dtype=Float64), Field(name="visits", dtype=Int64)],  # shop_sales
    tags={**OWNED},  # tags of shop_sales
)
item_price = FeatureView(
    name="item_price", entities=[item], ttl=timedelta(days=7), source=source("item_price"),
    schema=[Field(name="price", dtype=Float64)],
    tags={**OWNED},  # tags of item_price
)
basket = RequestSource(name="basket", schema=[Field(name="pieces", dtype=Float64)])


@on_demand_feature_view(
    sources=[basket, item_price], schema=[Field(name="worth", dtype=Float64)], mode="python", tags=OWNED
)
def basket_worth(inputs):
    return {"worth": [n * p if p is not None else None for n, p in zip(inputs["pieces"], inputs["price"])]}


shop_v1 = FeatureService(
    name="shop_v1", features=[shop_sales[["sales"]], basket_worth],  # of shop_v1
    tags={**OWNED, "model": "turnover"},  # tags of shop_v1
)
"""


def governed(tmp_path: Path, days: int = 0) -> Location:
    """Write the repository, and so many days of its features."""
    home = tmp_path / "home"
    home.mkdir()
    write_days(home, days)
    return Location(write_repo(tmp_path / "repo", DEFINITIONS, SETTINGS), home)


def edit(location: Location, old: str, new: str) -> None:
    """Change the definitions; ``old`` must be there once."""
    file = location.repo / "shops.py"
    text = file.read_text()
    assert text.count(old) == 1, (old, text.count(old))
    file.write_text(text.replace(old, new))


def ledger_of(location: Location) -> Ledger:
    return Ledger(f"sqlite:///{location.home}/ledger.db")


def snapshot_of(ledger: Ledger, service: str = "shop_v1", code: str = "", project: str = "shops") -> Snapshot:
    """A snapshot of a service as it is applied now, without its rows."""
    repo = applied(ledger, project)
    moment = datetime(2024, 3, 1, tzinfo=UTC)
    return Snapshot(
        id=f"snapshot-of-{service}",
        uri="nowhere",
        model="turnover",
        partitions={},
        feature_service=service,
        feature_project=project,
        feature_definition=repo.definition_hash(service),
        feature_code=dict.fromkeys(repo.service(service).views, code) if code else {},
        features={"weekday": "int64", **repo.service(service).features},
        entity="visit",
        event_time="at",
        label="bought",
        as_of=moment,
        label_cut=moment,
        unlabelled_rows=0,
        splits={},
    )


def register(ledger: Ledger, version: int, service: str = "shop_v1", code: str = "", model: str = "turnover") -> None:
    """Write down that a version was trained on a service as it is applied now."""
    record_model(ledger, model, version, snapshot_of(ledger, service, code))


def serve(ledger: Ledger, stable: int, previous: int | None = None, model: str = "turnover") -> None:
    """Write down what serves."""
    name = f"deployment:tf_serving_default:{model}"
    loaded = tuple(version for version in (previous, stable) if version is not None)
    state = Deployment(server="tf_serving_default", model=model, stable=stable, previous=previous, loaded=loaded)
    assert ledger.swap(name, state.model_dump(mode="json"), ledger.pointer(name))
