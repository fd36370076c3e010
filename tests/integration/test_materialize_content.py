"""What is online after ours is what is online after Feast's own, byte for byte; and newer values stay."""

from __future__ import annotations

import sqlite3
import textwrap
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from feast.value_type import ValueType
from redis import Redis

from airflow_mlops.engine.features.governance.apply import apply_repo
from airflow_mlops.engine.features.materialization.chunks import TICK
from airflow_mlops.engine.features.materialization.encode import encode_feature
from airflow_mlops.engine.features.materialization.materialize import materialize
from airflow_mlops.engine.features.project.location import Location
from airflow_mlops.engine.features.project.schema import feature_file
from airflow_mlops.engine.features.project.store import open_store
from airflow_mlops.exceptions import DataError
from tests.feast_fixtures import ledger_of
from tests.online_stores import dynamodb_online, online, redis_online, valkey_server  # noqa: F401

SETTINGS = """
project: kinds
provider: local
registry: {registry_type: sql, path: "sqlite:///${MLOPS_HOME}/feast/registry.db"}
offline_store: {type: duckdb}
online_store: {type: sqlite, path: "${MLOPS_HOME}/feast/online.db"}
entity_key_serialization_version: 3
"""
DEFINITIONS = """
import os
from datetime import timedelta
from feast import Entity, FeatureService, FeatureView, Field, FileSource, ValueType
from feast.data_format import ParquetFormat
from feast.types import Array, Bool, Float32, Float64, Int32, Int64, String, UnixTimestamp

TAGS = {"owner": "ann", "allowed_use": "*"}
def source(view, **more):
    return FileSource(
        name=view + "_rows", path=os.environ["MLOPS_HOME"] + "/features/" + view + "/*.parquet",
        file_format=ParquetFormat(), timestamp_field="event_timestamp", **more,
    )
text = Entity(name="text", join_keys=["text_id"], value_type=ValueType.STRING)
number = Entity(name="number", join_keys=["number_id"], value_type=ValueType.INT64)
small = Entity(name="small", join_keys=["small_id"], value_type=ValueType.INT32)
types = {
    "double": Float64, "single": Float32, "whole": Int64, "short": Int32, "word": String, "truth": Bool,
    "moment": UnixTimestamp, "many": Array(Float64), "words": Array(String), "nothing": Float64, "constant": Int64,
}
kinds = FeatureView(
    name="kinds", entities=[text], ttl=timedelta(days=9), tags=TAGS,
    source=source("kinds", created_timestamp_column="created_timestamp", field_mapping={"dbl": "double"}),
    schema=[Field(name="text_id", dtype=String), *(Field(name=n, dtype=t) for n, t in types.items())],
)
pairs = FeatureView(
    name="pairs", entities=[text, number], ttl=None, source=source("pairs"), tags=TAGS,
    schema=[Field(name="text_id", dtype=String), Field(name="number_id", dtype=Int64), Field(name="y", dtype=Float64)],
)
smalls = FeatureView(
    name="smalls", entities=[small], ttl=timedelta(days=9), source=source("smalls"), tags=TAGS,
    schema=[Field(name="small_id", dtype=Int32), Field(name="x", dtype=Float64)],
)
kinds_v1 = FeatureService(name="kinds_v1", features=[kinds, pairs, smalls], tags=TAGS)
"""
SERVICE, VIEWS = "kinds_v1", ["kinds", "pairs", "smalls"]
TIME = pa.timestamp("us", tz="UTC")


def day(n: int) -> datetime:
    return datetime(2024, 3, 1, tzinfo=UTC) + timedelta(days=n)


def write(home: Path, view: str, n: int, columns: dict[str, Any]) -> None:
    file = feature_file(home, view, str(day(n).date()))
    file.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns), file)


def times(n: int, *minutes: float) -> pa.Array:
    return pa.array([day(n) + timedelta(minutes=m) for m in minutes], TIME)


