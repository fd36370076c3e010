"""Spark says what pandas says. Run with the extra: ``pytest -m spark``, after ``uv sync --extra spark``."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from airflow_mlops.engine.data.parquet import parquet_files
from airflow_mlops.engine.data.validation import load_suite, validate
from airflow_mlops.engine.data.validation.library import prepare
from tests.data_fixtures import landed

prepare()

import great_expectations.expectations as gxe  # noqa: E402

pytestmark = pytest.mark.spark


@pytest.mark.parametrize("feed", ["departures", "arrivals"])
def test_a_real_day_is_answered_as_by_pandas(feed, code_path, tmp_path):
    files = parquet_files(landed(tmp_path, feed))
    suite = load_suite(f"flights.expectations:{feed}", code_path)
    spark, pandas = (validate(files, suite, batch="b", engine=engine) for engine in ("spark", "pandas"))
    assert (spark.engine, spark.failed) == ("spark", ())
    assert spark.outcomes == pandas.outcomes


def test_nan_is_missing_and_what_fails_is_counted(tmp_path: Path):
    values = [1.0, float("nan"), 3.0, None, 9.0]
    table = pa.table({"x": pa.array(values, from_pandas=False), "Name": ["a", "b", "b", None, "c"]})
    pq.write_table(table, tmp_path / "x.parquet")
    suite = [
        gxe.ExpectColumnValuesToNotBeNull(column="x"),
        gxe.ExpectColumnMeanToBeBetween(column="x", max_value=4),
        gxe.ExpectColumnValuesToBeBetween(column="x", max_value=5),
        gxe.ExpectColumnValuesToMatchRegex(column="Name", regex="^[ab]"),
        gxe.ExpectColumnMeanToBeBetween(column="y", max_value=4),
    ]
    spark, pandas = (
        validate([tmp_path / "x.parquet"], suite, suite_name="s", batch="b", engine=engine, row_id="Name").outcomes
        for engine in ("spark", "pandas")
    )
    assert [(o.success, o.unexpected_count, o.observed, o.error) for o in spark] == [
        (o.success, o.unexpected_count, o.observed, o.error) for o in pandas
    ]
    assert spark[0].unexpected_count == 2
    assert spark[2].row_ids == ("c",)
