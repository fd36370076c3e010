"""Airflow connections of type ``feast`` and what they link to, up to a value read from the real store behind them."""

from __future__ import annotations

import asyncio
import json
import logging
import uuid
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from airflow.sdk import DAG, BaseHook
from airflow.sdk._shared.secrets_masker.secrets_masker import redact
from sqlalchemy import create_engine, make_url, text

from airflow_mlops.engine.features.governance.apply import ensure_applied
from airflow_mlops.engine.features.materialization.watermarks import watermarks
from airflow_mlops.engine.features.online.reader import OnlineReader
from airflow_mlops.engine.features.project.location import Location
from airflow_mlops.engine.features.project.store import open_store
from airflow_mlops.engine.ledger import Ledger
from airflow_mlops.exceptions import ConfigError, TransientError
from airflow_mlops.hooks.feast import FeastHook
from airflow_mlops.operators.feast import (
    FeastApplyOperator,
    FeastMaterializeOperator,
    FeastPlanMaterializationOperator,
)
from airflow_mlops.sensors.feast import FeastFeatureFreshnessSensor
from airflow_mlops.triggers.feast import FeastFeatureFreshnessTrigger
from tests.feast_fixtures import ledger_of
from tests.integration.test_gx_floor import TaskInstance
from tests.ledger_fixtures import postgres_server
from tests.online_stores import ACCESS_KEY, REGION, SECRET_KEY, client, dynamodb_endpoint, start_valkey, valkey_server
from tests.small_features import PROJECT, SERVICE, day, price, sales, shops

LAST = day(3) - timedelta(hours=1)
AWKWARD = 'p@ss,w=rd "0:/% é'
Connect = Callable[..., str]


@pytest.fixture
def connect(monkeypatch) -> Connect:
    """Make an Airflow connection, and return its id."""

    def make(conn_id: str, conn_type: str, **fields: Any) -> str:
        monkeypatch.setenv(f"AIRFLOW_CONN_{conn_id.upper()}", json.dumps({"conn_type": conn_type, **fields}))
        return conn_id

    return make


@pytest.fixture
def place(tmp_path, monkeypatch) -> Location:
    """A repository with three days of features, and its home as option ``[mlops] home``."""
    location = shops(tmp_path)
    monkeypatch.setenv("AIRFLOW__MLOPS__HOME", str(location.home))
    return location


def hook(connect: Connect, place: Location | None, **extra: Any) -> FeastHook:
    host = {} if place is None else {"host": str(place.repo)}
    return FeastHook(connect(f"feast_{uuid.uuid4().hex[:6]}", "feast", **host, extra=extra))


def through(feast: FeastHook) -> dict[str, Any]:
    """Apply, materialise and read through a connection."""
    location = feast.location()
    ensure_applied(location, ledger_of(location.home))
    store = open_store(location)
    store.materialize(day(0), day(3))
    keys = [{"shop": "birch", "item": 2}]
    found = store.get_online_features(store.get_feature_service(SERVICE), keys).to_dict()
    return {name: values[0] for name, values in found.items()}


EXPECTED = {"sales": sales("birch", LAST), "price": price(2, day(2))}


# --- online stores by connection ------------------------------------------------------------------------------


def test_redis_by_a_connection_with_any_password(connect, place):
    server = start_valkey()
    server.client().config_set("requirepass", AWKWARD)
    extra = {"db": 3, "ssl": False}
    link = connect("valkey", "redis", host=server.host, port=server.port, password=AWKWARD, extra=extra)
    feast = hook(connect, place, online_conn_id=link)
    assert EXPECTED.items() <= through(feast).items()
    assert client(server, password=AWKWARD, db=3).dbsize() > 0
    assert client(server, password=AWKWARD, db=0).dbsize() == 0
    assert feast.check() == "Feast project 'shops': 2 feature views, 1 feature services; the online store answers"
    client(server, password=AWKWARD).config_set("requirepass", "changed")
    done, words = feast.test_connection()
    assert not done
    assert "refuses the credentials" in words
    server.stop()


