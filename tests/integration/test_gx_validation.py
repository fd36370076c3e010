"""Great Expectations on real days: what passes, what is caught and how it is said, and what must not leak."""

from __future__ import annotations

from collections.abc import Callable
from datetime import date, timedelta
from pathlib import Path

import great_expectations.expectations as gxe
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from airflow_mlops.contracts import ExpectationOutcome, ValidationResult
from airflow_mlops.engine.data.parquet import parquet_files
from airflow_mlops.engine.data.partitions import batch_hash
from airflow_mlops.engine.data.validation import enforce, explain, validate
from airflow_mlops.exceptions import ConfigError, DataError
from flights import expectations
from tests.data_fixtures import DAY, landed, spoil

SUITES = {"departures": expectations.departures, "arrivals": expectations.arrivals, "weather": expectations.weather}
STORM = date(2013, 2, 9)


def check(folder: Path, suite=None) -> ValidationResult:
    feed = folder.parent.name
    return validate(
        parquet_files(folder),
        SUITES[feed]() if suite is None else suite,
        suite_name=feed,
        batch=f"{feed}/{folder.name}",
    )


@pytest.fixture(scope="module")
def normal(tmp_path_factory) -> Path:
    """A landed day that nobody changes."""
    return landed(tmp_path_factory.mktemp("lake"))


# --- what passes ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("feed", SUITES)
def test_a_normal_day_passes_and_every_row_was_seen(feed, tmp_path):
    folder = landed(tmp_path, feed)
    result = check(folder)
    assert result.failed == ()
    assert not result.blocked
    assert explain(result) == ""
    enforce(result)
    assert result.rows == pq.read_table(folder).num_rows
    assert result.batch_hash == batch_hash(parquet_files(folder))
    assert [o.expectation for o in result.outcomes] == [e.configuration.type for e in SUITES[feed]()]
    assert ValidationResult.from_json(result.to_json()) == result


@pytest.mark.parametrize(
    ("feed", "warning"),
    [
        (
            "departures",
            "WARN expect_column_mean_to_be_between on 'cancelled': observed 0.695187; bound: max_value=0.25",
        ),
        ("arrivals", "WARN expect_table_row_count_to_be_between: observed 141; bound: min_value=450"),
    ],
)
def test_the_storm_warns_and_does_not_block(feed, warning, tmp_path):
    result = check(landed(tmp_path, feed, STORM))
    assert explain(result) == warning
    enforce(result)


@pytest.mark.parametrize(
    ("day", "warning"),
    [
        pytest.param("2013-01-01", "row_count_to_be_between: observed 52", id="the first six hours are missing"),
        pytest.param("2013-11-03", "row_count_to_be_between: observed 57", id="five hours are missing"),
        pytest.param("2013-02-12", "values_to_be_between on 'wind_speed': observed 1.38", id="a broken sensor"),
    ],
)
def test_weather_that_is_incomplete_or_absurd_here_and_there_warns_and_does_not_block(day, warning, tmp_path):
    result = check(landed(tmp_path, "weather", date.fromisoformat(day)))
    assert explain(result).startswith(f"WARN expect_{'column' if 'wind' in warning else 'table'}_{warning}")
    assert len(result.failed) == 1
    enforce(result)


# --- what is caught ---------------------------------------------------------------------------------------


def assign(**columns: Callable):
    return lambda frame: frame.assign(**{name: change(frame) for name, change in columns.items()})


def first(frame: pd.DataFrame, column: str, value: object, rows: int = 9) -> pd.Series:
    return frame[column].where(np.arange(len(frame)) >= rows, value)


