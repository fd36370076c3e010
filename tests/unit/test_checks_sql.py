"""Rules across columns, evaluated by DuckDB over a landed file."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from airflow_mlops.engine.data.checks import check_invariants, run_checks
from airflow_mlops.engine.data.profiles import profile_table

TABLE = pa.table({"due": [1, 2, None, 4], "arrived": [1, 3, 3, 3], "name": ["x", "y", "1", "secret"]})


@pytest.fixture
def file(tmp_path) -> Path:
    pq.write_table(TABLE, tmp_path / "rows.parquet")
    return tmp_path / "rows.parquet"


def only(file: Path, expression: str):
    [outcome] = check_invariants([file], {"rule": expression})
    assert outcome.expectation == "invariant:rule"
    return outcome


def test_rows_that_break_a_rule_are_counted_and_null_breaks_none(file):
    assert only(file, "arrived >= 1").success
    broken = only(file, "arrived >= due -- of the same day")
    assert (broken.success, broken.unexpected_count, broken.severity) == (False, 1, "block")


@pytest.mark.parametrize(
    ("expression", "says"),
    [
        ("arived >= due", "there is no column 'arived'. Did you mean 'arrived'?"),
        ("COLUMNS(*) IS NOT NULL", "the expression is 3 columns"),
        ("arrived >=", "ParserException"),
        ("arrived >= 1;", "ParserException"),
        ("due", "the expression is BIGINT, not true or false"),
        ("cast(name AS INT) > 0", "ConversionException while it was computed"),
        ("true)) FROM batch; COPY batch TO '{folder}/stolen.csv'; --", "ParserException"),
        ("true)), count(*) FILTER (WHERE (true", "ParserException"),
        ("1 = (SELECT count(*) FROM read_csv('{folder}/other.csv'))", "PermissionException"),
        ("1 = (SELECT count(*) FROM '{folder}/other.csv')", "Exception"),
        ("INSERT INTO batch VALUES (1)", "Exception"),
    ],
)
def test_what_is_not_one_harmless_expression_is_unknown_and_blocks(file, expression, says):
    (file.parent / "other.csv").write_text("a\n1\n")
    outcome = only(file, expression.format(folder=file.parent))
    assert (outcome.success, outcome.severity) == (False, "block")
    assert says in str(outcome.error)
    assert "secret" not in outcome.to_json()
    assert sorted(path.name for path in file.parent.iterdir()) == ["other.csv", "rows.parquet"]


@pytest.mark.parametrize("type", [pa.float32(), pa.float64()])
def test_nan_breaks_a_rule_about_missing_values_and_satisfies_none(type):
    """For DuckDB NaN is larger than every number."""
    table = pa.table({"x": pa.array([1.0, float("nan")], type), "largest": pa.array([1.0, 1.0])})
    outcomes = check_invariants(table, {"there": "x IS NOT NULL", "bounded": "x <= largest", "some": "x > 5 OR x = 1"})
    assert [o.unexpected_count for o in outcomes] == [1, 0, 0]


def test_one_broken_rule_does_not_hide_the_others(file):
    outcomes = check_invariants([file], {"broken": "nothing", "kept": "arrived > 0"})
    assert [o.success for o in outcomes] == [False, True]


def test_files_that_cannot_be_read_make_every_rule_unknown(tmp_path):
    (tmp_path / "rows.parquet").write_bytes(b"PAR1 cut off")
    profile = profile_table(TABLE, dataset="d", key="2013-01-01", revision="r")
    outcomes = run_checks(profile, [], invariants={"a": "true", "b": "true"}, files=[tmp_path / "rows.parquet"])
    assert [o.error for o in outcomes if o.error] == ["The files cannot be read for a check."] * 2