@pytest.mark.parametrize("password", ["0123", "1e5", "true", "null", "a,b", "[]", "x=y", AWKWARD])
def test_a_password_comes_through_feasts_connection_string_as_it_is(connect, place, password):
    from feast.infra.online_stores.redis import RedisOnlineStore

    link = connect("valkey", "redis", host="h", login="user", password=password, extra={"ssl": True, "db": 0})
    section = hook(connect, place, online_conn_id=link).location().overrides["online_store"]
    nodes, parameters = RedisOnlineStore._parse_connection_string(section["connection_string"])
    assert nodes == [{"host": "h", "port": "6379"}]
    assert parameters == {"username": "user", "password": password, "ssl": True, "db": 0}


def test_redis_of_a_cluster_is_completed_by_what_the_connection_writes(connect, place):
    link = connect("valkey", "redis", host="h")
    written = {"redis_type": "redis_cluster", "key_ttl_seconds": 60}
    section = hook(connect, place, online_conn_id=link, online_store=written).location().overrides["online_store"]
    assert section == {"type": "redis", "connection_string": "h:6379", **written}


def test_dynamodb_by_an_aws_connection(connect, place, monkeypatch):
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    extra = {"region_name": REGION, "service_config": {"dynamodb": {"endpoint_url": dynamodb_endpoint()}}}
    link = connect("dynamo", "aws", login=ACCESS_KEY, password=SECRET_KEY, extra=extra)
    template = {"table_name_template": f"c{uuid.uuid4().hex[:6]}.{{project}}.{{table_name}}"}
    feast = hook(connect, place, online_conn_id=link, online_store=template)
    assert EXPECTED.items() <= through(feast).items()
    assert feast.check().endswith("the online store answers")


def test_the_role_of_an_aws_connection_is_assumed(connect, place):
    extra = {
        "region_name": REGION,
        "service_config": {"sts": {"endpoint_url": dynamodb_endpoint()}},
        "role_arn": "arn:aws:iam::123456789012:role/features",
    }
    link = connect("dynamo", "aws", login=ACCESS_KEY, password=SECRET_KEY, extra=extra)
    section = hook(connect, place, online_conn_id=link).location().overrides["online_store"]
    assert section["aws_access_key_id"] not in (None, ACCESS_KEY), "the role's own"
    assert section["aws_session_token"]


def test_postgresql_by_a_connection_for_the_online_store_and_the_registry(connect, place):
    url = make_url(postgres_server())
    name, password = f"feast_{uuid.uuid4().hex}", "s3cret/@:x"
    with create_engine(url, isolation_level="AUTOCOMMIT").connect() as connection:
        connection.execute(text(f"create database {name}"))
        connection.exec_driver_sql(f"create role {name} superuser login password '{password}'")
    link = connect("pg", "postgres", host=url.query["host"], schema=name, login=name, password=password)
    feast = hook(connect, place, online_conn_id=link, registry_conn_id=link)
    assert EXPECTED.items() <= through(feast).items()
    assert not (place.home / "feast" / "registry.db").exists()
    assert feast.check().endswith("the online store answers")
    with create_engine(url.set(database=name)).connect() as connection:
        tables = set(connection.execute(text("select tablename from pg_tables where schemaname='public'")).scalars())
    assert {"feature_views", "shops_shop_sales"} <= tables


# --- registries -----------------------------------------------------------------------------------------------


