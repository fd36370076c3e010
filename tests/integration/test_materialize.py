"""Materialisation plans what is due and no more, loses no day, and tells Feast's registry without locking reads."""

from __future__ import annotations

import json
import threading
from datetime import UTC, datetime, timedelta

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from feast.feature_view import FeatureViewState

from airflow_mlops.engine.features.governance.apply import apply_repo
from airflow_mlops.engine.features.materialization.materialize import materialize, materialize_chunk, plan_chunks
from airflow_mlops.engine.features.materialization.watermarks import watermarks
from airflow_mlops.engine.features.project.location import Location
from airflow_mlops.engine.features.project.schema import feature_file
from airflow_mlops.engine.features.project.store import open_store
from airflow_mlops.exceptions import ConfigError, DataError, TransientError
from tests.feast_fixtures import ledger_of
from tests.small_features import (
    DEFINITIONS,
    PROJECT,
    SERVICE,
    SETTINGS,
    day,
    price,
    sales,
    shops,
    write_days,
    write_repo,
)

VIEWS = ["shop_sales", "item_price"]
FILE_REGISTRY = SETTINGS.replace("registry_type: sql", "registry_type: file").replace(
    "sqlite:///${MLOPS_HOME}", "${MLOPS_HOME}"
)


@pytest.fixture
def location(tmp_path) -> Location:
    return shops(tmp_path, days=5)


def bring(location: Location, n: float) -> dict:
    return materialize(location, SERVICE, until=day(0) + timedelta(days=n), ledger=ledger_of(location.home))["views"]


def planned(location: Location, n: float, **more) -> list[dict]:
    return plan_chunks(location, SERVICE, until=day(0) + timedelta(days=n), ledger=ledger_of(location.home), **more)


def write_chunk(location: Location, chunk: dict) -> dict:
    return materialize_chunk(location, json.loads(json.dumps(chunk)), ledger=ledger_of(location.home))


def marks(location: Location):
    return watermarks(ledger_of(location.home), PROJECT, VIEWS)


def online(location: Location, shop: str = "ash", item: int = 1) -> tuple:
    found = open_store(location).get_online_features(
        ["shop_sales:sales", "item_price:price"], [{"shop": shop, "item": item}]
    )
    return found.to_dict()["sales"][0], found.to_dict()["price"][0]


def expected(n: int, shop: str = "ash", item: int = 1) -> tuple:
    """What is online once everything before the n-th midnight is."""
    return sales(shop, day(n) - timedelta(hours=1)), price(item, day(n - 1))


def intervals(location: Location, view: str) -> list[tuple[datetime, datetime]]:
    return open_store(location).get_feature_view(view).materialization_intervals


def day_file(location: Location, view: str, n: int):
    return feature_file(location.home, view, str(day(n).date()))


def change(location: Location, view: str, n: int, column: str, add: float) -> None:
    """Compute a day again: the same rows, other values."""
    file = day_file(location, view, n)
    table = pq.read_table(file)
    added = pc.add(table[column], pa.scalar(add, table[column].type))
    pq.write_table(table.set_column(table.column_names.index(column), column, added), file)


# --- what is due ------------------------------------------------------------------------------------------


def test_goes_on_where_it_ended_and_never_backwards(location):
    first = bring(location, 2)
    assert first["shop_sales"] == {"online": True, "start": day(0).isoformat(), "watermark": day(2).isoformat()}
    second = bring(location, 4)
    assert {view["start"] for view in second.values()} == {day(2).isoformat()}
    assert online(location) == expected(4)
    again = bring(location, 4)
    assert {(view["start"], view["online"]) for view in again.values()} == {(None, True)}
    older = bring(location, 3)
    assert {view["online"] for view in older.values()} == {False}, "it stays offline: newer values are online"
    assert {view["watermark"] for view in older.values()} == {day(4).isoformat()}
    assert online(location) == expected(4)


