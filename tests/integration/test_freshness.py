"""How old the features are that can really be read online: the engine, the sensor, its trigger, asset and metric."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from airflow.sdk import DAG
from airflow.sdk.exceptions import AirflowSensorTimeout
from airflow.sdk.execution_time.context import OutletEventAccessors
from airflow.sdk.observability import stats
from airflow.sdk.observability.metrics.stats_utils import get_stats_factory

from airflow_mlops.assets import features_asset
from airflow_mlops.engine.features.governance.apply import apply_repo
from airflow_mlops.engine.features.online.freshness import Freshness, freshness
from airflow_mlops.engine.features.online.reader import OnlineReader
from airflow_mlops.engine.features.project.location import Location
from airflow_mlops.engine.features.project.schema import feature_file
from airflow_mlops.engine.features.project.store import open_store, quietly
from airflow_mlops.exceptions import ConfigError
from airflow_mlops.sensors.feast import FeastFeatureFreshnessSensor
from airflow_mlops.triggers.feast import FeastFeatureFreshnessTrigger
from tests.feast_fixtures import ledger_of
from tests.online_stores import online, redis_online  # noqa: F401 - fixtures
from tests.small_features import DEFINITIONS, ITEMS, SERVICE, SHOPS, day, shops, write_repo

HOUR = timedelta(hours=1)
ASSET = features_asset("shopping")


def applied(location: Location) -> Location:
    apply_repo(location, ledger_of(location.home))
    return location


def put_online(location: Location, until: datetime, *views: str) -> None:
    with quietly():
        open_store(location).materialize(
            until - timedelta(days=7), until - timedelta(microseconds=1), list(views) or ["shop_sales", "item_price"]
        )


def look(location: Location, as_of: datetime, max_age: timedelta = timedelta(hours=26)) -> Freshness:
    return freshness(location, SERVICE, as_of=as_of, max_age=max_age)


def write_rows(home: Path, view: str, n: int, rows: list[tuple[object, float | None, datetime]], key: str) -> None:
    """Write a day's file of a view anew."""
    file = feature_file(home, view, str(day(n).date()))
    schema = pq.read_schema(file)
    names = [name for name in schema.names if name not in (key, "event_timestamp", "created_timestamp")]
    columns = {key: [row[0] for row in rows], **{name: [row[1] for row in rows] for name in names}}
    for name in ("event_timestamp", "created_timestamp"):
        columns[name] = [row[2] for row in rows]
    table = pa.table({name: pa.array(columns[name], schema.field(name).type) for name in schema.names})
    pq.write_table(table, file)


# --- the engine -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("online", ["sqlite", "redis"], indirect=True)
def test_ages_are_those_of_values_that_can_be_read(tmp_path, online):  # noqa: F811
    location = applied(shops(tmp_path, 4, {"online_store": online}))
    nothing = look(location, day(2))
    assert nothing.ages == {"shop_sales": None, "item_price": None}
    assert not nothing.fresh
    assert "shop_sales: nothing to read online (allowed 1 day, 2:00:00)" in [str(view) for view in nothing.stale]

    put_online(location, day(2), "shop_sales")
    assert look(location, day(2)).ages == {"shop_sales": 3600.0, "item_price": None}
    assert [view.view for view in look(location, day(2)).stale] == ["item_price"]
    put_online(location, day(2))
    found = look(location, day(2))
    assert found.fresh
    assert (found.project, found.service) == ("shops", SERVICE)
    assert found.ages == {"shop_sales": 3600.0, "item_price": 24 * 3600.0}
    assert found.views["item_price"].newest == day(1)

    late = look(location, day(4))
    assert late.ages == {"shop_sales": 49 * 3600.0, "item_price": 72 * 3600.0}
    assert not any(view.fresh for view in late.views.values())
    put_online(location, day(4))
    assert look(location, day(4)).fresh
    assert look(location, day(2)).ages == {"shop_sales": 0.0, "item_price": 0.0}, "newer than the day that is asked for"


def test_a_views_own_max_age_goes_before_the_services(tmp_path):
    location = shops(tmp_path, 4)
    own = DEFINITIONS.replace('tags={"owner"', 'tags={"max_age": "2d", "owner"', 1)
    assert own.index("max_age") < own.index("item_price = FeatureView(")
    write_repo(location.repo, own)
    applied(location)
    put_online(location, day(2))
    found = look(location, day(3), HOUR * 26)
    assert found.views["shop_sales"].max_age == 2 * 86400
    assert found.views["shop_sales"].fresh, "25 hours old"
    assert found.views["item_price"].max_age == 26 * 3600
    assert not found.views["item_price"].fresh, "48 hours old"