def test_a_registry_alone_by_url_by_connection_and_by_file(connect, place, tmp_path):
    file = place.home / "feast" / "registry.db"
    first = hook(connect, place)
    assert EXPECTED.items() <= through(first).items()
    online = {"type": "sqlite", "path": "${MLOPS_HOME}/feast/online.db"}
    alone = {"project": PROJECT, "online_store": json.dumps(online)}
    link = connect("registry", "sqlite", host=str(file))
    for where in ({"registry": f"sqlite:///{file}"}, {"registry_conn_id": link}):
        feast = hook(connect, None, **alone, **where)
        assert feast.repo_path is None
        assert feast.check().startswith("Feast project 'shops': 2 feature views")
        with pytest.raises(ConfigError, match="only its registry"):
            _ = feast.location().repo_folder
    proto = {"registry": str(tmp_path / "registry.pb")}
    assert EXPECTED.items() <= through(hook(connect, place, **proto)).items()
    assert (tmp_path / "registry.pb").exists()
    assert hook(connect, None, **alone, **proto).check().startswith("Feast project 'shops': 2 feature views")


def test_the_tls_of_a_mysql_connection_is_kept(connect, place):
    for tls in ({"ca": "/ca.pem"}, '{"ca": "/ca.pem"}'):
        link = connect("db", "mysql", host="h", schema="d", login="u", password="p", extra={"ssl": tls})
        registry = hook(connect, place, registry_conn_id=link).location().overrides["registry"]
        assert registry["sqlalchemy_config_kwargs"] == {"connect_args": {"ssl": {"ca": "/ca.pem"}}}


@pytest.mark.parametrize(
    ("conn_type", "extra", "path"),
    [
        (
            "postgres",
            {"sslmode": "require", "cursor": "dictcursor"},
            "postgresql+psycopg://u:p%40%3A%2F@h:5433/d?sslmode=require",
        ),
        ("mysql", {}, "mysql+pymysql://u:p%40%3A%2F@h:5433/d?charset=utf8mb4"),
    ],
)
def test_the_url_of_a_registry_by_connection(connect, place, conn_type, extra, path):
    link = connect("db", conn_type, host="h", port=5433, schema="d", login="u", password="p@:/", extra=extra)
    assert hook(connect, place, registry_conn_id=link).location().overrides == {
        "registry": {"registry_type": "sql", "path": path}
    }


@pytest.mark.parametrize(
    ("written", "section"),
    [
        ("postgresql://feast:${PW}@h/d", {"registry_type": "sql", "path": "postgresql+psycopg://feast:pw@h/d"}),
        ("s3://bucket/registry.pb", {"registry_type": "file", "path": "s3://bucket/registry.pb"}),
        ('{"registry_type": "sql", "path": "sqlite:///x.db"}', {"registry_type": "sql", "path": "sqlite:///x.db"}),
        ({"cache_ttl_seconds": 5}, {"cache_ttl_seconds": 5}),
    ],
)
def test_what_may_be_written_for_a_registry(connect, place, monkeypatch, written, section):
    monkeypatch.setenv("PW", "pw")
    assert hook(connect, place, registry=written).location().overrides == {"registry": section}


# --- the offline store ----------------------------------------------------------------------------------------


def test_the_offline_store_by_a_postgresql_connection(connect, place):
    link = connect("pg", "postgres", host="h", schema="d", login="u", password="p", extra={"sslmode": "require"})
    store = hook(connect, place, offline_conn_id=link, offline_store={"db_schema": "features"}).get_conn()
    offline = store.config.offline_store
    assert (offline.type, offline.host, offline.database, offline.db_schema) == ("postgres", "h", "d", "features")
    assert (offline.user, offline.password, offline.sslmode) == ("u", "p", "require")


