"""DuckDB says what Great Expectations says on pandas: same verdict, same aggregates, same counts."""

from __future__ import annotations

import json
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from airflow_mlops.contracts import ExpectationOutcome
from airflow_mlops.engine.data.validation import validate
from airflow_mlops.engine.data.validation.batches import parquet_batch
from airflow_mlops.engine.data.validation.choosing import adapted, fits_sql
from airflow_mlops.engine.data.validation.library import prepare
from airflow_mlops.engine.data.validation.results import _observed

prepare()

import great_expectations as gx  # noqa: E402
import great_expectations.expectations as gxe  # noqa: E402
from great_expectations.data_context.types.base import ProgressBarsConfig  # noqa: E402
from great_expectations.expectations.row_conditions import Column  # noqa: E402

ROWS = 300
NOON = datetime(2013, 1, 15, 12, tzinfo=UTC)


def some(values, every: int) -> list[Any]:
    """Return values with every so-many-th missing."""
    return [None if n % every == 0 else value for n, value in enumerate(values)]


def table() -> pa.Table:
    random = np.random.default_rng(1)
    ints = random.integers(-50, 50, ROWS).tolist()
    floats = random.normal(10, 5, ROWS).round(3).tolist()
    words = random.choice(["JFK", "LGA", "EWR", "a", "Ünïcode"], ROWS).tolist()
    times = [NOON + timedelta(minutes=int(n)) for n in random.integers(0, 900, ROWS)]
    flags = (random.random(ROWS) < 0.2).tolist()
    nans = [float("nan") if n % 11 == 0 else value for n, value in enumerate(floats)]
    return pa.table(
        {
            "id": [f"f{n}" for n in range(ROWS)],
            "Mixed Case": pa.array(ints, pa.int64()),
            "int": pa.array(ints, pa.int64()),
            "int_null": pa.array(some(ints, 7), pa.int64()),
            "float": pa.array(floats, pa.float64()),
            "float_null": pa.array(some(floats, 9), pa.float64()),
            "nan": pa.array(some(nans, 5), pa.float64(), from_pandas=False),
            "inf": pa.array([float("inf") if n == 3 else f for n, f in enumerate(floats)], pa.float64()),
            "f32": pa.array(floats, pa.float32()),
            "word": pa.array(words),
            "word_null": pa.array(some(words, 8)),
            "digits": pa.array([str(n % 9) for n in range(ROWS)]),
            "time": pa.array(times, pa.timestamp("us", "UTC")),
            "time_null": pa.array(some(times, 6), pa.timestamp("us", "UTC")),
            "later": pa.array([t + timedelta(minutes=5) for t in times], pa.timestamp("us", "UTC")),
            "clock": pa.array([t.replace(tzinfo=None) for t in times], pa.timestamp("ns")),
            "day": pa.array([t.date() for t in times], pa.date32()),
            "flag": pa.array(flags),
            "flag_null": pa.array(some(flags, 4)),
            "none": pa.array([None] * ROWS, pa.float64()),
            "a": pa.array([n % 20 for n in range(ROWS)], pa.int64()),
            "b": pa.array([n // 20 for n in range(ROWS)], pa.int64()),
        }
    )


def quantiles(low: float, high: float) -> dict[str, Any]:
    return {"quantiles": [0.05, 0.5, 0.9], "value_ranges": [[low, high]] * 3}


late = datetime(2013, 1, 15, 18, tzinfo=UTC)
EXPECTATIONS = [
    gxe.ExpectTableRowCountToBeBetween(min_value=10, max_value=299),
    gxe.ExpectTableRowCountToEqual(value=ROWS),
    gxe.ExpectTableColumnCountToEqual(value=22),
    gxe.ExpectTableColumnCountToBeBetween(max_value=3),
    gxe.ExpectTableColumnsToMatchSet(column_set=["id"], exact_match=False),
    gxe.ExpectTableColumnsToMatchSet(column_set=["id"]),
    gxe.ExpectTableColumnsToMatchOrderedList(column_list=table().column_names),
    gxe.ExpectColumnToExist(column="id"),
    gxe.ExpectColumnToExist(column="idd"),
    *(
        made
        for column in ("int", "int_null", "float_null", "nan", "word_null", "time_null", "flag_null", "none")
        for made in (
            gxe.ExpectColumnValuesToNotBeNull(column=column),
            gxe.ExpectColumnValuesToNotBeNull(column=column, mostly=0.85),
            gxe.ExpectColumnValuesToBeNull(column=column, mostly=0.1),
            gxe.ExpectColumnValuesToBeUnique(column=column),
            gxe.ExpectColumnUniqueValueCountToBeBetween(column=column, min_value=3, max_value=90),
            gxe.ExpectColumnProportionOfUniqueValuesToBeBetween(column=column, min_value=0.01, max_value=0.2),
            gxe.ExpectColumnProportionOfNonNullValuesToBeBetween(column=column, min_value=0.8),
        )
    ),
    *(
        made
        for column in (
            "Mixed Case",
            "int_null",
            "float",
            "float_null",
            "nan",
            "inf",
            "flag",
            "flag_null",
        )
        for made in (
            gxe.ExpectColumnValuesToBeBetween(column=column, min_value=-5, max_value=15.5),
            gxe.ExpectColumnValuesToBeBetween(column=column, min_value=-5, strict_min=True, mostly=0.5),
            gxe.ExpectColumnMinToBeBetween(column=column, min_value=-20),
            gxe.ExpectColumnMaxToBeBetween(column=column, max_value=20),
            gxe.ExpectColumnMeanToBeBetween(column=column, min_value=0, max_value=11),
            gxe.ExpectColumnSumToBeBetween(column=column, min_value=0, max_value=1e6),
            gxe.ExpectColumnStdevToBeBetween(column=column, min_value=0.1, max_value=11),
            gxe.ExpectColumnMedianToBeBetween(column=column, min_value=0, max_value=11),
            gxe.ExpectColumnValuesToBeInSet(column=column, value_set=[1, 2, 3.5]),
            gxe.ExpectColumnValuesToNotBeInSet(column=column, value_set=[1, 2, 3.5]),
        )
    ),
    *(
        gxe.ExpectColumnQuantileValuesToBeBetween(column=column, quantile_ranges=quantiles(-100, 18))
        for column in ("int", "float", "float_null", "nan", "f32")
    ),
    gxe.ExpectColumnValuesToBeInSet(column="flag_null", value_set=[True]),
    gxe.ExpectColumnValuesToBeInSet(column="flag", value_set=[True, False]),
    gxe.ExpectColumnDistinctValuesToEqualSet(column="flag_null", value_set=[True, False]),
    gxe.ExpectColumnDistinctValuesToEqualSet(column="word", value_set=["JFK", "LGA", "EWR", "a", "Ünïcode"]),
    gxe.ExpectColumnDistinctValuesToBeInSet(column="word_null", value_set=["JFK", "LGA"]),
    gxe.ExpectColumnDistinctValuesToContainSet(column="word_null", value_set=["JFK", "nowhere"]),
    gxe.ExpectColumnDistinctValuesToContainSet(column="int_null", value_set=[1, 2, 3]),
    gxe.ExpectColumnMostCommonValueToBeInSet(column="flag", value_set=[False]),
    gxe.ExpectColumnValuesToBeInSet(column="word_null", value_set=["JFK", "LGA"], mostly=0.3),
    gxe.ExpectColumnValuesToBeInSet(column="digits", value_set=[1, 2, 3]),
    gxe.ExpectColumnValuesToNotBeInSet(column="word", value_set=["a"]),
    gxe.ExpectColumnValueLengthsToEqual(column="word_null", value=3),
    gxe.ExpectColumnValueLengthsToBeBetween(column="word", min_value=2, max_value=6),
    gxe.ExpectColumnValuesToBeBetween(column="digits", min_value=0, max_value=9),
    gxe.ExpectColumnMeanToBeBetween(column="digits", min_value=0),
    gxe.ExpectColumnValuesToMatchRegex(column="word_null", regex="^[A-Z]{3}$"),
    gxe.ExpectColumnValuesToNotMatchRegex(column="word", regex="^a"),
    gxe.ExpectColumnValuesToMatchRegexList(column="word", regex_list=["^[A-Z]", "^a"]),
    gxe.ExpectColumnValuesToBeOfType(column="float", type_="float64"),
    gxe.ExpectColumnValuesToBeInTypeList(column="int", type_list=["int64", "INTEGER"]),
    gxe.ExpectColumnValuesToBeIncreasing(column="b"),
    gxe.ExpectColumnValuesToBeIncreasing(column="a"),
    gxe.ExpectColumnValueZScoresToBeLessThan(column="float", threshold=2, double_sided=True),
    gxe.ExpectColumnValuesToBeDateutilParseable(column="digits"),
    gxe.ExpectColumnValuesToMatchStrftimeFormat(column="word", strftime_format="%Y"),
    gxe.ExpectColumnValuesToBeBetween(column="time", min_value=NOON, max_value=late),
    gxe.ExpectColumnValuesToBeBetween(column="time_null", min_value=NOON),
    gxe.ExpectColumnValuesToBeBetween(column="day", min_value=date(2013, 1, 15), max_value=date(2013, 1, 15)),
    gxe.ExpectColumnValuesToBeBetween(column="clock", min_value=NOON.replace(tzinfo=None)),
    gxe.ExpectColumnMaxToBeBetween(column="clock", max_value=late.replace(tzinfo=None)),
    gxe.ExpectColumnMinToBeBetween(column="time", min_value=NOON, max_value=late),
    gxe.ExpectColumnMaxToBeBetween(column="time_null", max_value=late),
    gxe.ExpectColumnPairValuesToBeEqual(column_A="int", column_B="int_null"),
    gxe.ExpectColumnPairValuesToBeEqual(column_A="int", column_B="int_null", ignore_row_if="either_value_is_missing"),
    gxe.ExpectColumnPairValuesToBeEqual(column_A="float", column_B="nan", ignore_row_if="both_values_are_missing"),
    gxe.ExpectColumnPairValuesToBeEqual(column_A="time", column_B="time_null", mostly=0.5),
    gxe.ExpectColumnPairValuesAToBeGreaterThanB(column_A="later", column_B="time_null"),
    gxe.ExpectColumnPairValuesAToBeGreaterThanB(column_A="later", column_B="time", or_equal=True),
    gxe.ExpectColumnPairValuesAToBeGreaterThanB(
        column_A="int", column_B="int_null", ignore_row_if="either_value_is_missing", or_equal=True
    ),
    gxe.ExpectColumnPairValuesToBeInSet(column_A="a", column_B="b", value_pairs_set=[(0, 0), (1, 0)]),
    gxe.ExpectCompoundColumnsToBeUnique(column_list=["a", "b"]),
    gxe.ExpectCompoundColumnsToBeUnique(column_list=["a", "int_null"]),
    gxe.ExpectSelectColumnValuesToBeUniqueWithinRecord(column_list=["a", "b"]),
    gxe.ExpectMulticolumnSumToEqual(column_list=["a", "b"], sum_total=20),
    gxe.ExpectMulticolumnValuesToBeEqual(column_list=["int", "int_null"]),
    gxe.ExpectColumnKLDivergenceToBeLessThan(
        column="flag", partition_object={"values": [True, False], "weights": [0.2, 0.8]}, threshold=0.5
    ),
    gxe.ExpectColumnValuesToBeInSet(column="flag", value_set=[True], row_condition=Column("int_null").is_null()),
    gxe.ExpectColumnValuesToBeBetween(column="nan", min_value=5, row_condition=Column("nan").is_not_null()),
    gxe.ExpectColumnValuesToNotBeNull(column="word_null", row_condition=Column("float_null") > 10),
    gxe.ExpectColumnValuesToBeUnique(column="int", row_condition=Column("word") == "a"),
    gxe.ExpectColumnValuesToNotBeNull(column="word", row_condition=Column("int_null") != 3),
    gxe.ExpectColumnMeanToBeBetween(column="float", min_value=10, row_condition=Column("word").is_in(["a", "JFK"])),
    gxe.ExpectColumnMeanToBeBetween(column="int", min_value=0, row_condition=Column("flag") == True),  # noqa: E712
    gxe.ExpectTableRowCountToBeBetween(min_value=100, row_condition=Column("int_null").is_not_null()),
    gxe.ExpectColumnValuesToBeBetween(column="float", max_value=9, row_condition=Column("time") > late),
    gxe.ExpectColumnMaxToBeBetween(column="int", max_value=30, row_condition=(Column("a") > 3) & (Column("b") < 9)),
    gxe.ExpectColumnValuesToNotBeNull(
        column="word_null", row_condition='float_null > 10 and word == "a"', condition_parser="pandas"
    ),
]


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> list[Path]:
    folder = tmp_path_factory.mktemp("odd") / "key=1"  # must not become a column
    folder.mkdir()
    pq.write_table(table().slice(0, 100), folder / "o'ne.parquet")
    pq.write_table(table().slice(100), folder / "two.parquet")
    return [folder / "o'ne.parquet", folder / "two.parquet"]


class Answers:
    """What three ways of asking said, in the order of the suite."""

    def __init__(self, files: list[Path], frame, expectations) -> None:
        self.plain = plain(frame, expectations)
        self.auto, self.pandas = (
            validate(files, expectations, suite_name="odd", batch="odd", engine=engine).outcomes
            for engine in ("auto", "pandas")
        )


def plain(frame, expectations) -> list[tuple[Any, ...]]:
    """Return what Great Expectations says by its own means, with its own defaults."""
    context = gx.get_context(mode="ephemeral")
    context.variables.progress_bars = ProgressBarsConfig(globally=False)
    asset = context.data_sources.add_pandas("pandas").add_dataframe_asset("batch")
    batch = asset.add_batch_definition_whole_dataframe("all").get_batch({"dataframe": frame})
    answer = batch.validate(gx.ExpectationSuite("odd", list(expectations)))
    found = {key(result.expectation_config): result for result in answer.results}
    results = [found[key(expectation.configuration)] for expectation in expectations]
    return [
        (result.success, (result.result or {}).get("unexpected_count"), _observed(result.result or {}))
        for result in results
    ]


def key(configuration) -> str:
    """Return what tells two expectations of the suite apart: the library returns them in another order."""
    asked = configuration.to_json_dict()
    return json.dumps([asked["type"], {k: v for k, v in asked["kwargs"].items() if k != "batch_id"}], sort_keys=True)


def said(outcome: ExpectationOutcome) -> tuple[Any, ...]:
    about_columns = outcome.expectation.startswith("expect_table_column")
    return outcome.success, outcome.unexpected_count, None if about_columns else outcome.observed


@pytest.fixture(scope="module")
def answers(files) -> Answers:
    return Answers(files, table().to_pandas(), EXPECTATIONS)


def labels() -> list[str]:
    return [f"{n} {e.expectation_type} {getattr(e, 'column', '')}" for n, e in enumerate(EXPECTATIONS)]


@pytest.mark.parametrize("n", range(len(EXPECTATIONS)), ids=labels())
def test_the_answer_is_that_of_plain_great_expectations_on_pandas(n, answers):
    is_about_columns = answers.auto[n].expectation.startswith("expect_table_column")
    verdict, count, observed = answers.plain[n]
    assert said(answers.auto[n]) == (verdict, count, None if is_about_columns else observed)
    assert answers.auto[n] == answers.pandas[n]


def test_most_of_it_is_answered_by_duckdb(files):
    kinds = parquet_batch(files).kinds
    pandas = {e.expectation_type for e in EXPECTATIONS if not fits_sql(adapted(e, kinds, sql=True), kinds)}
    assert "expect_column_values_to_match_regex" in pandas
    assert pandas <= {
        "expect_column_kl_divergence_to_be_less_than",
        "expect_column_mean_to_be_between",  # of a text
        "expect_column_most_common_value_to_be_in_set",
        "expect_column_pair_values_to_be_in_set",
        "expect_column_value_z_scores_to_be_less_than",
        "expect_column_values_to_be_between",  # a number, and text that looks like one
        "expect_column_values_to_be_dateutil_parseable",
        "expect_column_values_to_be_in_set",  # the same
        "expect_column_values_to_be_in_type_list",
        "expect_column_values_to_be_increasing",
        "expect_column_values_to_be_of_type",
        "expect_column_values_to_match_regex",
        "expect_column_values_to_match_regex_list",
        "expect_column_values_to_match_strftime_format",
        "expect_column_values_to_not_be_null",  # where something is not equal, or in a condition of pandas
        "expect_column_values_to_not_match_regex",
        "expect_multicolumn_values_to_be_equal",
        "expect_select_column_values_to_be_unique_within_record",
    }


DIFFERENT = {
    "float32 is added up in double precision": (gxe.ExpectColumnSumToBeBetween(column="f32", min_value=0), 1e-6),
    "and averaged": (gxe.ExpectColumnMeanToBeBetween(column="f32", min_value=0), 1e-6),
}


@pytest.mark.parametrize(("expectation", "tolerance"), DIFFERENT.values(), ids=DIFFERENT)
def test_float32_differs_in_the_last_digits_only(expectation, tolerance, files):
    duckdb, pandas = (
        validate(files, [expectation], suite_name="s", batch="b", engine=engine).outcomes[0]
        for engine in ("duckdb", "pandas")
    )
    exact = float(np.sum(np.asarray(table()["f32"], dtype="float64")))
    exact = exact / ROWS if "mean" in expectation.expectation_type else exact
    assert duckdb.success == pandas.success
    assert duckdb.observed == pytest.approx(exact, abs=tolerance)
    assert pandas.observed == pytest.approx(exact, rel=1e-5)


def test_the_sum_of_no_values_is_no_evidence(files):
    expectation = gxe.ExpectColumnSumToBeBetween(column="none", min_value=0)
    outcomes = [
        validate(files, [expectation], suite_name="s", batch="b", engine=engine).outcomes[0]
        for engine in ("duckdb", "pandas")
    ]
    assert [outcome.success for outcome in outcomes] == [False, True]


def test_a_date_and_a_text_are_times_in_utc_on_both_engines(files):
    suite = [
        gxe.ExpectColumnValuesToBeBetween(column="time", min_value="2013-01-15", max_value="2013-01-15T18:00:00Z"),
        gxe.ExpectColumnValuesToBeBetween(column="time", min_value=datetime(2013, 1, 15, 18)),  # noqa: DTZ001
        gxe.ExpectColumnValuesToBeInSet(column="day", value_set=["2013-01-15"]),
        gxe.ExpectColumnMaxToBeBetween(column="clock", max_value=late),
    ]
    found = {e: validate(files, suite, suite_name="s", batch="b", engine=e).outcomes for e in ("auto", "pandas")}
    times = table()["time"].to_pylist()
    assert [outcome.unexpected_count for outcome in found["auto"]] == [
        sum(moment > late for moment in times),
        sum(moment < late for moment in times),
        sum(moment.date() != date(2013, 1, 15) for moment in times),
        None,
    ]
    assert found["auto"] == found["pandas"]
    assert not any(outcome.error for outcome in found["auto"])


@settings(max_examples=12, deadline=None, derandomize=True)
@given(
    values=st.lists(
        st.none()
        | st.floats(-1e6, 1e6, allow_nan=False).map(lambda x: round(x, 3))
        | st.just(float("nan"))
        | st.just(float("inf")),
        min_size=1,
        max_size=30,
    )
)
def test_any_column_of_floats(values, tmp_path_factory):
    folder = tmp_path_factory.mktemp("floats")
    found = pa.table({"x": pa.array(values, pa.float64(), from_pandas=False)})
    pq.write_table(found, folder / "x.parquet")
    suite = [
        gxe.ExpectColumnValuesToNotBeNull(column="x", mostly=0.5),
        gxe.ExpectColumnValuesToBeUnique(column="x"),
        gxe.ExpectColumnValuesToBeBetween(column="x", min_value=-1, max_value=1000),
        gxe.ExpectColumnMinToBeBetween(column="x", min_value=0),
        gxe.ExpectColumnMaxToBeBetween(column="x", max_value=10),
        gxe.ExpectColumnMedianToBeBetween(column="x", min_value=0),
        gxe.ExpectColumnMeanToBeBetween(column="x", min_value=0),
        gxe.ExpectColumnStdevToBeBetween(column="x", min_value=0),
        gxe.ExpectColumnUniqueValueCountToBeBetween(column="x", min_value=2),
        gxe.ExpectColumnQuantileValuesToBeBetween(column="x", quantile_ranges=quantiles(-100, 100)),
    ]
    duckdb, pandas = (
        validate([folder / "x.parquet"], suite, suite_name="s", batch="b", engine=engine).outcomes
        for engine in ("auto", "pandas")
    )
    assert [(o.success, o.unexpected_count, o.error) for o in duckdb] == [
        (o.success, o.unexpected_count, o.error) for o in pandas
    ]
    assert [str(o.observed) for o in duckdb] == [str(o.observed) for o in pandas]
