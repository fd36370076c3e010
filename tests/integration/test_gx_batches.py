"""What is validated: damaged files, tables of PostgreSQL and DuckDB, ids of rows, expectations of a user's own."""

from __future__ import annotations

import gc
import subprocess
import sys
import uuid
from datetime import UTC, datetime, timedelta
from pathlib import Path

import duckdb
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import sqlalchemy as sa

from airflow_mlops.engine.data.parquet import parquet_files
from airflow_mlops.engine.data.validation import batches, enforce, explain, validate, validate_table
from airflow_mlops.engine.data.validation.batches import parquet_batch, table_batch
from airflow_mlops.engine.data.validation.library import prepare
from airflow_mlops.exceptions import ConfigError, DataError, TransientError
from tests.data_fixtures import landed
from tests.ledger_fixtures import postgres_server

prepare()

import great_expectations.expectations as gxe  # noqa: E402
from great_expectations.expectations.row_conditions import Column  # noqa: E402

from flights import expectations  # noqa: E402

IDS = gxe.ExpectColumnValuesToBeUnique(column="flight_id")
ROWS = gxe.ExpectTableRowCountToBeBetween(min_value=1)


@pytest.fixture(scope="module")
def day(tmp_path_factory) -> Path:
    """A landed day that nobody changes."""
    return landed(tmp_path_factory.mktemp("lake"))


def write(folder: Path, **columns) -> list[Path]:
    folder.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns), folder / "x.parquet")
    return [folder / "x.parquet"]


# --- damaged and odd files --------------------------------------------------------------------------------


def test_a_truncated_file_is_refused_in_words(day, tmp_path):
    [file] = parquet_files(day)
    (tmp_path / "x.parquet").write_bytes(file.read_bytes()[:-100])
    with pytest.raises(DataError, match="cannot be read") as refused:
        validate([tmp_path / "x.parquet"], [IDS], suite_name="s", batch="b")
    assert "x.parquet" in refused.value.detail
    assert "Traceback" not in str(refused.value)


def test_a_damaged_page_is_refused_in_words(day, tmp_path):
    [file] = parquet_files(day)
    contents = bytearray(file.read_bytes())
    column = pq.read_metadata(file).row_group(0).column(0)
    start = column.dictionary_page_offset or column.data_page_offset
    contents[start : start + column.total_compressed_size] = bytes(column.total_compressed_size)
    (tmp_path / "x.parquet").write_bytes(contents)
    with pytest.raises(DataError, match="cannot be read"):
        validate([tmp_path / "x.parquet"], [IDS], suite_name="s", batch="b")


def test_mixed_time_zones_are_refused(tmp_path):
    times = [datetime(2013, 1, 1, tzinfo=UTC)]
    for name, zone in (("a", "UTC"), ("b", "America/New_York")):
        pq.write_table(pa.table({"t": pa.array(times, pa.timestamp("us", zone))}), tmp_path / f"{name}.parquet")
    with pytest.raises(DataError, match="different columns") as refused:
        validate(parquet_files(tmp_path), [ROWS], suite_name="s", batch="b")
    assert "America/New_York" in refused.value.detail
    assert "UTC" in refused.value.detail


def test_a_column_that_is_there_twice_is_refused(tmp_path):
    pq.write_table(pa.Table.from_arrays([pa.array([1]), pa.array([2])], names=["x", "x"]), tmp_path / "x.parquet")
    with pytest.raises(DataError, match="column 'x' is there twice"):
        validate(parquet_files(tmp_path), [ROWS], suite_name="s", batch="b")


def test_names_that_differ_by_case_alone_are_refused(tmp_path):
    """The library mixes them up: it gives the maximum of `x` as that of `X`."""
    with pytest.raises(DataError, match="column 'x' is there twice") as refused:
        validate(write(tmp_path, x=[1, 2], X=[5, 6]), [ROWS], suite_name="s", batch="b")
    assert "'x', 'X'" in refused.value.detail


def test_one_of_a_hundred_columns_is_missing(tmp_path):
    names = [f"sensor_{n}" for n in range(100)]
    files = write(tmp_path, **{name: [1.0, 2.0] for name in names if name != "sensor_42"})
    suite = [gxe.ExpectColumnValuesToNotBeNull(column=name) for name in names]
    suite += [gxe.ExpectTableColumnsToMatchSet(column_set=names)]
    result = validate(files, suite, suite_name="s", batch="b")
    unknown, table = result.failed
    assert unknown.error.startswith("there is no column 'sensor_42'. Did you mean 'sensor_")
    assert (table.expectation, table.error) == ("expect_table_columns_to_match_set", None)
    assert result.blocked