def test_what_is_past_its_time_to_live_is_not_fresh_however_old_it_may_be(tmp_path):
    location = applied(shops(tmp_path, 5))
    put_online(location, day(1), "shop_sales")
    assert look(location, day(4) - HOUR, timedelta(days=30)).views["shop_sales"].fresh
    found = look(location, day(4), timedelta(days=30)).views["shop_sales"]
    assert found.age == (timedelta(days=3) + HOUR).total_seconds()
    assert not found.fresh


def test_rows_without_a_value_count_for_nothing(tmp_path):
    location = shops(tmp_path, 2)
    write_rows(location.home, "shop_sales", 1, [(shop, None, day(1) + 20 * HOUR) for shop in SHOPS], "shop")
    applied(location)
    put_online(location, day(2), "shop_sales")
    assert look(location, day(2)).views["shop_sales"].age is None


def test_a_view_of_rare_events_is_fresh_while_nothing_newer_was_computed(tmp_path):
    """One row an event: days without one are no fault, as long as they were computed and the value lives."""
    location = shops(tmp_path, 6)
    for n in range(1, 6):
        write_rows(location.home, "item_price", n, [], "item")
    write_rows(location.home, "item_price", 1, [(2, 5.0, day(1) + 7 * HOUR)], "item")
    applied(location)
    put_online(location, day(2))

    def verdict(n: int) -> tuple[float | None, bool]:
        found = look(location, day(n)).views["item_price"]
        return found.age, found.fresh

    event = day(1) + 7 * HOUR
    assert verdict(2) == ((day(2) - event).total_seconds(), True)
    assert verdict(6) == ((day(6) - event).total_seconds(), True), "five days without a row"
    feature_file(location.home, "item_price", str(day(4).date())).unlink()
    assert not verdict(6)[1], "a day was not computed: it may have had rows"
    assert verdict(4)[1]
    write_rows(location.home, "item_price", 3, [(1, 6.0, day(3) + HOUR)], "item")
    assert not verdict(5)[1], "a newer row is not online"
    put_online(location, day(4), "item_price")
    assert verdict(4) == (23 * 3600.0, True)


def test_a_view_that_lags_a_day_is_read_for_those_who_were_there_then(tmp_path):
    location = shops(tmp_path, 3)
    write_rows(location.home, "item_price", 2, [(item + 100, 1.0, day(2) + HOUR) for item in ITEMS], "item")
    applied(location)
    put_online(location, day(2))
    assert look(location, day(3)).ages["item_price"] == 48 * 3600.0, "the items of the last day were never online"


def test_what_cannot_be_asked_is_explained(tmp_path):
    location = applied(shops(tmp_path, 1))
    with pytest.raises(ConfigError, match="Did you mean 'shop_v1'"):
        freshness(location, "shop_v2", as_of=day(1), max_age=HOUR)
    with pytest.raises(ConfigError, match=r"as_of=2024-03-02T00:00:00 has no time zone(.|\n)*fix:"):
        look(location, day(1).replace(tzinfo=None))
    for one in ({"shop": "ash", "item": 1}, {}):
        with pytest.raises(ConfigError, match=r"list of mappings(.|\n)*fix:"):
            OnlineReader(location, SERVICE).read(one)


# --- the Airflow floor ------------------------------------------------------------------------------------


@pytest.fixture
def shopping(tmp_path, monkeypatch) -> Location:
    """Features of two days, nothing online, and the connection to them."""
    location = applied(shops(tmp_path, 2))
    monkeypatch.setenv("AIRFLOW__MLOPS__HOME", str(location.home))
    monkeypatch.setenv("AIRFLOW_CONN_FEAST_DEFAULT", json.dumps({"conn_type": "feast", "host": str(location.repo)}))
    return location