FAULTS = {
    "half a day": ("departures", lambda f: f.iloc[::2], "expect_table_row_count_to_be_between"),
    "twice": ("departures", lambda f: pd.concat([f, f]), "expect_column_values_to_be_unique"),
    "no ids": ("departures", assign(flight_id=lambda f: first(f, "flight_id", None)), "values_to_not_be_null"),
    "a new carrier": ("departures", assign(carrier=lambda f: first(f, "carrier", "ZZ")), "values_to_be_in_set"),
    "carriers in lower case": ("departures", assign(carrier=lambda f: f["carrier"].str.lower()), "to_be_in_set"),
    "an airport is gone": ("departures", lambda f: f[f["origin"] != "LGA"], "distinct_values_to_equal_set"),
    "kilometres as metres": ("departures", assign(distance=lambda f: f["distance"] * 1609), "values_to_be_between"),
    "seconds for minutes": ("departures", assign(dep_delay=lambda f: f["dep_delay"] * 60), "values_to_be_between"),
    "outcomes not in yet": ("departures", assign(dep_delay=lambda f: np.nan), "column_values_to_be_in_set"),
    "everything cancelled": (
        "departures",
        assign(cancelled=lambda f: True, dep_utc=lambda f: pd.NaT, dep_delay=lambda f: np.nan),
        "column_mean_to_be_between",
    ),
    "known too early": (
        "departures",
        assign(known_at=lambda f: f["known_at"] - pd.Timedelta(hours=1)),
        "pair_values_to_be_equal",
    ),
    "landed before it was to leave": (
        "arrivals",
        assign(sched_dep_utc=lambda f: f["landed_at"] + pd.Timedelta(minutes=1)),
        "pair_values_a_to_be_greater_than_b",
    ),
    "unknown read as on time": ("arrivals", assign(late_15=lambda f: f["arr_delay"] > 15), "values_to_be_null"),
    "another threshold": ("arrivals", assign(late_15=lambda f: f["arr_delay"] > 30), "column_values_to_be_in_set"),
    "labels upside down": ("arrivals", assign(late_15=lambda f: f["arr_delay"] <= 15), "column_values_to_be_in_set"),
    "weather twice": ("weather", lambda f: pd.concat([f.iloc[:40], f.iloc[:20]]), "compound_columns_to_be_unique"),
    "half a day of weather": ("weather", lambda f: f.iloc[:36], "expect_table_row_count_to_be_between"),
    "an airport without weather": ("weather", lambda f: f[f["origin"] != "LGA"], "distinct_values_to_equal_set"),
    "degrees Celsius": (
        "weather",
        assign(temp=lambda f: (f["temp"] - 32) / 1.8, dewp=lambda f: (f["dewp"] - 32) / 1.8),
        "unexpected_rows_expectation",
    ),
    "visibility in metres": ("weather", assign(visib=lambda f: f["visib"] * 1609), "values_to_be_between"),
    "a forecast": ("weather", assign(known_at=lambda f: f["observed_at"]), "pair_values_a_to_be_greater_than_b"),
    "labels stopped": ("arrivals", assign(arr_delay=lambda f: np.nan, late_15=lambda f: None), "values_to_not_be_null"),
}
# A day in January has no diverted flight that landed; this one has.
WITH_DIVERTED = date(2013, 6, 13)


@pytest.mark.parametrize(("feed", "fault", "named"), FAULTS.values(), ids=FAULTS)
def test_a_fault_is_blocked_by_the_expectation_for_it(feed, fault, named, tmp_path):
    result = check(spoil(landed(tmp_path, feed, WITH_DIVERTED), fault))
    assert result.blocked
    assert named in " ".join(outcome.expectation for outcome in result.failed if outcome.severity == "block")
    assert not any(outcome.error for outcome in result.outcomes)
    with pytest.raises(DataError, match=named):
        enforce(result)


def test_the_error_names_expectation_column_observed_bound_and_count(tmp_path):
    result = check(spoil(landed(tmp_path), assign(distance=lambda f: first(f, "distance", -1.0))))
    with pytest.raises(DataError) as refused:
        enforce(result)
    assert refused.value.headline == "1 of 13 expectations of 'departures' do not hold."
    assert refused.value.detail.startswith("departures/2013-01-15 (902 rows)\n")
    assert (
        "BLOCK expect_column_values_to_be_between on 'distance': observed 0.9978% unexpected, 9 of 902 rows fail; "
        "bound: min_value=1.0, max_value=5500.0"
    ) in refused.value.detail
    [outcome] = result.failed
    assert (outcome.column, outcome.unexpected_count, outcome.severity) == ("distance", 9, "block")
    assert outcome.bound == {"min_value": 1.0, "max_value": 5500.0}
    assert outcome.observed == {"unexpected_percent": 0.997783}