def test_what_is_not_served_any_more_is_not_written(location):
    write_days(location.home, 6, first=5)
    starts = {view: one["start"] for view, one in bring(location, 11).items()}
    assert starts == {"shop_sales": day(8).isoformat(), "item_price": day(4).isoformat()}, "times to live: 3 d, 7 d"


def test_a_day_that_was_not_computed_is_never_skipped(location):
    bring(location, 2)
    day_file(location, "item_price", 3).unlink()
    with pytest.raises(DataError, match=r"'item_price' for 2024-03-04 were not computed(.|\n)*fix:"):
        planned(location, 5)
    with pytest.raises(DataError, match="'item_price' for 2024-03-04"):
        bring(location, 5)
    write_days(location.home, 1, first=3)
    assert bring(location, 5)["item_price"]["start"] == day(2).isoformat()
    assert online(location) == expected(5)


def test_a_day_that_disappears_between_plan_and_task_is_named(location):
    chunks = planned(location, 5)
    day_file(location, "item_price", 3).unlink()
    with pytest.raises(DataError, match="'item_price' for 2024-03-04 were not computed"):
        write_chunk(location, chunks[-1])
    assert marks(location)["item_price"].until is None


def test_chunks_are_cut_by_bytes_and_cover_everything(location):
    [whole] = [chunk for chunk in planned(location, 5) if chunk["view"] == "shop_sales"]
    assert whole["rows"] == 3 * 72, "three days of time to live"
    daily = whole["bytes"] // 3
    for limit, count in ((2.5 * daily, 2), (1.5 * daily, 3), (daily / 3.5, 12)):
        chunks = [one for one in planned(location, 5, chunk_bytes=int(limit)) if one["view"] == "shop_sales"]
        assert len(chunks) == count
        assert [chunk["start"] for chunk in chunks] == [day(2).isoformat(), *(chunk["end"] for chunk in chunks[:-1])]
        assert chunks[-1]["end"] == day(5).isoformat()
        assert all(chunk["bytes"] <= limit * 1.01 for chunk in chunks)
    prices = [one for one in planned(location, 5, chunk_bytes=1) if one["view"] == "item_price"]
    assert len(prices) == 5, "a day whose rows have one moment cannot be cut"


def test_chunks_may_finish_in_any_order_and_gaps_stay_visible(location):
    chunks = [one for one in planned(location, 5, chunk_bytes=1) if one["view"] == "item_price"]
    last = write_chunk(location, chunks[4])
    assert (last["rows"], last["watermark"]) == (2, None)
    write_chunk(location, chunks[1])
    assert write_chunk(location, chunks[0])["watermark"] == day(2).isoformat()
    assert marks(location)["item_price"].gaps == ((day(2), day(4)),)
    assert online(location)[1] == expected(5)[1], "what is older did not overwrite it"
    due = [one for one in planned(location, 5, chunk_bytes=1) if one["view"] == "item_price"]
    assert [one["start"] for one in due] == [day(2).isoformat(), day(3).isoformat()]
    write_days(location.home, 1, first=5)
    due = [one for one in planned(location, 6) if one["view"] == "item_price"]
    assert [(one["start"], one["end"]) for one in due] == [
        (day(2).isoformat(), day(4).isoformat()), (day(5).isoformat(), day(6).isoformat()),
    ]  # fmt: skip
    for chunk in due:
        write_chunk(location, chunk)
    assert (marks(location)["item_price"].until, marks(location)["item_price"].gaps) == (day(6), ())


def test_pieces_of_a_day_in_any_order(location):
    chunks = [one for one in planned(location, 5, chunk_bytes=2000) if one["view"] == "shop_sales"]
    assert len(chunks) == 6, "two a day"
    for chunk in reversed(chunks):
        write_chunk(location, chunk)
    assert marks(location)["shop_sales"].until == day(5)
    assert set(marks(location)["shop_sales"].files) == {str(day(n).date()) for n in (2, 3, 4)}
    assert planned(location, 5, chunk_bytes=2000)[0]["view"] == "item_price", "nothing of it is due"
    assert online(location)[0] == expected(5)[0]


