"""Feast over each of its stores: applied, materialised, read; and what becomes of it when one fails."""

from __future__ import annotations

import shutil
import socket
import sqlite3
import time
import uuid
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import boto3
import pandas as pd
import pytest
from feast import FeatureStore
from sqlalchemy import create_engine, make_url, text

from airflow_mlops.engine.features.governance.apply import apply_repo, ensure_applied, last_applied
from airflow_mlops.engine.features.materialization.materialize import materialize
from airflow_mlops.engine.features.project.location import Location
from airflow_mlops.engine.features.project.settings import read_settings
from airflow_mlops.engine.features.project.store import feast_errors, open_store, ping_online
from airflow_mlops.exceptions import ConfigError, DataError, TransientError
from tests.feast_fixtures import ledger_of
from tests.ledger_fixtures import postgres_server
from tests.online_stores import (  # noqa: F401  fixtures
    client,
    dynamodb_online,
    dynamodb_settings,
    online,
    paused,
    redis_online,
    redis_settings,
    sqlite_settings,
    start_valkey,
)
from tests.small_features import PROJECT, SERVICE, day, price, sales, shops

LAST = day(3) - timedelta(hours=1)
KEYS = [{"shop": "ash", "item": 1}, {"shop": "cedar", "item": 2}, {"shop": "nowhere", "item": 2}]


def applied(tmp_path: Path, online_store: dict[str, Any] | None = None, **overrides: Any) -> Location:
    """Return a location with everything applied and three days materialised."""
    if online_store is not None:
        overrides["online_store"] = online_store
    location = shops(tmp_path, 3, overrides)
    ensure_applied(location, ledger_of(location.home))
    open_store(location).materialize(day(0), day(3))
    return location


def read(location: Location, store: FeatureStore | None = None) -> dict[str, list[Any]]:
    store = store or open_store(location)
    with feast_errors():
        return store.get_online_features(store.get_feature_service(SERVICE), KEYS).to_dict()


@contextmanager
def within(seconds: float) -> Iterator[None]:
    """Let what is inside take so long and no longer."""
    started = time.monotonic()
    yield
    assert time.monotonic() - started < seconds


def free_port() -> int:
    with closing(socket.socket()) as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


@pytest.fixture
def registry_url() -> str:
    """URL of an empty database on a real PostgreSQL."""
    name = f"feast_{uuid.uuid4().hex}"
    with create_engine(postgres_server(), isolation_level="AUTOCOMMIT").connect() as connection:
        connection.execute(text(f"create database {name}"))
    url = make_url(postgres_server()).set(database=name, drivername="postgresql+psycopg")
    return url.render_as_string(hide_password=False)


# --- every store ----------------------------------------------------------------------------------------------


def test_applies_materialises_and_reads(tmp_path, online):  # noqa: F811
    location = applied(tmp_path, online)
    found = read(location)
    assert found["sales"] == [sales("ash", LAST), sales("cedar", LAST), None]
    assert found["price"] == [price(1, day(2)), price(2, day(2)), price(2, day(2))]
    assert ping_online(open_store(location)) == "the online store answers"


@pytest.mark.parametrize("driver", ["postgresql+psycopg", "postgresql+psycopg2"])
def test_the_registry_may_be_on_postgresql(tmp_path, registry_url, driver):
    url = registry_url.replace("postgresql+psycopg:", f"{driver}:")
    location = applied(tmp_path, registry={"registry_type": "sql", "path": url})
    assert not (location.home / "feast" / "registry.db").exists()
    assert read(location)["sales"][0] == sales("ash", LAST)


