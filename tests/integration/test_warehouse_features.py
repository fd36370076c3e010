"""Freshness and parity where the feature rows are a company's own: tables of PostgreSQL, through Feast's interface."""

from __future__ import annotations

import uuid
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import create_engine, make_url, text

from airflow_mlops.contracts import VerdictStatus
from airflow_mlops.engine.features.governance.apply import apply_repo
from airflow_mlops.engine.features.online.freshness import freshness
from airflow_mlops.engine.features.online.reader import OnlineReader
from airflow_mlops.engine.features.parity.check import Entities, check_parity
from airflow_mlops.engine.features.project.location import Location
from airflow_mlops.engine.features.project.store import open_store, quietly
from tests.feast_fixtures import ledger_of
from tests.ledger_fixtures import postgres_server
from tests.small_features import SERVICE, SETTINGS, SHOPS, day, write_repo

DEFINITIONS = """
from datetime import timedelta
from feast import Entity, FeatureService, FeatureView, Field, ValueType
from feast.infra.offline_stores.contrib.postgres_offline_store.postgres_source import PostgreSQLSource
from feast.types import Float64, Int64, String

source = PostgreSQLSource(
    name="sales_rows", query="SELECT * FROM sales", timestamp_field="happened", created_timestamp_column="written",
    field_mapping={"store": "shop"},
)
shop = Entity(name="shop", join_keys=["shop"], value_type=ValueType.STRING)
sales = FeatureView(
    name="sales", entities=[shop], ttl=timedelta(days=3), source=source,
    schema=[Field(name="shop", dtype=String), Field(name="turnover", dtype=Float64), Field(name="visits", dtype=Int64)],
    tags={"owner": "shops@example.com", "allowed_use": "*"},
)
shop_v1 = FeatureService(name="shop_v1", features=[sales], tags={"owner": "shops@example.com", "allowed_use": "*"})
"""


@pytest.fixture
def warehouse(tmp_path) -> tuple[Location, Any]:
    """Two days of sales in a table, nothing online."""
    name = f"sales_{uuid.uuid4().hex}"
    with create_engine(postgres_server(), isolation_level="AUTOCOMMIT").connect() as connection:
        connection.execute(text(f"create database {name}"))
    url = make_url(postgres_server()).set(database=name)
    engine = create_engine(url)
    with engine.begin() as connection:
        connection.execute(
            text(
                "create table sales (store text, turnover float8, visits int8, happened timestamptz,"
                " written timestamptz)"
            )
        )
        for n, shop in enumerate(SHOPS):
            for hour in range(48):
                at = day(0) + timedelta(hours=hour)
                values = {"s": shop, "t": 10.0 * n + hour / 3, "v": hour, "h": at, "w": at}
                connection.execute(text("insert into sales values (:s, :t, :v, :h, :w)"), values)
    offline = {
        "type": "postgres",
        "host": str(url.host or url.query["host"]),
        "port": url.port or 5432,
        "database": name,
        "db_schema": "public",
        "user": url.username or "postgres",
        "password": url.password or "unused",
    }
    home = tmp_path / "home"
    home.mkdir()
    repo: Path = write_repo(tmp_path / "repo", DEFINITIONS, SETTINGS)
    location = Location(repo, home, {"offline_store": offline})
    apply_repo(location, ledger_of(home))
    return location, engine


def put_online(location: Location) -> None:
    with quietly():
        open_store(location).materialize(day(0), day(2) - timedelta(seconds=1), ["sales"])


def test_freshness_asks_the_warehouse_for_whom_to_look(warehouse):
    location, _ = warehouse

    def look(as_of):
        return freshness(location, SERVICE, as_of=as_of, max_age=timedelta(hours=26)).views["sales"]

    assert (look(day(2)).age, look(day(2)).fresh) == (None, False)
    put_online(location)
    assert (look(day(2)).age, look(day(2)).fresh) == (3600.0, True)
    assert (look(day(3)).age, look(day(3)).fresh) == (25 * 3600.0, True)
    assert (look(day(4)).age, look(day(4)).fresh) == (None, False), "no row in the last 26 hours: nobody to look for"


def test_parity_asks_the_warehouse_for_what_training_reads(warehouse):
    location, engine = warehouse
    put_online(location)
    entities = Entities(rows=[{"shop": shop} for shop in (*SHOPS, "x")], ids=[*SHOPS, "x"], origin="shops")
    as_of = day(2) - timedelta(seconds=1)
    report = check_parity(location, SERVICE, entities, ledger=None, as_of=as_of)
    assert (report.status, report.reason) == (VerdictStatus.PASS, "")
    assert {one.compared for one in report.features} == {3}
    assert OnlineReader(location, SERVICE).read(entities.rows)[1] == {"turnover": 10.0 + 47 / 3, "visits": 47}
    with engine.begin() as connection:
        connection.execute(text("update sales set turnover = turnover + 1 where store = 'birch'"))
    report = check_parity(location, SERVICE, entities, ledger=None, as_of=as_of)
    assert [(one.feature, one.differing, one.examples) for one in report.failed] == [("turnover", 1, ("birch",))]