def test_a_day_computed_again_is_written_again(location):
    bring(location, 5)
    change(location, "item_price", 4, "price", 100)
    change(location, "shop_sales", 1, "sales", 100)
    [due] = planned(location, 5)
    assert (due["view"], due["start"], due["end"]) == ("item_price", day(4).isoformat(), day(5).isoformat())
    assert bring(location, 5)["item_price"]["start"] == day(4).isoformat()
    assert online(location)[1] == expected(5)[1] + 100
    assert planned(location, 5) == []


def test_late_data_reaches_a_key_that_has_nothing_newer(location):
    """An older day gets a row of a key that had none; other keys keep their newer values."""
    bring(location, 5)
    file = day_file(location, "item_price", 2)
    late = pa.table({
        "item": pa.array([9, 1], pa.int64()), "price": [9.5, -1.0],
        "event_timestamp": pa.array([day(2)] * 2, pa.timestamp("us", tz="UTC")),
        "created_timestamp": pa.array([day(2)] * 2, pa.timestamp("us", tz="UTC")),
    })  # fmt: skip
    pq.write_table(late, file)
    assert online(location, item=9)[1] is None
    assert bring(location, 3)["item_price"] == {
        "online": True, "start": day(2).isoformat(), "watermark": day(5).isoformat(),
    }, "also in a run of an older partition"  # fmt: skip
    assert online(location, item=9)[1] == 9.5
    assert online(location)[1] == expected(5)[1]


@pytest.mark.parametrize("knowledge_time", [True, False])
def test_rows_that_are_not_known_yet_stay_out(tmp_path, knowledge_time):
    """Training does not see them either, unless it is told not to ask since when a value was known."""
    kind = "airflow_mlops.engine.features.offline.asof.AsofOfflineStore"
    settings = {"offline_store": {"type": kind, "knowledge_time": knowledge_time}}
    location = shops(tmp_path, days=5, overrides=settings)
    file = day_file(location, "item_price", 4)
    table = pq.read_table(file)
    created = {1: None, 2: datetime.now(UTC) + timedelta(days=1)}
    times = pa.array([created[item] for item in table["item"].to_pylist()], pa.timestamp("us", tz="UTC"))
    pq.write_table(table.set_column(table.column_names.index("created_timestamp"), "created_timestamp", times), file)
    bring(location, 5)
    for item in created:
        assert online(location, item=item)[1] == price(item, day(3 if knowledge_time else 4))


def test_a_file_replaced_while_it_is_read_is_written_again(location, monkeypatch):
    from airflow_mlops.engine.features.materialization import write as online_write

    read = online_write.read_latest

    def replaced_then_read(store, view, span):
        rows = read(store, view, span)
        if view.name == "item_price":
            change(location, "item_price", 4, "price", 100)
        return rows

    with monkeypatch.context() as patch:
        patch.setattr(online_write, "read_latest", replaced_then_read)
        bring(location, 5)
    assert online(location)[1] == expected(5)[1]
    bring(location, 5)
    assert online(location)[1] == expected(5)[1] + 100


def test_a_retried_chunk_does_nothing_twice(location):
    chunk = planned(location, 5)[0]
    assert write_chunk(location, chunk)["rows"] == 3
    assert write_chunk(location, chunk) == {**write_chunk(location, chunk), "rows": None}
    assert len(intervals(location, "shop_sales")) == 1


def test_another_online_store_starts_from_nothing(location, tmp_path):
    bring(location, 5)
    elsewhere = {"online_store": {"type": "sqlite", "path": str(tmp_path / "elsewhere.db")}}
    moved = Location(location.repo, location.home, elsewhere)
    assert bring(moved, 5)["shop_sales"]["start"] == day(2).isoformat()
    assert online(moved) == expected(5)