def write_kinds(home: Path) -> None:
    """Nulls, NaN, both zeros, large and negative numbers, several rows a key, ties broken by creation."""
    nan, inf = float("nan"), float("inf")
    write(home, "kinds", 0, {
        "text_id": ["a", "b", "c", "dé", "e", "a" * 300, "", "h"],
        "dbl": pa.array([1.5, None, nan, -0.0, 0.0, inf, 1e-308, 0.1]),
        "single": pa.array([0.1, None, nan, -0.0, 3.0, 1e30, 0.1, 0.1], pa.float32()),
        "whole": pa.array([0, -1, 2**62, 127, 128, -(2**63), 5, 5]),
        "short": pa.array([0, -1, 7, None, 128, None, 5, 5], pa.int32()),
        "word": pa.array(["x", "", None, "ü", "x", "long " * 60, "y", "z"]),
        "truth": pa.array([True, False, None, True, False, None, True, True]),
        "moment": pa.array([day(0), None, day(1) + TICK * 7, day(2), day(0), day(0), None, day(0)], TIME),
        "many": pa.array([[1.0, 2.0], [], None, [0.5], [1.0, 2.0], [], [3.0], [4.0]], pa.list_(pa.float64())),
        "words": pa.array([["x"], ["y", "z"], None, [], ["x"], ["x"], ["x"], ["x"]]),
        "nothing": pa.array([None] * 8, pa.float64()),
        "constant": pa.array([4] * 8),
        "event_timestamp": times(0, 0, 1, 2, 3, 4.5, 5, 1439, 7.00001),
        "created_timestamp": times(0, 0, 1, 2, 3, 4.5, 5, 1500, 7),
    })  # fmt: skip
    write(home, "kinds", 1, {
        "text_id": ["a", "a", "b", "new"],
        "dbl": pa.array([9.0, 2.5, 3.5, 4.5]),
        "single": pa.array([9.0, 2.5, 3.5, 4.5], pa.float32()),
        "whole": pa.array([9, 2, 3, 4]),
        "short": pa.array([9, 2, 3, 4], pa.int32()),
        "word": ["old", "A", "B", "N"],
        "truth": [False, True, False, True],
        "moment": pa.array([day(0), day(1), day(1), day(1)], TIME),
        "many": pa.array([[9.0], [2.0], [3.0], [4.0]]),
        "words": [["old"], ["A"], ["B"], ["N"]],
        "nothing": pa.array([None] * 4, pa.float64()),
        "constant": pa.array([4] * 4),
        "event_timestamp": times(1, 10, 10, 20, 30),
        "created_timestamp": times(1, 10, 11, 20, 30),
    })  # fmt: skip
    for n in range(2):
        write(home, "pairs", n, {
            "number_id": pa.array([1, 2, -3, 2**40]), "text_id": ["a", "a", "b", "ü"],
            "y": [n + 0.25, n + 0.5, n + 0.75, None], "event_timestamp": times(n, 1, 2, 3, 4),
        })  # fmt: skip
        write(home, "smalls", n, {
            "small_id": pa.array([1, -2, 3], pa.int32()), "x": [n + 0.25, 0.5, None],
            "event_timestamp": times(n, 1, 2, 3),
        })  # fmt: skip


def repository(folder: Path) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "feature_store.yaml").write_text(SETTINGS)
    (folder / "kinds.py").write_text(textwrap.dedent(DEFINITIONS))
    return folder


def located(tmp_path: Path, name: str, online_store: dict[str, Any] | None = None) -> Location:
    home = tmp_path / name
    home.mkdir()
    location = Location(repository(tmp_path / "repo"), home, {"online_store": online_store} if online_store else {})
    apply_repo(location, ledger_of(home))
    return location


def by_feast(location: Location, first: datetime, last: datetime, views: list[str] = VIEWS) -> None:
    open_store(location).materialize(first, last - TICK, views)


def by_us(location: Location, until: datetime) -> None:
    materialize(location, SERVICE, until=until, ledger=ledger_of(location.home))