@pytest.mark.parametrize(("gx", "ours"), [("critical", "block"), ("warning", "warn"), ("info", "info")])
def test_every_severity_has_its_meaning(gx, ours, normal):
    result = check(normal, [gxe.ExpectTableRowCountToBeBetween(max_value=1, severity=gx)])
    [outcome] = result.failed
    assert (outcome.severity, outcome.observed) == (ours, 902)
    assert result.blocked == (ours == "block")


@pytest.fixture(scope="module")
def labelled(tmp_path_factory) -> pd.DataFrame:
    """Three days of flights with their labels, and features that a join could have found for them."""
    lake = tmp_path_factory.mktemp("lake")
    days = [DAY + timedelta(days=n) for n in range(3)]
    departures, arrivals = (
        pd.concat(pd.read_parquet(landed(lake, feed, day)) for day in days) for feed in ("departures", "arrivals")
    )
    flights = departures.merge(arrivals[["flight_id", "late_15"]].dropna(), on="flight_id").astype({"late_15": bool})
    generator = np.random.default_rng(0)
    names = [
        *("distance_miles", "aircraft_idle_minutes", "weather_temp"),
        *("origin_dep_late_rate_1h", "origin_dep_delay_mean_1h", "carrier_arr_late_rate_24h"),
        *("carrier_arr_delay_mean_24h", "route_arr_delay_mean_7d", "dest_arr_delay_mean_7d"),
    ]
    return flights.assign(**{name: generator.random(len(flights)) for name in names})


SNAPSHOT_FAULTS = {
    "flights twice": (lambda f: pd.concat([f, f.head(5)]), "values_to_be_unique on 'flight_id'"),
    "labels unknown": (assign(late_15=lambda f: first(f, "late_15", None)), "to_not_be_null on 'late_15'"),
    "all negative": (assign(late_15=lambda f: False), "mean_to_be_between on 'late_15'"),
    "a join that found nothing": (
        assign(carrier_arr_delay_mean_24h=lambda f: np.nan),
        "not_be_null on 'carrier_arr_delay_mean_24h'",
    ),
    "no weather": (assign(weather_temp=lambda f: np.nan), "not_be_null on 'weather_temp'"),
    "a rate in percent": (
        assign(origin_dep_late_rate_1h=lambda f: f["origin_dep_late_rate_1h"] * 100),
        "on 'origin_dep_late_rate_1h'",
    ),
    "a slice vanished": (lambda f: f[f["origin"] != "JFK"], "to_equal_set on 'origin'"),
    "hardly any rows": (lambda f: f.head(500), "row_count_to_be_between"),
}


def test_a_normal_snapshot_passes(labelled, tmp_path):
    labelled.to_parquet(tmp_path / "train.parquet")
    result = validate(parquet_files(tmp_path), expectations.snapshot(), suite_name="snapshot", batch="s")
    assert (result.rows, explain(result)) == (len(labelled), "")


@pytest.mark.parametrize(("fault", "named"), SNAPSHOT_FAULTS.values(), ids=SNAPSHOT_FAULTS)
def test_a_faulty_snapshot_is_blocked(fault, named, labelled, tmp_path):
    fault(labelled).to_parquet(tmp_path / "train.parquet")
    result = validate(parquet_files(tmp_path), expectations.snapshot(), suite_name="snapshot", batch="s")
    with pytest.raises(DataError, match=f"BLOCK expect_.*{named}"):
        enforce(result)


# --- what is unknown --------------------------------------------------------------------------------------

