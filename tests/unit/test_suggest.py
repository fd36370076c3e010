"""Suggested suites: real days pass them in Great Expectations, broken ones do not."""

import json
from datetime import UTC, date, datetime, time, timedelta

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from airflow_mlops import Partitions
from airflow_mlops.contracts import Exclusion
from airflow_mlops.demo.flights import read_feed
from airflow_mlops.engine.data.partitions import PartitionStore
from airflow_mlops.engine.data.profiles import profile_table
from airflow_mlops.engine.data.suggest import suggest_from_store, suggest_suite
from airflow_mlops.engine.data.suggest_landed import profiles_of_feed, suggest_contract
from airflow_mlops.engine.data.validation import load_suite, validate
from airflow_mlops.exceptions import ConfigError, DataError
from tests.data_fixtures import sealed
from tests.small_days import START, seal_day

DAYS = [date(2013, 3, 1) + timedelta(days=day) for day in range(14)]
DECLARED = {"slices": ["carrier"], "label": "cancelled", "unique": ["flight_id"]}


def profiled(table, key="2013-03-01", **declared):
    return profile_table(table, dataset="departures", key=key, revision="r", **declared)


@pytest.fixture(scope="module")
def suggested():
    return suggest_suite(
        [profiled(read_feed("departures", day, day), str(day), **DECLARED) for day in DAYS], name="departures"
    )


@pytest.fixture(scope="module")
def suite(suggested, tmp_path_factory):
    path = tmp_path_factory.mktemp("suite") / "departures.json"
    path.write_text(json.dumps(suggested, indent=2))
    return load_suite(str(path))


def failed(suite, table, folder):
    pq.write_table(table, folder / "day.parquet")
    result = validate([folder / "day.parquet"], suite, batch="day")
    return {(outcome.expectation, outcome.column) for outcome in result.failed}


def asked(suggested, column):
    return {
        entry["type"].removeprefix("expect_").removeprefix("column_"): entry["kwargs"]
        for entry in suggested["expectations"]
        if entry["kwargs"].get("column") == column
    }


def test_the_days_it_came_from_pass(suite, tmp_path):
    for day in (DAYS[0], DAYS[1], DAYS[7], DAYS[13]):
        assert failed(suite, read_feed("departures", day, day), tmp_path) == set()


def test_it_loads_and_passes_in_great_expectations_itself(suggested):
    import great_expectations as gx

    context = gx.get_context(mode="ephemeral")
    suite = context.suites.add(gx.ExpectationSuite(**{**suggested, "notes": None}))
    frame = read_feed("departures", DAYS[3], DAYS[3]).to_pandas()
    source = context.data_sources.add_pandas("pandas").add_dataframe_asset("day")
    batch = source.add_batch_definition_whole_dataframe("whole").get_batch({"dataframe": frame})

    result = batch.validate(suite)

    assert result.success, [found for found in result.results if not found.success]
    assert len(result.results) == len(suggested["expectations"])


def changed(table, column, values):
    return table.set_column(table.schema.get_field_index(column), column, values)


BREAKS = {
    "half the rows": (lambda t: t.slice(0, 400), ("expect_table_row_count_to_be_between", None)),
    "a column is gone": (lambda t: t.drop(["dest"]), ("expect_table_columns_to_match_set", None)),
    "a key twice": (
        lambda t: pa.concat_tables([t, t.slice(0, 3)]),
        ("expect_column_values_to_be_unique", "flight_id"),
    ),
    "nulls": (
        lambda t: changed(t, "carrier", pc.if_else(pc.equal(t["carrier"], "UA"), None, t["carrier"])),
        ("expect_column_values_to_not_be_null", "carrier"),
    ),
    "lower case": (
        lambda t: changed(t, "origin", pc.utf8_lower(t["origin"])),
        ("expect_column_values_to_be_in_set", "origin"),
    ),
    "kilometres": (
        lambda t: changed(t, "distance", pc.multiply(t["distance"], 1.609)),
        ("expect_column_mean_to_be_between", "distance"),
    ),
    "numbers as text": (
        lambda t: changed(t, "distance", t["distance"].cast(pa.string())),
        ("expect_column_values_to_be_in_type_list", "distance"),
    ),
    "seconds": (
        lambda t: changed(t, "dep_delay", pc.multiply(t["dep_delay"], 60.0)),
        ("expect_column_values_to_be_between", "dep_delay"),
    ),
    "label inverted": (
        lambda t: changed(t, "cancelled", pc.invert(t["cancelled"])),
        ("expect_column_mean_to_be_between", "cancelled"),
    ),
    "one destination": (
        lambda t: changed(t, "dest", pa.array(["LAX"] * len(t))),
        ("expect_column_unique_value_count_to_be_between", "dest"),
    ),
}


@pytest.mark.parametrize("name", BREAKS)
def test_broken_data_fails(name, suite, tmp_path):
    breaking, expected = BREAKS[name]

    assert expected in failed(suite, breaking(read_feed("departures", DAYS[3], DAYS[3])), tmp_path)


def test_identifiers_get_no_values_and_no_range(suggested):
    for column in ("flight_id", "tailnum", "flight"):
        assert set(asked(suggested, column)) <= {
            "values_to_be_in_type_list",
            "values_to_not_be_null",
            "values_to_be_unique",
        }
    assert "N14228" not in json.dumps(suggested)


def test_every_expectation_says_what_was_seen(suggested):
    assert suggested["meta"]["version"] == "1"
    assert all(entry["meta"]["notes"].endswith(".") for entry in suggested["expectations"])
    json.dumps(suggested, allow_nan=False)