def sqlite_content(location: Location) -> dict[str, list[Any]]:
    with sqlite3.connect(location.home / "feast" / "online.db") as connection:
        return {
            view: sorted(
                connection.execute(f"SELECT *, typeof(event_ts), typeof(created_ts) FROM kinds_{view}"), key=repr
            )
            for view in VIEWS
        }


def redis_content() -> dict[bytes, dict[bytes, bytes]]:
    server = valkey_server()
    client = Redis(server.host, server.port)
    return {key: client.hgetall(key) for key in client.scan_iter()}


@pytest.mark.parametrize("zone", ["UTC", "America/New_York"])
def test_sqlite_holds_what_feast_would_have_written(tmp_path, monkeypatch, zone):
    import time

    monkeypatch.setenv("TZ", zone)
    time.tzset()
    try:
        content = {}
        for name in ("feast", "ours"):
            location = located(tmp_path, name)
            write_kinds(location.home)
            by_feast(location, day(0), day(2)) if name == "feast" else by_us(location, day(2))
            content[name] = sqlite_content(location)
    finally:
        monkeypatch.undo()
        time.tzset()
    assert {view: len(rows) for view, rows in content["ours"].items()} == {"kinds": 9 * 11, "pairs": 4, "smalls": 3}
    assert content["ours"] == content["feast"]


def test_redis_holds_what_feast_would_have_written(tmp_path, redis_online):  # noqa: F811
    content = {}
    for name in ("feast", "ours"):
        location = located(tmp_path, name, redis_online)
        write_kinds(location.home)
        Redis.from_url(f"redis://{redis_online['connection_string']}").flushall()
        by_feast(location, day(0), day(2)) if name == "feast" else by_us(location, day(2))
        content[name] = redis_content()
    assert len(content["ours"]) == 9 + 4 + 3
    assert content["ours"] == content["feast"]


def test_keys_live_as_long_as_redis_was_told(tmp_path, redis_online):  # noqa: F811
    location = located(tmp_path, "home", {**redis_online, "key_ttl_seconds": 3600})
    write_kinds(location.home)
    by_us(location, day(2))
    server = valkey_server()
    client = Redis(server.host, server.port)
    assert {3590 < client.ttl(key) <= 3600 for key in client.scan_iter()} == {True}


def test_dynamodb_reads_as_after_feast(tmp_path, dynamodb_online):  # noqa: F811
    answers = {}
    for name in ("feast", "ours"):
        template = f"{name}.{dynamodb_online['table_name_template']}"
        location = located(tmp_path, name, {**dynamodb_online, "table_name_template": template})
        write_kinds(location.home)
        by_feast(location, day(0), day(2)) if name == "feast" else by_us(location, day(2))
        entities = [{"text_id": text} for text in ("a", "b", "c", "dé", "e", "new", "nobody")]
        store = open_store(location)
        names = [f"kinds:{field.name}" for field in store.get_feature_view("kinds").features]
        answers[name] = store.get_online_features(names, entities).to_dict(include_event_timestamps=True)
    assert repr(answers["ours"]) == repr(answers["feast"])
    assert answers["ours"]["word"] == ["A", "B", None, "ü", "x", "N", None]


def x_of(location: Location, number: int = 1) -> Any:
    answer = open_store(location).get_online_features(["smalls:x"], [{"small_id": number}])
    return answer.to_dict(include_event_timestamps=True)


