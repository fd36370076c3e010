"""Reading a feature service online: Feast's values and types, faster; and what goes wrong, in words."""

from __future__ import annotations

import math
import sqlite3
import time
from datetime import UTC, datetime, timedelta

import numpy as np
import pandas as pd
import pytest
from feast.feature_view import FeatureViewState

from airflow_mlops.engine.features.online import access as online_access
from airflow_mlops.engine.features.online.reader import OnlineReader
from airflow_mlops.engine.features.project.store import open_store
from airflow_mlops.exceptions import ConfigError, DataError, TransientError
from tests.online_fixtures import DEFINITIONS, NOON, SERVICE, delivery, entity, fill
from tests.online_stores import dynamodb_settings, paused, redis_settings, start_valkey

KINDS = ("sqlite", "redis", "dynamodb")


@pytest.fixture(scope="module")
def servers():
    """A Valkey of this module's own, which may be paused."""
    server = start_valkey()
    yield {"sqlite": {}, "redis": {"online_store": redis_settings(server)}, "server": server}
    server.terminate()


@pytest.fixture(scope="module", params=KINDS)
def filled(request, servers, tmp_path_factory):
    """A location with rows online, on each store in turn."""
    kind = request.param
    overrides = {"online_store": dynamodb_settings()} if kind == "dynamodb" else servers[kind]
    location = delivery(tmp_path_factory.mktemp(kind), overrides)
    fill(location)
    return location


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A location with rows online, on SQLite."""
    location = delivery(tmp_path_factory.mktemp("files"))
    fill(location)
    return location


def feasts_answer(location, service: str, entities: list[dict]) -> list[dict]:
    store = open_store(location)
    answer = store.get_online_features(store.get_feature_service(service), entities).to_dict()
    return [{name: values[n] for name, values in answer.items()} for n in range(len(entities))]


def typed(row: dict) -> dict:
    return {name: (type(value), value) for name, value in row.items()}


# --- the values -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rows", [1, 137])
def test_values_and_types_are_those_of_feast(filled, rows):
    reader = OnlineReader(filled, SERVICE)
    entities = [entity(n * 3) for n in range(rows)]  # of 137 many are doubles
    ours, theirs = reader.read(entities), feasts_answer(filled, SERVICE, entities)
    assert len(ours) == rows
    for one, other in zip(ours, theirs, strict=True):
        assert typed(one) == typed({name: other[name] for name in one})
        assert set(other) - set(one) == {"shop", "item", "city_from", "city_to"}, "Feast repeats the join keys"
    assert list(ours[0]) == [
        "share", "hour", "label", "turnover", "visits", "open", "kind", "opened_at", "size", "floors", "rain", "wind",
    ]  # fmt: skip


def test_entities_that_are_not_there_are_missing_as_in_feast(filled):
    reader = OnlineReader(filled, SERVICE)
    entities = [entity(1), entity(2, shop="nowhere", city_to="nowhere"), entity(1)]
    ours = reader.read(entities)
    assert [typed(row) for row in ours] == [
        typed({name: row[name] for name in ours[0]}) for row in feasts_answer(filled, SERVICE, entities)
    ]
    assert ours[0] == ours[2]
    assert {name for name, value in ours[1].items() if value is None} == {
        "share", "turnover", "visits", "open", "kind", "opened_at", "size", "floors", "wind",
    }  # fmt: skip
    assert ours[1]["rain"] == 0.2


def test_a_null_key_has_no_features_and_spoils_no_other_row(filled):
    """Feast itself raises TypeError for all rows then."""
    reader = OnlineReader(filled, SERVICE)
    alone = reader.read([entity(1)])
    for null in (None, math.nan):
        first, second = reader.read([entity(2, shop=null), entity(1)])
        assert second == alone[0]
        assert first["turnover"] is None
        assert first["share"] is None
        assert first["rain"] == 0.2


def test_an_empty_list_is_an_empty_answer(files):
    assert OnlineReader(files, SERVICE).read([]) == []


def test_what_numpy_and_pandas_hold_is_read_as_the_registry_types_it(files):
    reader = OnlineReader(files, SERVICE)
    plain = reader.read([entity(4)])
    amount, moment = np.float32(entity(4)["amount"]), pd.Timestamp(entity(4)["at"]).tz_convert("America/New_York")
    assert reader.read([entity(4, item=np.int32(1), amount=amount, at=moment)]) == plain
    assert reader.read([entity(4, amount=4)]) == plain, "a whole number where a float is wanted"


def test_what_the_caller_must_send_is_listed(files):
    reader = OnlineReader(files, SERVICE)
    assert reader.keys == {"shop": "string", "item": "int64", "city_from": "string", "city_to": "string"}
    assert reader.request == {"amount": "double", "at": "timestamp[us, tz=UTC]"}


def test_as_of_hides_what_is_dead_and_what_is_newer(filled):
    """Shop 0 was stamped at noon, shop 55 four days earlier; weather has no time to live."""
    reader = OnlineReader(filled, SERVICE)

    def seen(number: int, as_of: datetime | None) -> set[str]:
        row = reader.read([entity(number)], as_of=as_of)[0]
        return {name for name in ("turnover", "share", "rain") if row[name] is not None}

    assert seen(60, None) == {"turnover", "rain", "share"}
    assert seen(60, NOON) == {"turnover", "rain", "share"}
    assert seen(60, NOON - timedelta(minutes=1)) == set()
    assert seen(60, NOON + timedelta(days=1)) == {"turnover", "rain", "share"}, "both ends count"
    assert seen(60, NOON + timedelta(days=1, seconds=1)) == {"turnover", "rain"}
    assert seen(60, NOON + timedelta(days=300)) == {"rain"}
    assert seen(55, None) == {"turnover", "rain", "share"}
    assert seen(55, NOON) == {"rain"}


def test_reads_on_while_a_view_is_being_materialised(filled):
    """Feast refuses then; what is online is as good as before."""
    reader = OnlineReader(filled, SERVICE)
    before = reader.read([entity(1)])
    _set_state(filled, FeatureViewState.MATERIALIZING)
    try:
        with pytest.raises(ValueError, match="MATERIALIZING"):
            feasts_answer(filled, SERVICE, [entity(1)])
        assert OnlineReader(filled, SERVICE).read([entity(1)]) == before
    finally:
        _set_state(filled, FeatureViewState.AVAILABLE_ONLINE)


def _set_state(location, state: FeatureViewState) -> None:
    """Leave a view as a materialisation in another process does; the registry keeps a changed view only."""
    store = open_store(location)
    view = store.get_feature_view("sales")
    view.state, view.description = state, state.name
    store.registry.apply_feature_view(view, store.project)


def test_an_on_demand_view_of_each_mode(tmp_path):
    one_by_one = DEFINITIONS.replace('mode="python",', 'mode="python", singleton=True,', 1)
    a, b = one_by_one.index("def order(inputs)"), one_by_one.index("delivery_v1 = ")
    scalar = "def order(row):\n    return {'share': row['amount'] / 2, 'hour': row['at'].hour, 'label': 'x'}\n\n\n"
    frame = (
        "def order(rows):\n    import pandas as pd\n    return pd.DataFrame({'share': rows['amount'] / 2, "
        "'hour': pd.to_datetime(rows['at'], utc=True).dt.hour.astype('int64'), 'label': 'x'})\n\n\n"
    )
    expected = [{"share": 2.0, "hour": 16, "label": "x"}, {"share": 4.5, "hour": 21, "label": "x"}]
    for name, text in (
        ("single", one_by_one[:a] + scalar + one_by_one[b:]),
        (
            "pandas",
            (one_by_one[:a] + frame + one_by_one[b:]).replace('mode="python", singleton=True,', 'mode="pandas",'),
        ),
    ):
        location = delivery(tmp_path, definitions=text, name=name)
        fill(location)
        found = OnlineReader(location, SERVICE).read([entity(4), entity(9)])
        assert [{key: row[key] for key in ("share", "hour", "label")} for row in found] == expected, name


# --- what goes wrong --------------------------------------------------------------------------------------


def without(column: str) -> dict:
    return {name: value for name, value in entity(1).items() if name != column}


@pytest.mark.parametrize(
    ("sent", "error", "words"),
    [
        ({**without("shop"), "shopp": "s1"}, ConfigError, "'shopp'.* Did you mean 'shop'"),
        ({**entity(1), "colour": "red"}, ConfigError, "column 'colour' that the service does not know"),
        (without("city_to"), ConfigError, "Entity 0 lacks the column 'city_to'"),
        (without("amount"), ConfigError, "Entity 0 lacks the column 'amount'"),
        (entity(1, shop=7), DataError, "'shop' of entity 0 has the wrong type(.|\n)*int where .* string"),
        (entity(1, item="1"), DataError, "'item' of entity 0 has the wrong type(.|\n)*str where .* int64"),
        (entity(1, item=1.5), DataError, "a whole number is wanted"),
        (entity(1, item=True), DataError, "a whole number is wanted"),
        (entity(1, item=2**70), DataError, "does not fit into 64 bits"),
        (entity(1, amount="much"), DataError, "'amount' of entity 0 has the wrong type(.|\n)*a number is wanted"),
        (entity(1, at=datetime(2024, 1, 1)), DataError, "'at' of entity 0 (.|\n)*no time zone"),  # noqa: DTZ001
        (entity(1, at="2024-01-01"), DataError, "a datetime is wanted"),
    ],
)
def test_what_was_sent_wrong_is_explained(files, sent, error, words):
    with pytest.raises(error, match=words) as raised:
        OnlineReader(files, SERVICE).read([sent])
    assert "fix:" in str(raised.value)


def test_the_entity_that_is_wrong_is_named(files):
    with pytest.raises(DataError, match="entity 2 has the wrong type"):
        OnlineReader(files, SERVICE).read([entity(0), entity(1), entity(2, item="x")])
    with pytest.raises(ConfigError, match="Entity 1 lacks"):
        OnlineReader(files, SERVICE).read([entity(0), without("item")])


def test_a_naive_as_of_and_an_unknown_service_are_explained(files):
    with pytest.raises(ConfigError, match=r"no time zone(.|\n)*fix:"):
        OnlineReader(files, SERVICE).read([entity(0)], as_of=datetime(2024, 1, 1))  # noqa: DTZ001
    with pytest.raises(ConfigError, match="Did you mean 'delivery_v1'"):
        OnlineReader(files, "delivery_v2")


def test_what_cannot_be_served_is_refused_when_the_reader_is_made(tmp_path):
    twice = DEFINITIONS.replace('[["wind"]].with_name("weather_there")', '[["rain"]].with_name("weather_there")')
    with pytest.raises(ConfigError, match=r"two features (.|\n)*rain"):
        OnlineReader(delivery(tmp_path, definitions=twice, name="twice"), SERVICE)
    offline = DEFINITIONS.replace('name="sales", entities=[shop],', 'name="sales", entities=[shop], online=False,')
    with pytest.raises(ConfigError, match=r"'sales' of 'delivery_v1' is not served online(.|\n)*online=False"):
        OnlineReader(delivery(tmp_path, definitions=offline, name="offline"), SERVICE)


@pytest.mark.parametrize(
    ("function", "words"),
    [
        ('return {"share": [1.0 / 0]}', "'order' failed(.|\n)*ZeroDivisionError"),
        ('return {"share": [1.0], "hour": [1]}', "'order' failed(.|\n)*does not answer 'label'"),
        ('return {"share": [1.0], "hour": [1, 2], "label": ["x"]}', "one value an entity(.|\n)*'hour': 2"),
        ('return {"share": ["much"], "hour": [1], "label": ["x"]}', "'order' failed"),
    ],
)
def test_an_on_demand_view_that_fails_is_named(tmp_path, function, words):
    text = DEFINITIONS.replace(
        "def order(inputs):\n", f"def order(inputs):\n    if inputs['amount'][0] == 3.25:\n        {function}\n"
    )
    location = delivery(tmp_path, definitions=text)
    fill(location)
    reader = OnlineReader(location, SERVICE)
    assert reader.read([entity(0)])[0]["label"] == "small"
    with pytest.raises(DataError, match=words):
        reader.read([entity(0, amount=3.25)])


def test_a_store_that_is_down_fails_in_words_and_soon(tmp_path):
    server = start_valkey()
    location = delivery(tmp_path, {"online_store": redis_settings(server)})
    fill(location)
    reader = OnlineReader(location, SERVICE)
    assert reader.read([entity(1)])[0]["visits"] == 1
    server.terminate()
    started = time.monotonic()
    with pytest.raises(TransientError, match=r"online store does not answer(.|\n)*refused(.|\n)*fix:"):
        reader.read([entity(1)])
    assert time.monotonic() - started < 5, "redis-py by itself goes on for long"


def test_a_link_that_was_cut_is_made_anew(servers, tmp_path):
    location = delivery(tmp_path, servers["redis"])
    fill(location)
    reader = OnlineReader(location, SERVICE)
    before = reader.read([entity(1)])
    servers["server"].client().execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
    assert reader.read([entity(1)]) == before


def test_a_store_that_hangs_fails_in_words_within_its_time(tmp_path):
    server = start_valkey()
    location = delivery(tmp_path, {"online_store": redis_settings(server, "socket_timeout=0.5")})
    fill(location)
    reader = OnlineReader(location, SERVICE)
    before = reader.read([entity(1)])
    started = time.monotonic()
    with paused(server), pytest.raises(TransientError, match=r"\(Redis\) did not answer in time(.|\n)*fix:"):
        reader.read([entity(1)])
    assert time.monotonic() - started < 4
    assert reader.read([entity(1)]) == before, "the late answer is not taken for that of the next read"
    server.terminate()


def test_any_other_store_is_left_when_its_time_is_up(tmp_path, monkeypatch):
    location = delivery(tmp_path, {"online_store": dynamodb_settings()})
    fill(location)
    reader = OnlineReader(location, SERVICE, timeout=0.3)
    slow = reader._access._provider.online_store
    read = slow.online_read

    def late(*args, **kwargs):
        time.sleep(1)
        return read(*args, **kwargs)

    monkeypatch.setattr(slow, "online_read", late)
    started = time.monotonic()
    with pytest.raises(TransientError, match=r"\(DynamoDB\) did not answer in time(.|\n)*waited 0.3 s"):
        reader.read([entity(1)])
    assert time.monotonic() - started < 0.9


def test_files_that_are_gone_locked_or_damaged_are_explained(tmp_path):
    location = delivery(tmp_path)
    fill(location)
    online = location.home / "feast" / "online.db"
    writer = sqlite3.connect(online, isolation_level=None)
    writer.execute("BEGIN EXCLUSIVE")
    started = time.monotonic()
    with pytest.raises(TransientError, match=r"locked by another writer(.|\n)*fix:"):
        OnlineReader(location, SERVICE).read([entity(1)])
    assert time.monotonic() - started < 10
    writer.close()
    online.write_bytes(b"not a database" * 400)
    with pytest.raises(DataError, match=r"is not readable(.|\n)*fix:"):
        OnlineReader(location, SERVICE).read([entity(1)])
    online.unlink()
    with pytest.raises(DataError, match=r"lacks a table(.|\n)*fix:"):
        OnlineReader(location, SERVICE).read([entity(1)])


def test_what_is_no_fault_of_the_store_is_raised_as_it_is():
    bug = RuntimeError("a bug")
    assert online_access._explained(bug, "Redis", 5) is None


def test_one_view_with_its_event_times(filled):
    reader = OnlineReader(filled, SERVICE)
    rows = reader.read_view("sales", [{"shop": "s3"}, {"shop": "nowhere"}, {"shop": "s55"}])
    assert [moment for moment, _ in rows] == [NOON - timedelta(minutes=3), None, NOON - timedelta(days=4)]
    assert [moment.tzinfo for moment, _ in rows if moment] == [UTC, UTC]
    assert rows[0][1][:3] == [None, 3, False]