def test_nulls_get_head_room_and_complete_columns_none():
    table = pa.table({"some": [None] * 10 + [1.5] * 90, "all": [1.5] * 100, "never": pa.nulls(100, pa.float64())})
    suggested = suggest_suite(profiled(table), name="s")

    assert asked(suggested, "some")["values_to_not_be_null"] == {"column": "some", "mostly": 0.84}
    assert asked(suggested, "all")["values_to_not_be_null"] == {"column": "all"}
    assert asked(suggested, "never") == {}


def test_a_day_that_was_mostly_empty_still_passes(tmp_path):
    table = pa.table(
        {
            "x": pa.array([None] * 95 + [1.0, 2.0, 3.0, float("inf"), float("nan")]),
            "n": pa.array([0] * 100, pa.int8()),
            "c": pa.array(["a", None] * 50).dictionary_encode(),
            "d": pa.array([1, 2] * 50).cast(pa.decimal128(21, 2)),
            "b": pa.array([True, None] * 50),
            "t": pa.array([0] * 100, pa.timestamp("us", "UTC")),
            "o": [[1]] * 100,
        }
    )
    (tmp_path / "s.json").write_text(json.dumps(suggest_suite(profiled(table), name="s"), allow_nan=False))

    assert failed(load_suite(str(tmp_path / "s.json")), table, tmp_path) == set()


def test_the_row_count_follows_the_spread_of_the_days_not_one_odd_day():
    random = np.random.default_rng(0)
    days = [profiled(pa.table({"x": np.zeros(n)}), str(n)) for n in random.integers(950, 1050, 30)]
    (bounds,) = (
        entry["kwargs"]
        for entry in suggest_suite(days, name="s")["expectations"]
        if entry["type"] == "expect_table_row_count_to_be_between"
    )

    assert 700 < bounds["min_value"] < 950
    assert 1050 < bounds["max_value"] < 1300


def test_from_a_store_with_and_without_stored_profiles(tmp_path):
    store = PartitionStore.under(tmp_path)
    for day in DAYS[:3]:
        partition = sealed(tmp_path, day=day)
        if day != DAYS[0]:
            profile = profile_table(
                read_feed("departures", day, day), dataset="departures", key=str(day), revision=partition.revision
            )
            store.write_profile("departures", str(day), partition.revision, profile)

    assert suggest_from_store(store, "departures")["meta"]["notes"].startswith("Suggested from 3 profiles")
    assert suggest_from_store(store, "departures", DAYS[1], DAYS[1])["name"] == "departures"
    with pytest.raises(DataError, match=r"no partitions of 'departure'\. Did you mean 'departures'\?"):
        suggest_from_store(store, "departure")
    with pytest.raises(ConfigError, match="no sealed partitions of 'departures'"):
        suggest_from_store(store, "departures", date(2014, 1, 1))


def test_days_that_an_exclusion_touches_teach_nothing(home):
    for n, values in enumerate([(1.0, 2.0), (1.0, 9999.0), (1.0, 2.0)]):
        seal_day(home, "d", START + timedelta(days=n), values)
    store = PartitionStore.under(home)
    noon = datetime.combine(START + timedelta(days=1), time(12), UTC)
    bad = Exclusion(id="i", dataset="d", start=noon, end=noon + timedelta(hours=1), reason="r", who="w")

    assert asked(suggest_from_store(store, "d"), "value")["values_to_be_between"]["max_value"] > 9000
    without = suggest_from_store(store, "d", exclusions=[bad])
    assert without["meta"]["notes"].startswith("Suggested from 2 profiles")
    assert asked(without, "value")["values_to_be_between"]["max_value"] < 10
    with pytest.raises(ConfigError, match="1 exclusions in force"):
        suggest_from_store(store, "d", noon.date(), noon.date(), [bad])


# --- of what has landed -----------------------------------------------------------------------------------


def test_of_a_feed_each_partition_is_one_whatever_its_folders(tmp_path):
    """Spark's folders, and hourly files that make a day; columns of the path are columns."""
    for day in range(1, 6):
        for region in ("eu", "us"):
            folder = tmp_path / "machines" / f"dt=2024-03-0{day}" / f"region={region}"
            folder.mkdir(parents=True)
            at = pa.array([datetime(2024, 3, day, 12)] * 50, pa.timestamp("ns"))  # noqa: DTZ001
            table = pa.table({"at": at, "x": range(50)})
            pq.write_table(table, folder / "part-0.parquet", use_deprecated_int96_timestamps=True)
        for hour in range(24):
            folder = tmp_path / "clicks" / f"2024-03-0{day}T{hour:02}00Z"
            folder.mkdir(parents=True)
            (folder / "a.csv").write_text(f"at,n\n2024-03-0{day} {hour:02}:10:00,1\n")
    more = {"event_time": "at", "suite": "s:a", "start": date(2024, 3, 1), "end": date(2024, 3, 31)}
    spark = Partitions("machines", layout="dt={key}/*/*.parquet", **more)
    profiles = profiles_of_feed(spark, tmp_path.joinpath)
    assert (profiles[0].rows, profiles[0].revisions) == (100, {"2024-03-01": "landed"})
    assert len(profiles) == 5
    assert "region" in profiles[0].columns
    assert '"region": Column("string"' in suggest_contract(profiles)
    hourly = Partitions("clicks", lands="hourly", **more)
    assert [one.rows for one in profiles_of_feed(hourly, tmp_path.joinpath)] == [24] * 5
    assert len(profiles_of_feed(hourly, tmp_path.joinpath, most=2)) == 2
    with pytest.raises(DataError, match=r"No partition of 'nothing' has landed"):
        profiles_of_feed(Partitions("nothing", **more), tmp_path.joinpath)