UNKNOWN = {
    "a column that is not there": (
        gxe.ExpectColumnMeanToBeBetween(column="distnce", min_value=0, severity="info"),
        "there is no column 'distnce'. Did you mean 'distance'?",
    ),
    "one of two columns": (
        gxe.ExpectColumnPairValuesAToBeGreaterThanB(column_A="known_at", column_B="dep_ut", severity="info"),
        "there is no column 'dep_ut'. Did you mean 'dep_utc'?",
    ),
    "a number as bound of a time": (
        gxe.ExpectColumnValuesToBeBetween(column="dep_utc", min_value=5, severity="info"),
        "InvalidComparison while it was computed; 'dep_utc' is timestamp[us, tz=UTC]",
    ),
    "the mean of a text": (
        gxe.ExpectColumnMeanToBeBetween(column="carrier", min_value=0, severity="info"),
        "TypeError while it was computed; 'carrier' is string",
    ),
}


@pytest.mark.parametrize(("expectation", "error"), UNKNOWN.values(), ids=UNKNOWN)
def test_a_check_that_breaks_is_unknown_and_blocks_whatever_its_severity(expectation, error, normal):
    result = check(normal, [expectation, gxe.ExpectTableRowCountToBeBetween(min_value=1)])
    [outcome] = result.failed
    assert (outcome.error, outcome.success, outcome.severity) == (error, False, "info")
    assert result.blocked
    with pytest.raises(DataError, match=r"1 of 2 .* 1 of them could not be checked") as refused:
        enforce(result)
    assert f"UNKNOWN, {error}" in refused.value.detail


def test_a_pattern_that_is_none_is_unknown_in_words(normal):
    suite = [
        gxe.ExpectColumnValuesToMatchRegex(column="carrier", regex="[A-"),
        gxe.ExpectColumnValuesToMatchRegexList(column="carrier", regex_list=["^U", "(x"]),
    ]
    one, several = check(normal, suite).outcomes
    assert one.error.startswith("the pattern '[A-' is not valid: ")
    assert several.error.startswith("the pattern '(x' is not valid: ")


def test_an_empty_suite_is_no_pass(normal):
    result = check(normal, [])
    assert result.blocked
    with pytest.raises(DataError, match="checks nothing"):
        enforce(result)


@pytest.mark.parametrize("suite", [None, "expectations", [1], gxe.ExpectTableRowCountToBeBetween(min_value=1)])
def test_a_suite_is_a_list_of_expectations(suite, normal):
    with pytest.raises(ConfigError, match="'flights' is not a list of expectations"):
        validate(parquet_files(normal), suite, suite_name="flights", batch="b")


def test_what_the_library_cannot_run_is_said_in_words(normal):
    suite = [gxe.ExpectTableRowCountToBeBetween(min_value={"$PARAMETER": "low"})]
    with pytest.raises(ConfigError, match="could not run suite 'departures'") as refused:
        check(normal, suite)
    assert "No value found for $PARAMETER low" in refused.value.detail


# --- the batch --------------------------------------------------------------------------------------------


def test_several_files_are_one_batch(normal, tmp_path):
    table = pq.read_table(normal)
    pq.write_table(table.slice(0, 100), tmp_path / "a.parquet")
    pq.write_table(table.slice(100), tmp_path / "b.parquet")
    result = validate(parquet_files(tmp_path), expectations.departures(), suite_name="s", batch="b")
    assert (result.rows, result.failed) == (table.num_rows, ())


def test_files_that_disagree_are_refused(normal, tmp_path):
    table = pq.read_table(normal)
    pq.write_table(table, tmp_path / "a.parquet")
    pq.write_table(table.drop_columns("distance"), tmp_path / "b.parquet")
    with pytest.raises(DataError, match="different columns") as refused:
        validate(parquet_files(tmp_path), expectations.departures(), suite_name="s", batch="b")
    assert "no 'distance'" in refused.value.detail


def test_no_rows_are_refused_though_most_expectations_would_hold(tmp_path):
    folder = spoil(landed(tmp_path), lambda frame: frame.iloc[:0])
    with pytest.raises(DataError, match="no rows to validate"):
        check(folder, [gxe.ExpectColumnValuesToBeUnique(column="flight_id")])


def test_a_glob_and_a_single_file_are_batches_too(normal, tmp_path):
    [file] = parquet_files(normal)
    assert parquet_files(file) == parquet_files(normal / "dep*.parquet") == [file]
    with pytest.raises(DataError, match="no Parquet files"):
        parquet_files(normal / "nothing*.parquet")