def test_a_watermark_of_the_first_release_is_understood(location):
    ledger = ledger_of(location.home)
    bring(location, 4)
    for view in VIEWS:
        name = f"feature_watermark:{PROJECT}:{view}"
        assert ledger.swap(name, {"until": day(4).isoformat()}, expected=ledger.pointer(name))
    assert {view["watermark"] for view in bring(location, 5).values()} == {day(5).isoformat()}
    assert online(location) == expected(5)


# --- bad input --------------------------------------------------------------------------------------------


def test_the_future_unknown_services_and_naive_moments_are_refused(location):
    ledger = ledger_of(location.home)
    soon = datetime.now(UTC) + timedelta(hours=1)
    with pytest.raises(ConfigError, match="into the future"):
        materialize(location, SERVICE, until=soon, ledger=ledger)
    with pytest.raises(ConfigError, match="into the future"):
        write_chunk(location, {**planned(location, 5)[0], "end": soon.isoformat()})
    with pytest.raises(ConfigError, match="Did you mean 'shop_v1'"):
        materialize(location, "shop_v", until=day(5), ledger=ledger)
    with pytest.raises(ConfigError, match="has no time zone"):
        materialize(location, SERVICE, until=day(5).replace(tzinfo=None), ledger=ledger)
    with pytest.raises(ConfigError, match="no feature view 'gone' any more"):
        write_chunk(location, {**planned(location, 5)[0], "view": "gone"})
    with pytest.raises(ConfigError, match="chunk_bytes=0"):
        planned(location, 5, chunk_bytes=0)
    with pytest.raises(ConfigError, match="start='yesterday' is not a moment"):
        write_chunk(location, {**planned(location, 5)[0], "start": "yesterday"})


def test_a_damaged_day_file_is_named(location):
    day_file(location, "item_price", 4).write_bytes(b"PAR1 not really")
    with pytest.raises(DataError, match="cannot be read"):
        bring(location, 5)
    assert marks(location)["item_price"].until is None


def test_a_locked_online_store_is_waited_for_or_said(location, monkeypatch):
    import sqlite3

    from airflow_mlops.engine.features.materialization import write_sqlite

    monkeypatch.setattr(write_sqlite, "_SECONDS_LOCKED", 0.2)
    bring(location, 4)
    with sqlite3.connect(location.home / "feast" / "online.db", isolation_level=None) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(TransientError, match="locked"):
            bring(location, 5)
        assert online(location) == expected(4), "reads go on"
        other.execute("ROLLBACK")
    bring(location, 5)
    assert online(location) == expected(5)


# --- what Feast's registry is told ------------------------------------------------------------------------


def test_intervals_are_recorded_and_survive_apply(location):
    for n in (2, 3, 5):
        bring(location, n)
    tick = timedelta(microseconds=1)
    assert intervals(location, "shop_sales") == [
        (day(0), day(2) - tick), (day(2), day(3) - tick), (day(3), day(5) - tick),
    ]  # fmt: skip
    write_repo(location.repo, DEFINITIONS.replace("ttl=timedelta(days=3)", "ttl=timedelta(days=4)"))
    apply_repo(location, ledger_of(location.home))
    view = open_store(location).get_feature_view("shop_sales")
    assert view.ttl == timedelta(days=4)
    assert len(view.materialization_intervals) == 3
    assert online(location) == expected(5), "and it can still be read"