@pytest.fixture
def statsd(monkeypatch) -> Iterator[socket.socket]:
    """A socket that Airflow sends its metrics to, as a worker is set up to."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as listening:
        listening.bind(("127.0.0.1", 0))
        listening.settimeout(0.3)
        monkeypatch.setenv("AIRFLOW__METRICS__STATSD_ON", "True")
        monkeypatch.setenv("AIRFLOW__METRICS__STATSD_PORT", str(listening.getsockname()[1]))
        stats.initialize(factory=get_stats_factory(), export_legacy_names=True)
        yield listening
    monkeypatch.undo()
    stats.initialize(factory=get_stats_factory(), export_legacy_names=True)


def sensor(**changes) -> FeastFeatureFreshnessSensor:
    arguments = {"service": SERVICE, "key": str(day(1).date()), "deferrable": True, "outlets": [ASSET]}
    with DAG("d", schedule=None):
        return FeastFeatureFreshnessSensor(task_id="t", **{**arguments, **changes})


def a_context() -> dict:
    return {"outlet_events": OutletEventAccessors()}


def heard(listening: socket.socket) -> set[str]:
    found = set()
    while True:
        try:
            found.add(listening.recv(1024).decode())
        except TimeoutError:
            return found


def test_the_sensor_tells_ages_to_whoever_waits_for_the_asset(shopping):
    context = a_context()
    assert sensor().look(context) is None
    assert not context["outlet_events"][ASSET].extra, "no event says what is not so"
    put_online(shopping, day(2))
    ages = sensor().execute(context)
    assert ages == {"shop_sales": 3600.0, "item_price": 86400.0}
    assert json.loads(json.dumps(ages)) == ages
    assert context["outlet_events"][ASSET].extra == {"age_seconds": ages}


@pytest.mark.parametrize("tagged", [False, True])
def test_ages_are_a_metric_fresh_or_not(shopping, statsd, monkeypatch, tagged):
    if tagged:
        monkeypatch.setenv("AIRFLOW__METRICS__STATSD_INFLUXDB_ENABLED", "True")
        stats.initialize(factory=get_stats_factory(), export_legacy_names=True)
    name = "airflow.mlops.feature_age_seconds"
    put_online(shopping, day(2), "shop_sales")
    assert sensor().look(a_context()) is None, "prices are not there"
    sales = f"{name},project=shops,view=shop_sales" if tagged else f"{name}.shops.shop_sales"
    assert heard(statsd) == {f"{sales}:3600.0|g"}
    put_online(shopping, day(2))
    sensor().look(a_context())
    assert heard(statsd) == {f"{sales}:3600.0|g", f"{sales.replace('shop_sales', 'item_price')}:86400.0|g"}


def test_a_sensor_that_gives_up_says_which_views_and_how_old(shopping):
    put_online(shopping, day(1))
    words = r"seen:  shop_sales: 1 day, 1:00:00 old, of 2024-03-01 23:00 UTC \(allowed 20:00:00\); item_price: 2 days"
    with pytest.raises(AirflowSensorTimeout, match=words):
        sensor(deferrable=False, max_age="20h", timeout=0.1, poke_interval=0.05).execute(a_context())


async def test_the_trigger_gives_up_with_the_same_words_and_one_event(shopping):
    put_online(shopping, day(2), "item_price")
    trigger = trigger_of(shopping.home, time.time() + 0.2)
    [event] = [event.payload async for event in trigger.run()]
    assert event["status"] == "timeout"
    assert event["seen"] == "shop_sales: nothing to read online (allowed 1 day, 2:00:00)"
    with pytest.raises(AirflowSensorTimeout, match="shop_sales: nothing to read online"):
        sensor().execute_complete(a_context(), event)


async def test_the_trigger_ends_the_wait_and_the_sensor_tells(shopping, statsd):
    put_online(shopping, day(2))
    [event] = [event.payload async for event in trigger_of(shopping.home, time.time() + 60).run()]
    assert json.loads(json.dumps(event)) == event
    context = a_context()
    ages = sensor().execute_complete(context, event)
    assert ages == {"shop_sales": 3600.0, "item_price": 86400.0}
    assert context["outlet_events"][ASSET].extra == {"age_seconds": ages}
    assert "airflow.mlops.feature_age_seconds.shops.item_price:86400.0|g" in heard(statsd)


async def test_the_trigger_sees_what_comes_online_while_it_waits(shopping, monkeypatch):
    trigger = trigger_of(shopping.home, time.time() + 60)
    poll, polls = trigger.poll, []

    def counting():
        polls.append(poll())
        if len(polls) == 1:
            put_online(shopping, day(2))
        return polls[-1]

    monkeypatch.setattr(trigger, "poll", counting)
    [event] = [event.payload async for event in trigger.run()]
    assert [found is None for found in polls] == [True, False]
    assert event["result"]["ages"] == {"shop_sales": 3600.0, "item_price": 86400.0}


async def test_the_trigger_says_what_is_wrong(shopping):
    trigger = trigger_of(shopping.home, time.time() + 60, service="shop_v2")
    [event] = [event.payload async for event in trigger.run()]
    assert event["status"] == "error"
    assert "Did you mean 'shop_v1'" in event["headline"]


def trigger_of(home: Path, deadline: float, service: str = SERVICE) -> FeastFeatureFreshnessTrigger:
    return FeastFeatureFreshnessTrigger(
        home=str(home),
        service=service,
        key=str(day(1).date()),
        max_age="26h",
        feast_conn_id="feast_default",
        poll_interval=0.01,
        deadline=deadline,
    )