def test_the_registry_alone_is_enough_to_read(tmp_path):
    location = applied(tmp_path)
    settings = read_settings(location)
    alone = Location(None, location.home, {key: settings[key] for key in ("project", "registry", "online_store")})
    assert read(alone) == read(location)
    store = open_store(alone)
    asked = pd.DataFrame([{**KEYS[0], "event_timestamp": LAST}])
    trained = store.get_historical_features(asked, store.get_feature_service(SERVICE)).to_df()
    assert trained["sales"].tolist() == [sales("ash", LAST)]
    ledger = ledger_of(location.home)
    registered, known = ensure_applied(alone, ledger), last_applied(location, ledger)
    assert registered == last_applied(alone, ledger)
    assert (registered.views, registered.services) == (known.views, known.services)
    with pytest.raises(ConfigError, match=r"no feature repository here, only its registry(.|\n)*fix:"):
        apply_repo(alone, ledger)
    with pytest.raises(ConfigError, match="Feast project has no name"):
        open_store(replace(alone, overrides={"registry": settings["registry"]}))


def test_is_applied_again_to_another_store_but_not_for_a_new_password(tmp_path):
    server = start_valkey()
    server.client().config_set("requirepass", "one")
    location = applied(tmp_path, redis_settings(server, "password=one"))
    ledger = ledger_of(location.home)
    first = last_applied(location, ledger)
    rotated = replace(location, overrides={"online_store": redis_settings(server, "password=two")})
    assert ensure_applied(rotated, ledger) == first
    other = replace(location, overrides={"online_store": sqlite_settings(location.home)})
    assert ensure_applied(other, ledger).hash != first.hash
    assert ping_online(open_store(other)) == "the online store answers"
    server.stop()


def test_what_was_lost_online_is_made_again_and_materialised_anew(tmp_path):
    location = shops(tmp_path, 3)
    ledger = ledger_of(location.home)
    materialize(location, SERVICE, until=day(3), ledger=ledger)
    (location.home / "feast" / "online.db").unlink()
    with pytest.raises(DataError, match=r"lacks a table(.|\n)*Run FeastApplyOperator, then materialise"):
        read(location)
    apply_repo(location, ledger)
    materialize(location, SERVICE, until=day(3), ledger=ledger)
    assert read(location)["sales"] == [sales("ash", LAST), sales("cedar", LAST), None]


# --- the registry fails ---------------------------------------------------------------------------------------


def test_a_locked_registry_is_waited_for_and_then_told(tmp_path):
    location = applied(tmp_path)
    quick = {"sqlalchemy_config_kwargs": {"connect_args": {"timeout": 0.5}}}
    impatient = replace(location, overrides={"registry": quick})
    before = last_applied(location, ledger_of(location.home))
    with closing(sqlite3.connect(location.home / "feast" / "registry.db")) as writer:
        writer.execute("begin exclusive")
        with within(20), pytest.raises(TransientError, match=r"locked by another writer(.|\n)*Nothing was written"):
            apply_repo(impatient, ledger_of(location.home))
    assert last_applied(location, ledger_of(location.home)) == before
    assert read(location)["sales"][0] == sales("ash", LAST)