@pytest.mark.parametrize("registry", ["sql", "file"])
def test_concurrent_chunks_lose_no_interval(location, registry):
    if registry == "file":
        write_repo(location.repo, settings=FILE_REGISTRY)
    chunks = planned(location, 5, chunk_bytes=1500)
    assert len(chunks) > 10
    failed = []

    def work(some: list[dict]) -> None:
        try:
            for chunk in some:
                write_chunk(location, chunk)
        except Exception as error:
            failed.append(error)

    threads = [threading.Thread(target=work, args=(chunks[n::3],)) for n in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == []
    assert {mark.until for mark in marks(location).values()} == {day(5)}
    assert sum(len(intervals(location, view)) for view in VIEWS) == len(chunks)
    assert online(location) == expected(5)


def test_whoever_reads_a_registry_in_a_file_reads_all_of_it(location):
    """Feast's own store empties the file first: a reader in that moment finds a project without anything in it."""
    write_repo(location.repo, settings=FILE_REGISTRY)
    bring(location, 1)
    file = location.home / "feast" / "registry.db"
    before = file.read_bytes()
    with file.open("rb") as reader:
        bring(location, 2)
        assert reader.read() == before, "the one it opened"
    assert file.read_bytes() != before


@pytest.mark.parametrize("registry", ["sql", "file"])
def test_a_view_left_marked_by_a_killed_run_of_feasts_own_is_readable_again(location, registry):
    if registry == "file":
        write_repo(location.repo, settings=FILE_REGISTRY)
    bring(location, 4)
    store = open_store(location)
    view = store.get_feature_view("shop_sales")
    view.state = FeatureViewState.MATERIALIZING  # what FeatureStore.materialize does first
    view.tags = {**view.tags, "changed": "too"}  # else the SQL registry sees no change, and forgets the mark
    store.registry.apply_feature_view(view, PROJECT)
    with pytest.raises(ValueError, match="in state 'MATERIALIZING' and cannot serve"):
        online(location)
    assert planned(location, 4) == []
    assert online(location) == expected(4)
    assert len(intervals(location, "shop_sales")) == 1


# --- views that are not ours to write ---------------------------------------------------------------------


def test_a_view_of_somebody_elses_files_is_read_through_its_offline_store(tmp_path):
    """No day files of ours: the window is one chunk, and no day can be missing."""
    location = shops(tmp_path, days=5)
    foreign = tmp_path / "lake"
    (location.home / "features" / "item_price").rename(foreign)
    definitions = DEFINITIONS.replace('source=source("item_price")', f"source={foreign_source(foreign)}")
    assert definitions != DEFINITIONS
    write_repo(location.repo, definitions)
    [chunk] = [one for one in planned(location, 5) if one["view"] == "item_price"]
    assert (chunk["start"], chunk["end"], chunk["rows"]) == (
        (day(5) - timedelta(days=7)).isoformat(),
        day(5).isoformat(),
        0,
    )
    bring(location, 4)
    assert online(location) == expected(4)
    bring(location, 5)
    assert online(location) == expected(5)
    assert marks(location)["item_price"].files == {}


def foreign_source(folder) -> str:
    return (
        f'FileSource(name="lake", path="{folder}/*.parquet", file_format=ParquetFormat(), '
        'timestamp_field="event_timestamp", created_timestamp_column="created_timestamp")'
    )


def test_a_view_that_feast_transforms_is_written_by_feast_in_one_go(location):
    """Its writer overwrites whatever is there, so a day computed again takes the later ones along."""
    definitions = DEFINITIONS.replace("from feast import", "from feast import BatchFeatureView,").replace(
        'item_price = FeatureView(\n    name="item_price"',
        'item_price = BatchFeatureView(\n    name="item_price", udf=lambda rows: rows.assign(price=rows.event_timestamp'
        '.dt.day * 1.0), udf_string="x", mode="pandas", online=True',
    )
    assert "BatchFeatureView(" in definitions
    write_repo(location.repo, definitions)
    bring(location, 5)
    assert online(location)[1] == 5.0
    change(location, "item_price", 2, "price", 100)
    [due] = planned(location, 5)
    assert (due["start"], due["end"]) == (day(2).isoformat(), day(5).isoformat())
    write_chunk(location, {**due, "end": day(3).isoformat()})
    assert online(location)[1] == 5.0, "an older chunk too takes along what is newer"
    assert marks(location)["item_price"].until == day(5)


def test_a_view_that_is_not_served_online_is_left_out(location):
    write_repo(location.repo, DEFINITIONS.replace('name="item_price",', 'name="item_price", online=False,'))
    assert {chunk["view"] for chunk in planned(location, 5)} == {"shop_sales"}