def test_nan_and_infinities_are_reported_and_travel_as_json(tmp_path):
    files = write(tmp_path, x=pa.array([1.0, float("nan"), float("inf"), None], from_pandas=False))
    suite = [
        gxe.ExpectColumnMaxToBeBetween(column="x", max_value=5),
        gxe.ExpectColumnMeanToBeBetween(column="x", max_value=5),
        gxe.ExpectColumnValuesToNotBeNull(column="x"),
        gxe.ExpectColumnValuesToBeBetween(column="x", max_value=5),
    ]
    result = validate(files, suite, suite_name="s", batch="b")
    assert [outcome.observed for outcome in result.outcomes[:2]] == ["inf", "inf"]
    assert [outcome.unexpected_count for outcome in result.outcomes[2:]] == [2, 1]
    assert "observed inf" in explain(result)
    assert "Infinity" not in result.to_json()


def test_a_batch_that_changes_meanwhile_is_refused(tmp_path):
    class Meddling(gxe.ExpectColumnValuesToBeBetween):
        """An expectation during which somebody lands the file again."""

        def get_validation_dependencies(self, *args, **kwargs):
            write(tmp_path, x=[3.0])
            return super().get_validation_dependencies(*args, **kwargs)

    files = write(tmp_path, x=[1.0, 2.0])
    with pytest.raises(DataError, match="changed while it was validated"):
        validate(files, [Meddling(column="x", min_value=0)], suite_name="s", batch="b")


@pytest.mark.parametrize(("engine", "said"), [("dukdb", "Did you mean 'duckdb'"), (None, "no engine None")])
def test_an_engine_that_is_not_known(engine, said, day):
    with pytest.raises(ConfigError, match=said):
        validate(parquet_files(day), [ROWS], suite_name="s", batch="b", engine=engine)