# --- what is refused ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("extra", "words"),
    [
        ({"online_con_id": "x"}, r"unknown field 'online_con_id'\. Did you mean 'online_conn_id'"),
        ({"online_store": "{type: redis"}, r"wrong online_store(.|\n)*no JSON"),
        ({"offline_store": "[]"}, r"wrong offline_store(.|\n)*no JSON object"),
        ({"online_conn_id": "nowhere"}, r"no Airflow connection 'nowhere'(.|\n)*as its online_conn_id"),
        ({"online_conn_id": "web"}, r"No online store can be made of connection 'web'(.|\n)*aws, postgres, redis"),
        ({"registry_conn_id": "web"}, r"No registry can be made(.|\n)*mysql, postgres, sqlite"),
        ({"offline_conn_id": "web"}, r"No offline store can be made"),
        ({"online_conn_id": "hostless"}, r"'hostless' has no host"),
        ({"online_conn_id": "tokens"}, r"short-lived tokens"),
        ({"online_conn_id": "valkey", "online_store": {"type": "sqlite"}}, r"two kinds of online_store(.|\n)*'redis'"),
        ({"registry": "postgresql://feast:hunter2@db/feast"}, r"holds a password(.|\n)*registry_conn_id"),
        ({"online_store": {"type": "redis", "connection_string": "h:1,password=hunter2"}}, r"online_conn_id"),
        ({"online_store": '{"type": "x.YOnlineStore", "api_key": "hunter2"}'}, r"holds a password"),
        ({"offline_store": {"type": "snowflake.offline", "password": "hunter2"}}, r"holds a password"),
    ],
)
def test_what_cannot_work_or_would_show_a_secret_is_refused(connect, place, extra, words):
    connect("web", "http", host="h")
    connect("hostless", "redis")
    connect("valkey", "redis", host="h")
    connect("tokens", "postgres", host="h", schema="d", login="u", extra={"iam": True})
    feast = hook(connect, place, **extra)
    with pytest.raises(ConfigError, match=words) as caught:
        feast.location()
    assert "hunter2" not in str(caught.value)
    assert feast.test_connection() == (False, str(caught.value))


def test_neither_repository_nor_registry_is_refused(connect, place):
    with pytest.raises(ConfigError, match=r"has no feature repository(.|\n)*registry_conn_id"):
        hook(connect, None, project="shops").location()


# --- secrets --------------------------------------------------------------------------------------------------


def test_no_secret_is_shown(connect, place, caplog, monkeypatch):
    """Not by the location, not by an error, not in the ledger, and the log masks the form that it has in a URL."""
    caplog.set_level(logging.DEBUG)
    server, secret = start_valkey(), "hunter2/@:"
    server.client().config_set("requirepass", secret)
    link = connect("valkey", "redis", host=server.host, port=server.port, password=secret)
    feast = hook(connect, place, online_conn_id=link)
    assert EXPECTED.items() <= through(feast).items()
    location = feast.location()
    server.stop()
    _done, words = feast.test_connection()
    ledger = ledger_of(location.home)
    kept = ledger.pointer("feature_repo:shops").value
    for shown in (repr(location), words, str(kept), caplog.text, repr(feast)):
        assert "hunter2" not in shown
    pg = connect("pg", "postgres", host="h", schema="d", login="u", password=secret)
    url = hook(connect, place, registry_conn_id=pg).location().overrides["registry"]["path"]
    assert "hunter2%2F%40%3A" in url
    assert "hunter2" not in str(redact(f"cannot connect to {url}"))


# --- from a trigger -------------------------------------------------------------------------------------------


async def test_a_trigger_looks_every_connection_up_without_blocking(connect, place, monkeypatch):
    server = valkey_server()
    link = connect("valkey", "redis", host=server.host, port=server.port, extra={"db": 9})  # no other test's newer rows
    registry = connect("registry", "sqlite", host=str(place.home / "feast" / "registry.db"))
    feast = hook(connect, place, online_conn_id=link, registry_conn_id=registry)
    await asyncio.to_thread(through, feast)

    def blocking(conn_id: str) -> None:
        raise AssertionError(conn_id)

    monkeypatch.setattr(BaseHook, "get_connection", staticmethod(blocking))
    trigger = FeastFeatureFreshnessTrigger(
        home=str(place.home), service=SERVICE, key=str(day(2).date()), max_age="25h",
        feast_conn_id=feast.conn_id, poll_interval=1, deadline=0,
    )  # fmt: skip
    await trigger.prepare()
    found = await asyncio.to_thread(trigger.poll)
    assert found["ages"] == {"shop_sales": 3600.0, "item_price": 86400.0}