def test_the_hash_of_a_suite_is_what_it_asks_for(normal):
    def suite_hash(**kwargs) -> str:
        ids = gxe.ExpectColumnValuesToBeUnique(column="flight_id")
        return check(normal, [ids, gxe.ExpectTableRowCountToBeBetween(**kwargs)]).suite_hash

    assert suite_hash(min_value=1) == suite_hash(min_value=1, meta={"why": "because"})
    assert suite_hash(min_value=1) != suite_hash(min_value=2)
    assert suite_hash(min_value=1) != suite_hash(min_value=1, severity="warning")


# --- what the person on call reads ------------------------------------------------------------------------


def test_the_explanation_is_part_of_the_line():
    def said(**more) -> str:
        outcome = ExpectationOutcome(expectation="schema_column", column="x", severity="block", success=False, **more)
        result = ValidationResult(
            suite="s", suite_hash="h", batch="b", batch_hash="h", rows=9, outcomes=(outcome,), engine="profile"
        )
        with pytest.raises(DataError) as refused:
            enforce(result)
        assert explain(result) in refused.value.detail
        return explain(result).removeprefix("BLOCK schema_column on 'x': ")

    renamed = "removed 'dep_delay', added 'departure_delay': renamed?; affects model flight_delay"
    assert said(note=renamed, bound={"type": "double"}) == f"{renamed}; bound: type='double'"
    assert said(observed=0, note="slice 'EV' vanished") == "observed 0; bound: none; slice 'EV' vanished"
    assert said(observed=2, unexpected_count=3) == "observed 2, 3 of 9 rows fail; bound: none"
    assert said(unexpected_count=3, note="why") == "3 of 9 rows fail; bound: none; why"
    assert said(error="it broke", note="who needs it") == "UNKNOWN, it broke (bound: none); who needs it"
    assert said() == "observed nothing; bound: none"


@pytest.mark.parametrize("engine", ["auto", "pandas"])
def test_what_has_no_figure_says_what_was_found(engine, tmp_path):
    pq.write_table(pa.table({"word": ["SECRET", "a"], "n": [1, 2]}), tmp_path / "x.parquet")
    suite = [
        gxe.ExpectColumnValuesToBeOfType(column="n", type_="float64"),
        gxe.ExpectColumnDistinctValuesToEqualSet(column="word", value_set=["a", "b", "c"]),
        gxe.ExpectColumnDistinctValuesToContainSet(column="word", value_set=["a", "b"]),
        gxe.ExpectColumnDistinctValuesToBeInSet(column="word", value_set=["a"]),
        gxe.ExpectColumnToExist(column="wrod"),
        gxe.ExpectColumnToExist(column="n", column_index=2),
    ]
    result = validate(parquet_files(tmp_path), suite, suite_name="s", batch="b", engine=engine)
    lines = [line.partition(": ")[2] for line in explain(result).splitlines()]
    assert lines == [
        "it is int64; bound: type_='float64'",
        "2 expected values are missing: 'b', 'c', 1 distinct values are not expected; bound: value_set=['a', 'b', 'c']",
        "1 expected values are missing: 'b'; bound: value_set=['a', 'b']",
        "1 distinct values are not expected; bound: value_set=['a']",
        "there is no column 'wrod'. Did you mean 'word'?; bound: none",
        "it is column 1, counted from 0; bound: column_index=2",
    ]


# --- privacy ----------------------------------------------------------------------------------------------


