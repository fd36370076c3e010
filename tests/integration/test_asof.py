"""Edges of the point-in-time join: what counts, in which order rows come back, what is refused and how."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from feast import FeatureService, FeatureStore, FeatureView, Field, RequestSource
from feast.infra.offline_stores.file_source import SavedDatasetFileStorage
from feast.on_demand_feature_view import on_demand_feature_view
from feast.types import Float64, Int64, String

from airflow_mlops.engine.features.governance.apply import ensure_applied
from airflow_mlops.engine.features.offline import asof
from airflow_mlops.engine.features.offline.reading import reading_files
from airflow_mlops.engine.features.project.store import open_store
from airflow_mlops.exceptions import ConfigError, DataError
from tests.asof_fixtures import HOUR, KEY, OURS, made_up_views, open_feast, source, write_rows
from tests.feast_fixtures import ledger_of
from tests.small_features import SHOPS, sales, shops

NOON = datetime(2024, 3, 1, 12, tzinfo=UTC)
MINUTE = timedelta(minutes=1)


def at(hours: float) -> datetime:
    """Hours after noon."""
    return NOON + hours * HOUR


def rows(view: str, *given: tuple[str | None, float | None, int | None, float, float | None], n: int = 1) -> pa.Table:
    """Rows of a made-up view: key, the two features, hour of the event, hour of the creation."""
    keys, a, b, happened, written = (list(column) for column in zip(*given, strict=True))
    moment = pa.timestamp("us", "UTC")
    return pa.table(
        {
            "k": pa.array(keys, pa.string()),
            "n": pa.array([n] * len(keys), pa.int64()),
            "raw" if view == "endless" else f"{view}_a": pa.array(a, pa.float64()),
            f"{view}_b": pa.array(b, pa.int64()),
            "happened": pa.array([at(hour) for hour in happened], moment),
            "written": pa.array([None if hour is None else at(hour) for hour in written], moment),
        }
    )


def asked(*hours: float, k: str | None = "x", **more: Any) -> pd.DataFrame:
    return pd.DataFrame({"k": [k] * len(hours), "n": 1, "event_timestamp": [at(hour) for hour in hours], **more})


@pytest.fixture(scope="module")
def made_up(tmp_path_factory) -> tuple[Path, FeatureStore]:
    folder = tmp_path_factory.mktemp("made-up")
    for view in ("short", "endless", "uncreated"):
        write_rows(folder, view, rows(view, ("x", 1.0, 1, 0, 0)))
    text = rows("uncreated", ("x", 1.0, 1, 0, 0))
    write_rows(folder, "uncreated", text.set_column(2, "uncreated_a", text["uncreated_a"].cast(pa.string())))
    return folder, open_feast(folder / "store", made_up_views(folder), {"type": OURS})


def seen(made_up: tuple[Path, FeatureStore], view: str, frame: Any, letters: str = "b", **options: Any) -> list[Any]:
    """Return the last of the features of a view that each row sees."""
    refs = [f"{view}:{view}_{letter}" for letter in letters]
    answer = made_up[1].get_historical_features(frame, refs, **options).to_arrow()
    return answer[answer.column_names[-1]].to_pylist()


# --- what counts ------------------------------------------------------------------------------------------


def test_a_value_counts_from_when_it_was_known_until_a_later_event_is(made_up):
    write_rows(
        made_up[0],
        "endless",
        rows("endless", ("x", 0, 1, 0, 0), ("x", 0, 2, 1, 4), ("x", 0, 3, 2, 3)),  # the event at 1 came after that at 2
    )
    assert seen(made_up, "endless", asked(-1, 0, 2.9, 3, 4, 9)) == [None, 1, 1, 3, 3, 3]


def test_a_correction_counts_from_when_it_was_made(made_up):
    write_rows(made_up[0], "endless", rows("endless", ("x", 0, 1, 0, 0), ("x", 0, 2, 0, 5)))
    assert seen(made_up, "endless", asked(4.99, 5)) == [1, 2]
    assert seen(made_up, "endless", asked(4.99, 5), filter_by_created_timestamp=True) == [1, 2]


def test_an_announced_fact_counts_from_its_event(made_up):
    write_rows(made_up[0], "endless", rows("endless", ("x", 0, 1, 0, 0), ("x", 0, 2, 3, -5), ("x", 0, 3, 3, -4)))
    assert seen(made_up, "endless", asked(2.9, 3)) == [1, 3]


def test_without_knowledge_time_a_late_fact_counts_from_its_event(made_up, tmp_path):
    write_rows(made_up[0], "endless", rows("endless", ("x", 0, 1, 0, 0), ("x", 0, 2, 1, 4)))
    store = open_feast(tmp_path, made_up_views(made_up[0]), {"type": OURS, "knowledge_time": False})
    assert seen((made_up[0], store), "endless", asked(2)) == [2]
    assert seen((made_up[0], store), "endless", asked(2), filter_by_created_timestamp=True) == [1]


def test_a_value_of_unknown_creation_is_never_known(made_up):
    write_rows(made_up[0], "endless", rows("endless", ("x", 0, 1, 0, 0), ("x", 0, 2, 1, None)))
    assert seen(made_up, "endless", asked(9)) == [1]


def test_a_time_to_live_includes_both_ends(made_up):
    write_rows(made_up[0], "short", rows("short", ("x", 0, 1, 0, 0)))
    tick = timedelta(microseconds=1) / HOUR
    assert seen(made_up, "short", asked(-tick, 0, 3, 3 + tick)) == [None, 1, 1, None]
    fine = pa.table(
        {"k": ["x"], "event_timestamp": pa.array([int(at(3).timestamp()) * 10**9 + 1], pa.timestamp("ns", "UTC"))}
    )
    assert seen(made_up, "short", fine) == [None], "a nanosecond late"


@pytest.mark.parametrize("letters", ["a", "b", "ab", "ba"])
def test_rows_equal_in_time_are_told_apart_by_their_values(made_up, letters):
    doubles = [("x", 1.0, 9, 0, 0), ("x", 2.0, None, 0, 0), ("x", 2.0, 3, 0, 0), ("x", None, 99, 0, 0)]
    for order in (doubles, doubles[::-1], doubles[2:] + doubles[:2]):
        write_rows(made_up[0], "short", *(rows("short", row) for row in order))
        assert seen(made_up, "short", asked(1), letters) == [2.0 if letters[-1] == "a" else 3]


def test_null_and_unheard_of_keys_see_nothing_and_keep_their_rows(made_up):
    write_rows(made_up[0], "endless", rows("endless", (None, 0, 7, 0, 0), ("x", 0, 1, 0, 0)))
    frame = pd.DataFrame({"k": ["x", None, "z"], "n": [1, 1, 1], "event_timestamp": [at(1)] * 3})
    assert seen(made_up, "endless", frame) == [1, None, None]
    frame = pd.DataFrame({"k": ["x", "x"], "n": [1.0, None], "event_timestamp": [at(1)] * 2})
    assert seen(made_up, "endless", frame) == [1, None], "pandas makes whole numbers with nulls floats"


# --- what comes back --------------------------------------------------------------------------------------


def test_rows_come_back_as_asked_for_with_all_their_columns(made_up):
    write_rows(made_up[0], "endless", rows("endless", ("x", 0, 1, 0, 0), ("x", 0, 2, 2, 2)))
    frame = asked(3, 1, -1, 3, note=["p", "q", None, "p"], weight=[1.5, 2.0, None, 1.5])
    frame.index = [7, 7, 3, 1]
    before = frame.copy()
    answer = made_up[1].get_historical_features(frame, ["endless:endless_b"]).to_df()
    pd.testing.assert_frame_equal(frame, before)
    assert list(answer.columns) == ["k", "n", "event_timestamp", "note", "weight", "endless_b"]
    assert answer["note"].tolist() == ["p", "q", None, "p"]
    assert answer["event_timestamp"].tolist() == frame["event_timestamp"].tolist()
    assert answer["endless_b"].tolist()[:2] == [2, 1]
    assert pd.isna(answer["endless_b"][2])
    names = made_up[1].get_historical_features(frame, ["endless:endless_b"], full_feature_names=True).to_df().columns
    assert names[-1] == "endless__endless_b"


def test_no_entity_rows_give_no_rows(made_up):
    answer = made_up[1].get_historical_features(asked(1).iloc[:0], ["short:short_a", "endless:endless_b"]).to_arrow()
    assert answer.num_rows == 0
    assert answer.schema.field("short_a").type == pa.float64()


def test_many_rows_are_joined_span_by_span(made_up, monkeypatch):
    write_rows(made_up[0], "short", rows("short", *(("x", 0, hour, hour, hour + hour % 3) for hour in range(48))))
    hours = [(7 * number) % 53 - 2 for number in range(100)]
    at_once = seen(made_up, "short", asked(*hours))
    monkeypatch.setattr(asof, "_ROWS_AT_ONCE", 9)
    assert seen(made_up, "short", asked(*hours)) == at_once
    assert len(set(at_once)) > 30


def test_entity_rows_may_be_arrow_or_a_query(made_up, tmp_path):
    write_rows(made_up[0], "endless", rows("endless", ("x", 0, 1, 0, 0), ("x", 0, 2, 2, 2)))
    table = pa.Table.from_pandas(asked(3, 1))
    pq.write_table(table, tmp_path / "asked.parquet")
    query = f"SELECT k, n, event_timestamp FROM read_parquet('{tmp_path}/asked.parquet') ORDER BY event_timestamp"
    assert seen(made_up, "endless", table) == [2, 1]
    assert seen(made_up, "endless", query) == [1, 2]


def test_a_saved_dataset_holds_the_rows(made_up, tmp_path):
    write_rows(made_up[0], "endless", rows("endless", ("x", 0, 1, 0, 0)))
    job = made_up[1].get_historical_features(asked(1, 2), ["endless:endless_b"])
    job.persist(SavedDatasetFileStorage(str(tmp_path / "saved.parquet")))
    assert pq.read_table(tmp_path / "saved.parquet")["endless_b"].to_pylist() == [1, 1]
    assert job.metadata.keys == ["k", "n"]
    assert (job.metadata.min_event_timestamp, job.metadata.max_event_timestamp) == (at(1), at(2))


# --- definitions of every kind ----------------------------------------------------------------------------


def test_one_view_serves_two_keys_by_aliases(made_up):
    write_rows(made_up[0], "short", rows("short", ("EWR", 0, 1, 0, 0), ("LAX", 0, 2, 0, 0)))
    store = made_up[1]
    view = store.get_feature_view("short")
    service = FeatureService(
        name="both_ends",
        features=[
            view[["short_b"]].with_name("origin").with_join_key_map({"k": "from"}),
            view[["short_b"]].with_name("destination").with_join_key_map({"k": "to"}),
        ],
    )
    frame = pd.DataFrame({"from": ["EWR", "LAX"], "to": ["LAX", "JFK"], "event_timestamp": [at(1)] * 2})
    store.apply([service])
    answer = store.get_historical_features(frame, service, full_feature_names=True).to_arrow()
    assert answer["origin__short_b"].to_pylist() == [1, 2]
    assert answer["destination__short_b"].to_pylist() == [2, None]


def test_a_field_mapping_may_rename_keys_and_times(tmp_path):
    mapping = {"code": "k", "when": "happened", "noted": "written", "measured": "value"}
    view = FeatureView(
        name="mapped",
        entities=[KEY],
        ttl=HOUR,
        schema=[Field(name="value", dtype=Float64)],
        source=source(tmp_path, "mapped", field_mapping=mapping),
    )
    own = rows("short", ("x", 5.0, 1, 0, 0.5)).select(["k", "short_a", "happened", "written"])
    write_rows(tmp_path, "mapped", own.rename_columns(["code", "measured", "when", "noted"]))
    store = open_feast(tmp_path / "store", [KEY, view], {"type": OURS})
    answer = store.get_historical_features(asked(0.4, 0.5), ["mapped:value"]).to_arrow()
    assert answer["value"].to_pylist() == [None, 5.0]
    store.materialize(at(-1), at(1))
    assert store.get_online_features(["mapped:value"], [{"k": "x"}]).to_dict()["value"] == [5.0]


def test_a_view_without_entities_is_joined_by_time_alone(tmp_path):
    view = FeatureView(
        name="world",
        entities=[],
        ttl=HOUR,
        schema=[Field(name="short_a", dtype=Float64)],
        source=source(tmp_path, "world"),
    )
    write_rows(tmp_path, "world", rows("short", ("-", 1.0, 1, 0, 0), ("-", 2.0, 1, 1, 1)).drop_columns(["k", "n"]))
    store = open_feast(tmp_path / "store", [view], {"type": OURS})
    answer = store.get_historical_features(asked(-1, 0.5, 1.5), ["world:short_a"]).to_arrow()
    assert answer["short_a"].to_pylist() == [None, 1.0, 2.0]


def test_on_demand_features_are_computed_from_what_was_known(tmp_path):
    write_rows(tmp_path, "short", rows("short", ("x", 3.0, 1, 0, 0), ("x", 4.0, 1, 1, 2)))
    views = made_up_views(tmp_path)[:3]

    def times(inputs: dict[str, Any]) -> dict[str, Any]:
        pairs = zip(inputs["short_a"], inputs["factor"], strict=True)
        return {"product": [None if a is None else a * factor for a, factor in pairs]}

    request = RequestSource(name="request", schema=[Field(name="factor", dtype=Float64)])
    product = on_demand_feature_view(
        name="product_view", sources=[request, views[2]], schema=[Field(name="product", dtype=Float64)], mode="python"
    )(times)
    service = FeatureService(name="service", features=[product, views[2][["short_b"]]])
    store = open_feast(tmp_path / "store", [*views, product, service], {"type": OURS})
    frame = asked(-1, 1.5, 2, factor=[10.0, 10.0, 100.0])
    answer = store.get_historical_features(frame, service).to_arrow()
    assert answer["product"].to_pylist() == [None, 30.0, 400.0]
    assert answer["short_b"].to_pylist() == [None, 1, 1]
    with pytest.raises(ConfigError, match=r"no column 'factor'(.|\n)*on-demand view 'product_view'"):
        store.get_historical_features(pa.Table.from_pandas(frame.drop(columns="factor")), service)


# --- which files are read ---------------------------------------------------------------------------------


def test_only_files_and_row_groups_that_can_matter_are_read(made_up):
    write_rows(
        made_up[0],
        "short",
        *(rows("short", ("x", 0, hour, hour, hour)) for hour in range(0, 24, 2)),
    )
    for number in (0, 1, 2, 9, 11):  # their data is destroyed; what they say about themselves is not
        file = made_up[0] / "short" / f"{number}.parquet"
        content = bytearray(file.read_bytes())
        content[4:60] = b"\xff" * 56
        file.write_bytes(content)
    assert seen(made_up, "short", asked(9, 12.5, 16)) == [8, 12, 16]
    with pytest.raises(DataError, match=r"'short_rows' cannot be read(.|\n)*2\.parquet(.|\n)*fix:"):
        seen(made_up, "short", asked(7))


def test_reads_exactly_the_files_that_it_is_told(made_up, tmp_path):
    write_rows(made_up[0], "endless", rows("endless", ("x", 0, 1, 0, 0)))
    write_rows(made_up[0], "short", rows("short", ("x", 0, 1, 0, 0)))
    pq.write_table(rows("endless", ("x", 0, 8, 0, 0)), tmp_path / "other.parquet")
    refs = ["endless:endless_b", "short:short_b"]
    with reading_files({"endless": [tmp_path / "other.parquet"]}):
        job = made_up[1].get_historical_features(asked(1), refs)
    answer = job.to_arrow()
    assert (answer["endless_b"].to_pylist(), answer["short_b"].to_pylist()) == ([8], [1])
    with reading_files({"endless": []}):
        nothing = made_up[1].get_historical_features(asked(1), refs).to_arrow()
    assert nothing["endless_b"].to_pylist() == [None]
    assert nothing.schema.field("endless_b").type == pa.int64()
    assert seen(made_up, "endless", asked(1)) == [1]


def test_files_may_differ_where_nothing_is_lost(made_up):
    first, second = (rows("short", ("x", 0, hour, hour, hour)) for hour in (0, 1))
    halves = second.set_column(3, "short_b", pa.array([2.0])).drop_columns(["short_a"])
    naive = halves.set_column(3, "happened", halves["happened"].cast(pa.timestamp("ns")))
    write_rows(made_up[0], "short", first, naive)
    assert seen(made_up, "short", asked(0.5, 1.5)) == [0, 2]
    assert seen(made_up, "short", asked(0.5, 1.5), "a") == [0, None]


def test_rows_in_partitioned_folders_are_read_as_feast_reads_them(tmp_path):
    own = rows("short", ("?", 1.0, 4, 0, 0)).drop_columns(["k"])
    for key in "xy":
        (tmp_path / "parted" / f"k={key}").mkdir(parents=True)
        pq.write_table(own, tmp_path / "parted" / f"k={key}" / "1.parquet")
    place = source(tmp_path, "parted")
    place.file_options.uri = str(tmp_path / "parted" / "*" / "*.parquet")
    view = FeatureView(
        name="parted",
        entities=[KEY],
        ttl=HOUR,
        schema=[Field(name="k", dtype=String), Field(name="short_b", dtype=Int64)],
        source=place,
    )
    store = open_feast(tmp_path / "store", [KEY, view], {"type": OURS})
    answer = store.get_historical_features(asked(0.5, -1), ["parted:short_b"]).to_arrow()
    assert answer["short_b"].to_pylist() == [4, None]


# --- from the offline to the online store -----------------------------------------------------------------


def test_what_is_served_is_what_training_sees(made_up):
    doubles = [("x", 1.0, 9, 1, 1), ("x", 2.0, 3, 1, 1), ("x", 7.0, 7, 0, 5), ("y", 1.0, 5, 1, 1), ("y", 1.0, 6, 1, 3)]
    for order in (doubles, doubles[::-1]):
        write_rows(made_up[0], "short", *(rows("short", row) for row in order))
        pulled = pull(made_up, at(0), at(1)).sort_by("k")
        assert pulled["short_b"].to_pylist() == [3, 6]
        assert seen(made_up, "short", asked(4)) == [3]
        assert seen(made_up, "short", asked(4, k="y")) == [6]


def test_pulls_events_between_two_moments_with_both_ends(made_up):
    write_rows(
        made_up[0], "short", rows("short", *(("x", 0, hour, hour, hour) for hour in range(5)), (None, 0, 9, 2, 2))
    )
    tick = timedelta(microseconds=1)
    assert pull(made_up, at(1), at(3))["short_b"].to_pylist() == [3, 9]
    assert pull(made_up, at(1), at(3) - tick)["short_b"].to_pylist() == [2, 9]
    assert pull(made_up, at(4) + tick, at(5))["short_b"].to_pylist() == []
    zone = pd.Timestamp(at(3)).tz_convert("Asia/Kolkata").to_pydatetime()
    assert pull(made_up, zone, zone).to_pylist() == [
        {"k": "x", "short_a": 0.0, "short_b": 3, "happened": at(3), "written": at(3)}
    ]
    everything = pull(made_up, at(1), at(3), latest=False)
    assert everything["short_b"].to_pylist() == [1, 2, 3, 9]
    assert pull(made_up, None, None, latest=False).num_rows == 6


def test_what_is_not_known_by_now_is_not_pulled(made_up, tmp_path):
    later = (datetime.now(UTC) - NOON) / HOUR + 24
    write_rows(
        made_up[0],
        "short",
        rows("short", ("x", 0, 1, 0, 0), ("x", 0, 2, 1, later), ("x", 0, 3, 2, None), ("y", 0, 4, 1, None)),
    )
    assert pull(made_up, at(0), at(3))["short_b"].to_pylist() == [1]
    assert pull(made_up, at(0), at(3), latest=False).num_rows == 4
    store = open_feast(tmp_path, made_up_views(made_up[0]), {"type": OURS, "knowledge_time": False})
    assert sorted(pull((made_up[0], store), at(0), at(3))["short_b"].to_pylist()) == [3, 4]


def pull(made_up, start: datetime | None, end: datetime | None, *, latest: bool = True) -> pa.Table:
    view = made_up[1].get_feature_view("short")
    store = asof.AsofOfflineStore
    function = store.pull_latest_from_table_or_query if latest else store.pull_all_from_table_or_query
    job = function(
        config=made_up[1].config,
        data_source=view.batch_source,
        join_key_columns=["k"],
        feature_name_columns=["short_a", "short_b"],
        timestamp_field="happened",
        created_timestamp_column="written",
        start_date=start,
        end_date=end,
    )
    return job.to_arrow()


# --- what is refused --------------------------------------------------------------------------------------


def test_times_that_are_no_moments_are_refused(made_up):
    refused = [
        (asked(1).assign(event_timestamp=datetime(2024, 3, 1)), "has no time zone"),  # noqa: DTZ001 - that is the fault
        (asked(1).assign(event_timestamp="2024-03-01T00:00:00Z"), "has type string"),
        (asked(1).assign(event_timestamp=datetime.now(UTC) + HOUR), "1 of 1 entity rows lie in the future"),
        (asked(1).drop(columns="event_timestamp"), "no column 'event_timestamp'"),
        (
            asked(1).assign(event_timestamp=pd.Series([pd.NaT]).dt.tz_localize("UTC")),
            "null in 1 of 1",
        ),
        (
            asked(1, 2).assign(event_timestamp=pd.Series([at(1), datetime(2024, 3, 1)], dtype=object)),  # noqa: DTZ001
            "Some of the entity rows' 'event_timestamp' have no time zone",
        ),
    ]
    for frame, words in refused:
        with pytest.raises((ConfigError, DataError), match=words):
            seen(made_up, "endless", frame)
    renamed = asked(1).rename(columns={"event_timestamp": "prediction_time"})
    assert len(seen(made_up, "endless", renamed)) == 1, "the only timestamp there is"


def test_the_engine_refuses_naive_times_before_feast_takes_them_for_utc(tmp_path):
    location = shops(tmp_path)
    ensure_applied(location, ledger_of(location.home))
    store = open_store(location)
    moment = datetime(2024, 3, 2, 12, 30, tzinfo=UTC)
    frame = pd.DataFrame({"shop": [SHOPS[0]], "event_timestamp": [moment]})
    answer = store.get_historical_features(frame, ["shop_sales:sales"]).to_df()
    assert answer["sales"][0] == sales(SHOPS[0], moment.replace(minute=0))
    naive = frame.assign(event_timestamp=frame["event_timestamp"].dt.tz_localize(None))
    with pytest.raises(ConfigError, match=r"no time zone(.|\n)*fix:.*tz_localize\('UTC'\)"):
        store.get_historical_features(naive, ["shop_sales:sales"])


def test_columns_that_are_missing_or_taken_are_named(made_up):
    with pytest.raises(ConfigError, match=r"no column 'n'(.|\n)*feature view 'endless' needs it"):
        seen(made_up, "endless", asked(1).drop(columns="n"))
    with pytest.raises(ConfigError, match=r"no column 'k'\. Did you mean 'kk'"):
        seen(made_up, "short", asked(1).rename(columns={"k": "kk"}))
    with pytest.raises(ConfigError, match="Two columns of the answer would be called 'short_b'"):
        seen(made_up, "short", asked(1, short_b=1))
    assert seen(made_up, "short", asked(1, short_b=1), full_feature_names=True) is not None


def test_what_asks_for_nothing_is_refused(made_up):
    with pytest.raises(ConfigError, match="with no entity rows"):
        made_up[1].get_historical_features(None, ["short:short_a"], start_date=at(0), end_date=at(1))
    with pytest.raises(ConfigError, match="The query for the entity rows fails"):
        seen(made_up, "short", "SELECT nothing FROM nowhere")
    with pytest.raises(ConfigError, match="values of several types"):
        seen(made_up, "short", asked(1, 2, note=["p", 1]))


def test_types_other_than_the_registrys_are_refused(made_up):
    write_rows(made_up[0], "endless", rows("endless", ("x", 0, 1, 0, 0)))
    with pytest.raises(ConfigError, match="'k' of the entity rows is of type int64, but string by Feast's registry"):
        seen(made_up, "endless", asked(1).assign(k=7))
    with pytest.raises(ConfigError, match="'n' of the entity rows holds values that are no int64"):
        seen(made_up, "endless", asked(1).assign(n=1.5))
    text = rows("endless", ("x", 0, 1, 0, 0))
    write_rows(made_up[0], "endless", text.set_column(3, "endless_b", pa.array(["one"])))
    with pytest.raises(DataError, match="rows of feature view 'endless' is of type string, but int64"):
        seen(made_up, "endless", asked(1))
    write_rows(made_up[0], "endless", text, text.set_column(3, "endless_b", pa.array(["one"])))
    with pytest.raises(DataError, match="'endless_rows' have other types from file to file"):
        seen(made_up, "endless", asked(1))
    write_rows(made_up[0], "endless", text.set_column(4, "happened", pa.array(["noon"])))
    with pytest.raises(DataError, match="have no timestamps in 'happened'"):
        seen(made_up, "endless", asked(1))


def test_doubles_are_whole_numbers_only_without_fractions(made_up):
    table = rows("short", ("x", 0, 1, 0, 0), ("y", 0, 1, 0, 0), ("z", 0, 1, 0, 0))

    def having(*values: float | None) -> pa.Table:
        write_rows(made_up[0], "short", table.set_column(3, "short_b", pa.array(values, pa.float64())))
        frame = pd.DataFrame({"k": ["x", "y"], "event_timestamp": [at(1)] * 2})
        return made_up[1].get_historical_features(frame, ["short:short_b"]).to_arrow()["short_b"]

    assert (having(6.0, -7.0, None).type, having(6.0, -7.0, None).to_pylist()) == (pa.int64(), [6, -7])
    assert having(6.0, None, float("nan")).to_pylist() == [6.0, None]
    for value in (6.5, 1e30, float("inf")):
        with pytest.raises(
            DataError, match="'short_b' of the rows of feature view 'short' is of another type than the registry says"
        ):
            having(6.0, 7.0, value)


def test_rows_that_are_gone_are_named(made_up):
    write_rows(made_up[0], "short")
    with pytest.raises(DataError, match=r"'short_rows' are gone(.|\n)*short/\*\.parquet(.|\n)*fix:"):
        seen(made_up, "short", asked(1))
    write_rows(made_up[0], "short", rows("short", ("x", 0, 1, 0, 0)).rename_columns({"short_b": "short_bb"}))
    with pytest.raises(DataError, match=r"no column 'short_b'\. Did you mean 'short_bb'"):
        seen(made_up, "short", asked(1))
    with reading_files({"short": [made_up[0] / "nowhere.parquet"]}), pytest.raises(DataError, match="cannot be read"):
        seen(made_up, "short", asked(1))