async def test_a_trigger_says_which_linked_connection_is_missing(connect, place):
    feast = hook(connect, place, online_conn_id="nowhere")
    with pytest.raises(ConfigError, match=r"no Airflow connection 'nowhere'(.|\n)*as its online_conn_id"):
        await feast.prefetch()


# --- the operators --------------------------------------------------------------------------------------------


@pytest.fixture
def ledger(connect, place) -> Ledger:
    connect("mlops_ledger_default", "mlops_ledger", host=f"sqlite:///{place.home}/ledger.db")
    return ledger_of(place.home)


def execute(cls: type, **arguments: Any) -> Any:
    with DAG("shops.features", schedule=None):
        operator = cls(task_id="t", **arguments)
    result = operator.execute({"ti": TaskInstance()})
    assert "hunter2" not in json.dumps(result), "an XCom is JSON, and no place for secrets"
    return result


def test_a_redis_that_is_down_loses_nothing(connect, place, ledger):
    """A day is materialised when the store is back: the watermark did not move, the task may be retried."""
    server = start_valkey()
    port = server.port
    client(server).config_set("requirepass", "hunter2")
    link = connect("valkey", "redis", host="127.0.0.1", port=port, password="hunter2")
    feast = hook(connect, place, online_conn_id=link).conn_id
    execute(FeastApplyOperator, feast_conn_id=feast)
    key = {"service": SERVICE, "feast_conn_id": feast}
    execute(FeastMaterializeOperator, key=str(day(0).date()), **key)
    [before] = watermarks(ledger, PROJECT, ["shop_sales"]).values()
    server.terminate()
    with pytest.raises(TransientError, match=r"does not answer(.|\n)*fix:"):  # and so Airflow retries it
        execute(FeastMaterializeOperator, key=str(day(1).date()), **key)
    assert watermarks(ledger, PROJECT, ["shop_sales"])["shop_sales"] == before
    again = start_valkey(port=port)
    client(again).config_set("requirepass", "hunter2")
    execute(FeastMaterializeOperator, key=str(day(1).date()), **key)
    reader = OnlineReader(FeastHook(feast).location(), SERVICE)
    [found] = reader.read([{"shop": "birch", "item": 2}])
    assert found["sales"] == sales("birch", day(2) - timedelta(hours=1))
    again.stop()


def test_the_operators_and_the_sensor_over_dynamodb_with_the_registry_on_postgresql(connect, place, ledger):
    url = make_url(postgres_server())
    name = f"feast_{uuid.uuid4().hex}"
    with create_engine(url, isolation_level="AUTOCOMMIT").connect() as connection:
        connection.execute(text(f"create database {name}"))
    registry = connect("pg", "postgres", host=url.query["host"], schema=name, login=url.username, password="hunter2")
    extra = {"region_name": REGION, "endpoint_url": dynamodb_endpoint()}
    dynamo = connect("dynamo", "aws", login=ACCESS_KEY, password="hunter2", extra=extra)
    template = {"table_name_template": f"o{uuid.uuid4().hex[:6]}.{{project}}.{{table_name}}"}
    feast = hook(connect, place, registry_conn_id=registry, online_conn_id=dynamo, online_store=template).conn_id
    key = {"service": SERVICE, "key": str(day(2).date()), "feast_conn_id": feast}
    assert execute(FeastApplyOperator, feast_conn_id=feast)
    for chunk in execute(FeastPlanMaterializationOperator, **key):
        execute(FeastMaterializeOperator, chunk=chunk, feast_conn_id=feast)
    assert execute(FeastPlanMaterializationOperator, **key) == []
    execute(FeastFeatureFreshnessSensor, max_age="25h", **key)
    [found] = OnlineReader(FeastHook(feast).location(), SERVICE).read([{"shop": "birch", "item": 2}])
    assert EXPECTED.items() <= found.items()
    assert not (place.home / "feast" / "registry.db").exists()