@pytest.mark.parametrize("damage", [lambda good: b"garbage " * 500, lambda good: good[: len(good) // 2 // 4096 * 4096]])
def test_a_damaged_sql_registry_is_told_and_can_be_made_again(tmp_path, damage):
    location = applied(tmp_path)
    file = location.home / "feast" / "registry.db"
    damaged = damage(file.read_bytes())
    file.write_bytes(damaged)
    with pytest.raises(DataError, match=r"not readable(.|\n)*nothing is lost"):
        open_store(location)
    assert file.read_bytes() == damaged, "it may still be of use to somebody"
    file.unlink()
    apply_repo(location, ledger_of(location.home))
    assert read(location)["sales"][0] == sales("ash", LAST), "what was online stays there"


@pytest.mark.parametrize("damage", [lambda good: b"garbage", lambda good: good[: len(good) // 2]])
def test_a_damaged_registry_file_is_told(tmp_path, damage):
    path = tmp_path / "registry.pb"
    location = applied(tmp_path, registry={"registry_type": "file", "path": str(path)})
    assert read(location)["sales"][0] == sales("ash", LAST)
    damaged = damage(path.read_bytes())
    path.write_bytes(damaged)
    with pytest.raises(DataError, match=r"not readable(.|\n)*fix:"):
        open_store(location)
    assert path.read_bytes() == damaged


def test_a_registry_of_another_version_is_told(tmp_path):
    location = applied(tmp_path)
    with closing(sqlite3.connect(location.home / "feast" / "registry.db")) as database:
        database.execute("alter table feature_views rename column feature_view_proto to proto")
    with pytest.raises(DataError, match=r"lacks a table(.|\n)*feature_view_proto(.|\n)*another version of Feast"):
        open_store(location)


def test_a_registry_database_that_is_down_or_refuses_is_told(tmp_path, registry_url):
    def opened(url: str) -> None:
        open_store(shops(tmp_path, 1, {"registry": {"registry_type": "sql", "path": url}}, name=uuid.uuid4().hex))

    with within(15), pytest.raises(TransientError, match=r"does not answer(.|\n)*refused") as caught:
        opened(f"postgresql+psycopg://feast:hunter2@127.0.0.1:{free_port()}/feast")
    assert "hunter2" not in str(caught.value)
    url = make_url(registry_url).set(database="nowhere")
    with pytest.raises(ConfigError, match=r"is not there(.|\n)*nowhere"):
        opened(url.render_as_string(hide_password=False))
    with pytest.raises(ConfigError, match=r"refuses the credentials(.|\n)*stranger"):
        opened(make_url(registry_url).set(username="stranger").render_as_string(hide_password=False))


@pytest.mark.parametrize(
    "url", ["postgresql+psycopg://feast:hunter2@db:port/x", "nosuch://feast:hunter2@db/x", "hunter", "", "://hunter2"]
)
def test_a_url_that_is_none_is_told_without_its_password(tmp_path, url):
    location = shops(tmp_path, 1, {"registry": {"registry_type": "sql", "path": url}})
    with pytest.raises(ConfigError, match="URL of Feast's registry") as caught:
        open_store(location)
    assert "hunter2" not in str(caught.value)


# --- the online store fails -----------------------------------------------------------------------------------


def test_a_redis_that_went_down_is_told_in_time(tmp_path):
    server = start_valkey()
    location = applied(tmp_path, redis_settings(server))
    store = open_store(location)
    server.terminate()
    with within(30), pytest.raises(TransientError, match=r"does not answer(.|\n)*fix:"):
        read(location, store)


def test_a_redis_that_hangs_is_given_up_in_time(tmp_path):
    server = start_valkey()
    location = applied(tmp_path, redis_settings(server))
    store = open_store(replace(location, overrides={"online_store": redis_settings(server, "socket_timeout=0.5")}))
    with paused(server), within(20), pytest.raises(TransientError, match=r"does not answer(.|\n)*Timeout"):
        read(location, store)
    assert read(location, store)["sales"][0] == sales("ash", LAST), "it woke up"
    server.stop()


def test_a_redis_that_refuses_or_is_full_is_told(tmp_path):
    server = start_valkey()
    server.client().config_set("requirepass", "hunter2")
    with pytest.raises(ConfigError, match="refuses the credentials") as caught, feast_errors():
        applied(tmp_path, redis_settings(server, "password=wrong"))
    assert "wrong" not in str(caught.value)
    location = shops(tmp_path, 3, {"online_store": redis_settings(server, "password=hunter2")}, name="full")
    ensure_applied(location, ledger_of(location.home))
    client(server, password="hunter2").config_set("maxmemory", "1")
    with pytest.raises(TransientError, match="is full"), feast_errors():
        open_store(location).materialize(day(0), day(3))
    server.stop()


def test_a_dynamodb_that_is_down_or_hangs_is_told_in_time(tmp_path):
    with within(30), pytest.raises(TransientError, match=r"does not answer(.|\n)*EndpointConnectionError"):
        applied(tmp_path, dynamodb_settings(f"http://127.0.0.1:{free_port()}"))
    with closing(socket.create_server(("127.0.0.1", 0))) as deaf:
        port = deaf.getsockname()[1]
        settings = {**dynamodb_settings(f"http://127.0.0.1:{port}"), "read_timeout": 0.5}
        location = shops(tmp_path, 1, {"online_store": settings}, name="deaf")
        with within(30), pytest.raises(TransientError, match=r"does not answer(.|\n)*Timeout"):
            apply_repo(location, ledger_of(location.home))
    assert last_applied(location, ledger_of(location.home)) is None


def test_dynamodb_takes_the_credentials_of_the_settings_alone(tmp_path, monkeypatch, dynamodb_online):  # noqa: F811
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    location = applied(tmp_path, dynamodb_online)
    assert read(location)["sales"][0] == sales("ash", LAST)
    without = {name: value for name, value in dynamodb_online.items() if not name.startswith("aws_")}
    with pytest.raises(ConfigError, match=r"refuses the credentials(.|\n)*NoCredentials"):
        read(replace(location, overrides={"online_store": without}))
    store = open_store(location)
    assert dynamodb_online["aws_secret_access_key"] not in repr(store.config.online_store)


async def test_dynamodb_is_read_asynchronously_with_the_same_credentials(tmp_path, monkeypatch, dynamodb_online):  # noqa: F811
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name, raising=False)
    store = open_store(applied(tmp_path, dynamodb_online))
    await store.initialize()
    try:
        found = await store.get_online_features_async(store.get_feature_service(SERVICE), KEYS)
        assert found.to_dict()["sales"][0] == sales("ash", LAST)
    finally:
        await store.close()


def test_a_dynamodb_table_that_was_deleted_is_told_and_made_again(tmp_path, dynamodb_online):  # noqa: F811
    location = applied(tmp_path, dynamodb_online)
    tables = boto3.client(
        "dynamodb",
        region_name=dynamodb_online["region"],
        endpoint_url=dynamodb_online["endpoint_url"],
        aws_access_key_id=dynamodb_online["aws_access_key_id"],
        aws_secret_access_key=dynamodb_online["aws_secret_access_key"],
    )
    name = dynamodb_online["table_name_template"].format(project=PROJECT, table_name="shop_sales")
    tables.delete_table(TableName=name)
    with pytest.raises(DataError, match=r"lacks a table(.|\n)*then materialise"):
        read(location)
    apply_repo(location, ledger_of(location.home))
    assert read(location)["sales"][0] is None
    open_store(location).materialize(day(0), day(3))
    assert read(location)["sales"][0] == sales("ash", LAST)


def broken_sqlite(file: Path) -> None:
    file.write_bytes(b"no database at all" * 300)


@pytest.mark.parametrize(("harm", "words"), [(Path.unlink, "lacks a table"), (broken_sqlite, "not readable")])
def test_an_online_sqlite_that_is_gone_or_damaged_is_told_and_made_again(tmp_path, harm, words):
    location = applied(tmp_path)
    file = location.home / "feast" / "online.db"
    harm(file)
    with pytest.raises(DataError, match=rf"{words}(.|\n)*nothing is lost"):
        read(location)
    file.unlink()
    apply_repo(location, ledger_of(location.home))
    open_store(location).materialize(day(0), day(3))
    assert read(location)["sales"][0] == sales("ash", LAST)


def test_a_locked_online_sqlite_is_waited_for_and_then_told(tmp_path):
    location = applied(tmp_path)
    with closing(sqlite3.connect(location.home / "feast" / "online.db")) as writer:
        writer.execute("begin exclusive")
        with within(20), pytest.raises(TransientError, match="locked by another writer"):
            read(location)
    assert read(location)["sales"][0] == sales("ash", LAST)


# --- the source of a view fails -------------------------------------------------------------------------------


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:200])


@pytest.mark.parametrize("harm", [lambda file: shutil.rmtree(file.parent), cut])
def test_a_view_whose_source_vanished_or_is_damaged_is_named(tmp_path, harm):
    location = applied(tmp_path)
    harm(location.home / "features" / "item_price" / f"{day(1).date()}.parquet")
    store = open_store(location)
    with pytest.raises(DataError, match=r"rows of (a feature view|'item_price)(.|\n)*item_price"), feast_errors():
        store.materialize(day(0), day(3), feature_views=["item_price"])
    assert read(location)["price"][0] == price(1, day(2)), "what was online stays there"