def test_spark_without_its_extra_says_what_to_install(day, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyspark", None)  # what an import finds where the extra is not installed
    with pytest.raises(ConfigError, match="needs pyspark") as refused:
        validate(parquet_files(day), [ROWS], suite_name="s", batch="b", engine="spark")
    assert 'pip install "airflow-mlops[spark]"' in refused.value.hint


# --- only what is needed runs on pandas -------------------------------------------------------------------


class ExpectValuesToBeEven(gxe.ExpectColumnValuesToBeBetween):
    """A user's own: what it asks is not what its name says, so DuckDB must not be asked for it."""


def test_what_duckdb_cannot_do_runs_on_pandas_and_nothing_else(day):
    suite = [
        IDS,
        gxe.ExpectColumnValuesToMatchRegex(column="carrier", regex="^[A-Z0-9]{2}$"),
        gxe.UnexpectedRowsExpectation(unexpected_rows_query="SELECT * FROM {batch} WHERE distance < 0"),
        ExpectValuesToBeEven(column="distance", min_value=0),
    ]
    result = validate(parquet_files(day), suite, suite_name="s", batch="b")
    assert (result.failed, result.engine) == ((), "duckdb+pandas")
    assert validate(parquet_files(day), suite[:1], suite_name="s", batch="b").engine == "duckdb"


def test_a_query_finds_rows_and_shows_none(tmp_path):
    files = write(tmp_path, name=["SECRET", "b"], n=[1, 2])
    query = gxe.UnexpectedRowsExpectation(unexpected_rows_query="SELECT * FROM {batch} WHERE name = 'SECRET'")
    result = validate(files, [query], suite_name="s", batch="b")
    assert result.blocked
    assert not result.outcomes[0].error
    assert result.outcomes[0].observed == 1


@pytest.mark.parametrize("engine", ["auto", "duckdb"])
def test_a_query_reads_the_batch_and_no_other_file(engine, tmp_path):
    files = write(tmp_path / "o'ne", name=["a", "b"])
    (tmp_path / "secret.csv").write_text("x\n1\n")
    queries = [f"SELECT * FROM {{batch}}, read_csv('{tmp_path}/secret.csv')", "SELECT * FROM {batch} WHERE name = 'a'"]
    suite = [gxe.UnexpectedRowsExpectation(unexpected_rows_query=query) for query in queries]
    stranger, own = validate(files, suite, suite_name="s", batch="b", engine=engine).outcomes
    assert stranger.error
    assert "PermissionException" in stranger.error or "DatabaseError" in stranger.error
    assert own.observed == 1
    with parquet_batch(files).sql() as running, running.get_connection() as connection:
        for setting in ("enable_external_access = true", "allowed_paths = []", "memory_limit = '8GB'"):
            with pytest.raises(sa.exc.DBAPIError, match=r"Cannot|locked"):
                connection.exec_driver_sql(f"SET {setting}")
            connection.rollback()


def test_what_does_not_fit_into_memory_is_still_written_to_disk(tmp_path, monkeypatch):
    monkeypatch.setattr(batches, "_MEMORY", 48 << 20)
    rows = 600_000
    files = write(tmp_path, id=pa.array(np.arange(rows).astype(str)).cast(pa.string()))
    groups = "SELECT count(*) AS n, any_value(id || repeat('x', 90)) AS v FROM {batch} GROUP BY id || repeat('x', 90)"
    query = f"SELECT * FROM ({groups}) WHERE n > 1 AND v <> ''"
    suite = [gxe.UnexpectedRowsExpectation(unexpected_rows_query=query)]
    assert validate(files, suite, suite_name="s", batch="b").failed == ()


def test_a_column_without_a_name_is_refused(tmp_path):
    with pytest.raises(DataError, match=r"The 2\. of 2 columns has no name") as refused:
        validate(write(tmp_path, **{"x": [1], "": [2]}), [ROWS], suite_name="s", batch="b")
    assert "x.parquet" in refused.value.detail


# --- ids of rows ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("engine", ["auto", "pandas"])
def test_ids_of_failing_rows_come_when_they_are_asked_for(engine, tmp_path):
    files = write(tmp_path, id=[f"f{n}" for n in range(100)], x=list(range(100)), name=["SECRET"] * 100)
    suite = [
        gxe.ExpectColumnValuesToBeBetween(column="x", max_value=96),
        gxe.ExpectColumnValuesToBeBetween(column="x", max_value=10, severity="warning"),
        gxe.ExpectColumnValuesToMatchRegex(column="name", regex="^x", severity="info"),
        gxe.ExpectColumnMaxToBeBetween(column="x", max_value=1, severity="info"),
    ]
    some, many, text, aggregate = validate(files, suite, suite_name="s", batch="b", engine=engine, row_id="id").outcomes
    assert some.row_ids == ("f97", "f98", "f99")
    assert len(many.row_ids) == len(text.row_ids) == 20
    assert set(many.row_ids) <= {f"f{n}" for n in range(11, 100)}
    assert aggregate.row_ids == ()
    result = validate(files, suite, suite_name="s", batch="b", engine=engine, row_id="id")
    assert "rows f97, f98, f99" in explain(result)
    assert "SECRET" not in result.to_json()
    assert not any(o.row_ids for o in validate(files, suite, suite_name="s", batch="b", engine=engine).outcomes)
    with pytest.raises(ConfigError, match=r"no column 'idd'\. Did you mean 'id'"):
        validate(files, suite, suite_name="s", batch="b", row_id="idd")


# --- tables -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def odd() -> pd.DataFrame:
    random = np.random.default_rng(3)
    noon = datetime(2013, 1, 15, 12, tzinfo=UTC)
    n = 200
    return pd.DataFrame(
        {
            "flight_id": [f"f{i % 190}" for i in range(n)],
            "Delay": [np.nan if i % 7 == 0 else float(v) for i, v in enumerate(random.normal(0, 9, n).round(2))],
            "late": random.random(n) < 0.3,
            "at": [noon + timedelta(minutes=i) for i in range(n)],
            "carrier": random.choice(["UA", "B6", None], n),
        }
    )


SUITE = [
    gxe.ExpectTableRowCountToEqual(value=200),
    gxe.ExpectColumnValuesToBeUnique(column="flight_id"),
    gxe.ExpectColumnValuesToNotBeNull(column="Delay", mostly=0.9),
    gxe.ExpectColumnValuesToBeBetween(column="Delay", min_value=-5, max_value=20),
    gxe.ExpectColumnMeanToBeBetween(column="Delay", min_value=3),
    gxe.ExpectColumnMedianToBeBetween(column="Delay", min_value=3),
    gxe.ExpectColumnStdevToBeBetween(column="Delay", max_value=1),
    gxe.ExpectColumnQuantileValuesToBeBetween(
        column="Delay", quantile_ranges={"quantiles": [0.1, 0.5], "value_ranges": [[0, 1], [0, 1]]}
    ),
    gxe.ExpectColumnMeanToBeBetween(column="late", max_value=0.1),
    gxe.ExpectColumnValuesToBeInSet(column="late", value_set=[True]),
    gxe.ExpectColumnMaxToBeBetween(column="at", max_value="2013-01-15T13:00:00Z"),
    gxe.ExpectColumnDistinctValuesToEqualSet(column="carrier", value_set=["UA", "AA"]),
    gxe.ExpectColumnValuesToMatchRegex(column="carrier", regex="^U"),
    gxe.ExpectColumnValuesToNotBeNull(column="carrier", row_condition=Column("Delay") > 3),
    gxe.ExpectColumnMaxToBeBetween(column="delay", max_value=1),
]


@pytest.fixture(scope="module", params=["postgresql", "duckdb"])
def url(request, odd, tmp_path_factory) -> str:
    if request.param == "duckdb":
        file = tmp_path_factory.mktemp("duck") / "flights.duckdb"
        with duckdb.connect(str(file)) as connection:
            connection.execute("CREATE SCHEMA lake; CREATE TABLE lake.flights AS SELECT * FROM odd")
            connection.execute("CREATE TABLE lake.empty (x INTEGER)")
        return f"duckdb:///{file}"
    name = f"t{uuid.uuid4().hex}"
    with sa.create_engine(postgres_server(), isolation_level="AUTOCOMMIT").connect() as connection:
        connection.exec_driver_sql(f"CREATE DATABASE {name}")
    address = sa.make_url(postgres_server()).set(database=name)
    engine = sa.create_engine(address)
    with engine.begin() as connection:
        connection.exec_driver_sql("CREATE SCHEMA lake; CREATE TABLE lake.empty (x INTEGER)")
        odd.to_sql("flights", connection, schema="lake", index=False)
        connection.exec_driver_sql("""UPDATE lake.flights SET "Delay" = 'NaN' WHERE "Delay" IS NULL""")
    engine.dispose()
    return address.render_as_string(hide_password=False)


def test_a_table_is_answered_as_its_rows_in_a_file_are(url, odd, tmp_path):
    odd.to_parquet(tmp_path / "x.parquet")
    result = validate_table(url, "lake.flights", SUITE, suite_name="s", row_id="flight_id")
    expected = validate([tmp_path / "x.parquet"], SUITE, suite_name="s", batch="b", engine="pandas").outcomes
    assert result.rows == 200
    assert result.engine in ("pandas+postgresql", "duckdb+pandas")
    for outcome, other in zip(result.outcomes, expected, strict=True):
        assert (outcome.success, outcome.unexpected_count) == (other.success, other.unexpected_count), outcome
        assert str(outcome.observed) == str(other.observed), outcome
        assert (outcome.error is None) == (other.error is None), outcome
    assert "there is no column 'delay'. Did you mean 'Delay'?" in explain(result)
    assert set(result.outcomes[1].row_ids) == {f"f{n}" for n in range(10)}
    with pytest.raises(DataError, match=r"lake\.flights"):
        enforce(result)


def test_a_table_is_left_as_it_was(url):
    validate_table(url, "lake.flights", SUITE, suite_name="s")
    options = {"connect_args": {"read_only": True}} if url.startswith("duckdb") else {}
    engine = sa.create_engine(url, **options)
    with engine.connect() as connection:
        found = connection.exec_driver_sql(
            "SELECT table_name FROM information_schema.tables WHERE table_schema IN ('lake', 'public', 'main')"
        )
        assert sorted(row[0] for row in found) == ["empty", "flights"]
    engine.dispose()


def test_the_library_closes_no_connection_that_is_still_used(url):
    """Its engine closes the database when it is garbage, whenever that is noticed."""
    with table_batch(url, "lake.flights") as batch:
        with batch.sql() as engine:
            engine.itself = engine  # so that only the garbage collector finds it
        del engine
        with batch.engine.connect() as connection:
            gc.collect()
            assert connection.exec_driver_sql("SELECT 1").scalar_one() == 1


def test_a_table_that_is_not_there_or_empty(url):
    with pytest.raises(ConfigError, match=r"no table 'lake\.flihgts'\. Did you mean 'flights'"):
        validate_table(url, "lake.flihgts", [ROWS], suite_name="s")
    with pytest.raises(DataError, match="no rows to validate"):
        validate_table(url, "lake.empty", [ROWS], suite_name="s")


def test_a_database_that_does_not_answer_may_be_asked_again():
    with pytest.raises(TransientError, match="does not answer") as refused:
        validate_table("postgresql+psycopg2://u:hunter2@127.0.0.1:1/d", "t", [ROWS], suite_name="s")
    assert "hunter2" not in str(refused.value)
    with pytest.raises(ConfigError, match="'sqlite' cannot be validated"):
        validate_table("sqlite://", "t", [ROWS], suite_name="s")


@pytest.mark.parametrize(
    "url", ["junk", "", "junk:hunter2@", "postgresql://u:hunter2@h:port/d", "postgresql+x://u:hunter2@h/d"]
)
def test_a_url_that_is_none_is_refused_without_its_password(url):
    with pytest.raises(ConfigError, match="URL of the database cannot be used") as refused:
        validate_table(url, "t", [ROWS], suite_name="s")
    assert "hunter2" not in str(refused.value)


def test_a_nan_of_numeric_is_missing():
    engine = sa.create_engine(postgres_server(), isolation_level="AUTOCOMMIT")
    name = f"t{uuid.uuid4().hex}"
    with engine.connect() as connection:
        connection.exec_driver_sql(f"CREATE TABLE {name} AS SELECT unnest(ARRAY[1.5, 'NaN', NULL]::numeric[]) AS x")
    suite = [
        gxe.ExpectColumnValuesToNotBeNull(column="x"),
        gxe.ExpectColumnMaxToBeBetween(column="x", max_value=2),
        gxe.ExpectColumnMeanToBeBetween(column="x", max_value=1),
    ]
    missing, largest, mean = validate_table(postgres_server(), name, suite, suite_name="s").outcomes
    assert (missing.success, missing.unexpected_count) == (False, 2)
    assert (largest.success, largest.observed, mean.observed) == (True, 1.5, 1.5)
    with engine.connect() as connection:
        connection.exec_driver_sql(f"DROP TABLE {name}")
    engine.dispose()


def test_a_duckdb_file_is_read_with_what_lies_beside_it_and_nothing_else(tmp_path):
    (tmp_path / "elsewhere").mkdir()
    for name in ("lake/x.csv", "elsewhere/y.csv"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("x\n1\n")
    file = tmp_path / "lake" / "flights.duckdb"
    with duckdb.connect(str(file)) as connection:
        connection.execute("CREATE TABLE decimals AS SELECT 1.5::DECIMAL(9, 2) AS x")
        connection.execute(f"CREATE VIEW beside AS FROM read_csv('{tmp_path}/lake/x.csv')")
        connection.execute(f"CREATE VIEW far AS FROM read_csv('{tmp_path}/elsewhere/y.csv')")
    far = gxe.UnexpectedRowsExpectation(unexpected_rows_query=f"FROM {{batch}}, read_csv('{tmp_path}/elsewhere/y.csv')")
    maximum = gxe.ExpectColumnMaxToBeBetween(column="x", max_value=2)
    for table in ("decimals", "beside"):
        stranger, own = validate_table(f"duckdb:///{file}", table, [far, maximum], suite_name="s").outcomes
        assert stranger.error
        assert own.success
    with pytest.raises(DataError, match="table cannot be read") as refused:
        validate_table(f"duckdb:///{file}", "far", [maximum], suite_name="s")
    assert refused.value.detail == "table 'far': PermissionException"


def test_a_suite_in_a_process_of_its_own_is_quiet(day):
    """No progress bars, no telemetry, nothing of the library's own in the log."""
    code = f"""
import sys
sys.path.insert(0, {str(Path(expectations.__file__).parent.parent)!r})
from pathlib import Path
from airflow_mlops.engine.data.validation import load_suite, validate
from airflow_mlops.engine.data.parquet import parquet_files
result = validate(parquet_files(Path({str(day)!r})), load_suite("flights.expectations:departures"), batch="b")
print(len(result.outcomes), len(result.failed))
"""
    done = subprocess.run([sys.executable, "-c", code], check=True, timeout=120, capture_output=True, text=True)
    assert done.stdout == "13 0\n"
    assert "Calculating" not in done.stderr
    assert "great_expectations" not in done.stderr