def test_no_raw_value_leaves(tmp_path, caplog, capfd):
    secrets = [f"SECRET{n}" for n in range(50)]
    table = pa.table({"name": secrets, "id": secrets, "n": list(range(50))})
    pq.write_table(table, tmp_path / "people.parquet")
    suite = [
        gxe.ExpectColumnValuesToBeInSet(column="name", value_set=["a"], result_format="COMPLETE"),
        gxe.ExpectColumnValuesToMatchRegex(column="name", regex="^x"),
        gxe.ExpectColumnDistinctValuesToBeInSet(column="name", value_set=["a"]),
        gxe.ExpectColumnMostCommonValueToBeInSet(column="name", value_set=["a"]),
        gxe.ExpectColumnPairValuesToBeInSet(column_A="name", column_B="id", value_pairs_set=[("a", "b")]),
        gxe.ExpectColumnMeanToBeBetween(column="name", min_value=0),
        gxe.ExpectColumnMedianToBeBetween(column="name", min_value=0),
        gxe.ExpectColumnValuesToBeBetween(column="name", min_value=0),
        gxe.ExpectColumnKLDivergenceToBeLessThan(
            column="name", partition_object={"values": ["a", "b"], "weights": [0.5, 0.5]}, threshold=0.1
        ),
    ]
    result = validate(parquet_files(tmp_path), suite, suite_name="people", batch="people")
    assert len(result.failed) == len(suite)
    with pytest.raises(DataError) as refused:
        enforce(result)
    for said in (result.to_json(), str(refused.value), explain(result), caplog.text, *capfd.readouterr()):
        assert "SECRET" not in said


def test_aggregates_do_leave(normal):
    suite = [
        gxe.ExpectColumnMaxToBeBetween(column="dep_delay", max_value=1),
        gxe.ExpectColumnMaxToBeBetween(column="sched_dep_utc", max_value=pd.Timestamp("2013-01-01", tz="UTC")),
        gxe.ExpectColumnQuantileValuesToBeBetween(
            column="distance", quantile_ranges={"quantiles": [0.5], "value_ranges": [[0, 1]]}
        ),
        gxe.ExpectTableColumnsToMatchSet(column_set=["flight_id"]),
    ]
    largest, latest, median, columns = check(normal, suite).outcomes
    table = pq.read_table(normal).to_pandas()
    assert largest.observed == table["dep_delay"].max()
    assert latest.observed == table["sched_dep_utc"].max().isoformat()
    assert median.observed == {"0.5": table["distance"].median()}
    assert sorted(columns.observed) == sorted(table.columns)


# --- lists, structs, maps ---------------------------------------------------------------------------------

NESTED = {
    "lists": pa.array([[1.0, 2.0]] * 4),
    "structs": pa.array([{"a": 1}] * 4),
    "maps": pa.array([[("a", 1)]] * 4, pa.map_(pa.string(), pa.int64())),
}
UNJUDGED = [
    lambda column: gxe.ExpectColumnValuesToBeUnique(column=column),
    lambda column: gxe.ExpectColumnValuesToBeInSet(column=column, value_set=[[1.0, 2.0]]),
    lambda column: gxe.ExpectColumnValuesToBeBetween(column=column, min_value=0, max_value=5),
    lambda column: gxe.ExpectColumnDistinctValuesToBeInSet(column=column, value_set=[1]),
    lambda column: gxe.ExpectColumnUniqueValueCountToBeBetween(column=column, max_value=9),
    lambda column: gxe.ExpectCompoundColumnsToBeUnique(column_list=["id", column]),
    lambda column: gxe.ExpectColumnMaxToBeBetween(column=column, max_value=9),
]


@pytest.mark.parametrize("engine", ["auto", "duckdb", "pandas"])
def test_what_would_compare_lists_is_unknown_and_blocks(engine, tmp_path):
    """Asked all the same, Great Expectations says that four equal lists are unique."""
    file = tmp_path / "a.parquet"
    pq.write_table(pa.table({"id": pa.array([1, 2, 3, 4]), **NESTED}), file)
    suite = [make(column) for column in NESTED for make in UNJUDGED]
    result = validate([file], suite, suite_name="nested", batch="nested", engine=engine)
    assert result.blocked
    for outcome in result.outcomes:
        assert outcome.error is not None, outcome
        assert "there is no comparing the values of" in outcome.error
    there = [gxe.ExpectColumnValuesToNotBeNull(column=column) for column in NESTED]
    there += [gxe.ExpectColumnValuesToBeUnique(column="id"), gxe.ExpectColumnToExist(column="lists")]
    assert not validate([file], there, suite_name="nested", batch="nested", engine=engine).failed