@pytest.mark.parametrize("online", ["sqlite", "redis", "dynamodb"], indirect=True)
def test_older_rows_never_overwrite_newer_ones_and_corrected_rows_do(tmp_path, home, online):  # noqa: F811
    """Somebody's own job put a newer value online; and a day is computed again at the same moments."""
    location = Location(repository(tmp_path / "repo"), home, {"online_store": online})
    apply_repo(location, ledger_of(home))
    write_kinds(home)
    store = open_store(location)
    view = store.get_feature_view("smalls")
    from feast.utils import _convert_arrow_to_proto

    newer = pa.table({"small_id": pa.array([1], pa.int32()), "x": [77.0], "event_timestamp": times(1, 600)})
    store._get_provider().online_write_batch(
        store.config, view, _convert_arrow_to_proto(newer, view, {"small_id": ValueType.INT32}), lambda _: None
    )
    by_us(location, day(2))
    assert x_of(location)["x"] == [77.0]
    assert x_of(location, -2)["x"] == [0.5]

    write(home, "smalls", 1, {
        "small_id": pa.array([1, -2], pa.int32()), "x": [5.5, 6.5], "event_timestamp": times(1, 1, 2),
    })  # fmt: skip
    by_us(location, day(2))
    assert x_of(location)["x"] == [77.0]
    assert x_of(location, -2)["x"] == [6.5], "same event time, corrected value"


def test_whole_numbers_beside_nulls_keep_all_their_digits():
    """The one difference: Feast sends them through floating point."""
    column = encode_feature(pa.chunked_array([pa.array([2**62 + 1, None])]), ValueType.INT64)
    from feast.protos.feast.types.Value_pb2 import Value

    assert [Value.FromString(value).int64_val for value in column.by_row()] == [2**62 + 1, 0]
    assert column.texts_by_row() == [str(2**62 + 1), None]


def test_a_row_without_a_key_is_refused(tmp_path):
    location = located(tmp_path, "home")
    write_kinds(location.home)
    write(location.home, "smalls", 1, {
        "small_id": pa.array([1, None], pa.int32()), "x": [5.5, 6.5], "event_timestamp": times(1, 1, 2),
    })  # fmt: skip
    with pytest.raises(DataError, match="'small_id' is null in 1 of 4 rows of feature view 'smalls'"):
        by_us(location, day(2))


@pytest.mark.parametrize("view", ["kinds", "smalls"])
def test_a_column_of_another_type_is_named(tmp_path, view):
    location = located(tmp_path, "home")
    write_kinds(location.home)
    for n in range(2):
        table = pq.read_table(feature_file(location.home, view, str(day(n).date()))).slice(0, 1)
        column = "dbl" if view == "kinds" else "x"
        table = table.set_column(table.column_names.index(column), column, [pa.array(["two"])])
        pq.write_table(table, feature_file(location.home, view, str(day(n).date())))
    feature = "double" if view == "kinds" else "x"
    with pytest.raises(DataError, match=f"'{feature}' of feature view '{view}' is not of type Float64(.|\n)*string"):
        by_us(location, day(2))


def test_fractions_are_not_cut_off(tmp_path):
    location = located(tmp_path, "home")
    write_kinds(location.home)
    file = feature_file(location.home, "kinds", str(day(1).date()))
    table = pq.read_table(file)
    place = table.column_names.index("whole")
    pq.write_table(table.set_column(place, "whole", pa.array([9.0, 2.0, 6.5, 4.0])), file)
    first = feature_file(location.home, "kinds", str(day(0).date()))
    pq.write_table(pq.read_table(first).set_column(place, "whole", pa.array([1.0] * 8)), first)
    with pytest.raises(DataError, match="'whole' of the rows of feature view 'kinds' is of another type than the reg"):
        by_us(location, day(2))
    pq.write_table(table.set_column(place, "whole", pa.array([9.0, 2.0, None, 4.0])), file)
    by_us(location, day(2))
    answer = open_store(location).get_online_features(["kinds:whole"], [{"text_id": one} for one in ("a", "new")])
    assert answer.to_dict()["whole"] == [2, 4]


def test_the_file_of_the_online_store_may_be_removed(tmp_path):
    """Also after it was written: the watermark does not speak for an empty store."""
    location = located(tmp_path, "home")
    write_kinds(location.home)
    by_us(location, day(2))
    for file in (location.home / "feast").glob("online.db*"):
        file.unlink()
    by_us(location, day(2))
    assert len(sqlite_content(location)["smalls"]) == 3
