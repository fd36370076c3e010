"""Suites of expectations: from Python and JSON, one hash, and every typo found before anything runs."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from airflow_mlops.engine.data.validation import Suite, load_suite
from airflow_mlops.exceptions import ConfigError

IDS = {"type": "expect_column_values_to_be_unique", "kwargs": {"column": "id"}}
DELAYS = {
    "type": "expect_column_values_to_be_between",
    "kwargs": {"column": "delay", "min_value": -60, "mostly": 0.9},
    "severity": "warning",
    "meta": {"why": "sensors"},
}


def written(folder: Path, content: Any, name: str = "flights.json") -> str:
    (folder / name).write_text(content if isinstance(content, str) else json.dumps(content))
    return str(folder / name)


def of(folder: Path, *expectations: dict[str, Any], **more: Any) -> Suite:
    return load_suite(written(folder, {"name": "flights", "expectations": list(expectations), **more}))


def test_json_is_read_as_great_expectations_writes_it(tmp_path):
    import great_expectations as gx
    import great_expectations.expectations as gxe
    from great_expectations.expectations.row_conditions import Column

    original = gx.ExpectationSuite(
        "flights",
        [
            gxe.ExpectColumnValuesToBeBetween(column="delay", max_value=9, row_condition=Column("late") == "yes"),
            gxe.ExpectTableRowCountToBeBetween(min_value=3, severity="info", meta={"why": "x"}),
        ],
        meta={"version": "7"},
    )
    suite = load_suite(written(tmp_path, original.to_json_dict()))
    assert (suite.name, suite.version) == ("flights", "7")
    assert suite.hash == Suite("other", "", tuple(original.expectations)).hash
    assert [e.configuration for e in suite.expectations] == [e.configuration for e in original.expectations]


def test_a_relative_path_starts_at_the_dag_file_and_the_name_defaults_to_the_file(tmp_path):
    written(tmp_path, {"expectations": [IDS]})
    suite = load_suite("flights.json", str(tmp_path))
    assert (suite.name, suite.version, len(suite.expectations)) == ("flights", "", 1)


def test_python_gives_a_list_or_a_suite_of_the_library(tmp_path):
    (tmp_path / "rules_of_mine.py").write_text(
        "import great_expectations as gx, great_expectations.expectations as gxe\n"
        "def rules(): return [gxe.ExpectColumnValuesToBeUnique(column='id')]\n"
        "def suite(): return gx.ExpectationSuite('s', rules(), meta={'version': 4})\n"
        "def waiting(): return [gxe.ExpectTableRowCountToBeBetween(min_value={'$PARAMETER': 'low'})]\n"
        "def nothing(): return None\n"
    )
    rules, suite = (load_suite(f"rules_of_mine:{name}", str(tmp_path)) for name in ("rules", "suite"))
    assert (rules.name, rules.version, suite.version) == ("rules_of_mine:rules", "", "4")
    assert rules.hash == suite.hash == of(tmp_path, IDS).hash
    with pytest.raises(ConfigError, match="could not run suite") as refused:
        load_suite("rules_of_mine:waiting", str(tmp_path))
    assert "No value found for $PARAMETER low" in refused.value.detail
    with pytest.raises(ConfigError, match="not a list of expectations"):
        load_suite("rules_of_mine:nothing", str(tmp_path))
    with pytest.raises(ConfigError, match=r"no 'rule'\. Did you mean 'rules'"):
        load_suite("rules_of_mine:rule", str(tmp_path))
    with pytest.raises(ConfigError, match="names no suite"):
        load_suite("rules_of_mine")


def test_the_hash_is_what_is_asked_for_in_any_order(tmp_path):
    suite = of(tmp_path, IDS, DELAYS)
    assert of(tmp_path, DELAYS, IDS).hash == suite.hash
    assert of(tmp_path, IDS, {**DELAYS, "meta": {}}, meta={"version": "9"}).hash == suite.hash
    for changed in ({"severity": "info"}, {"kwargs": {**DELAYS["kwargs"], "min_value": -61}}):
        assert of(tmp_path, IDS, {**DELAYS, **changed}).hash != suite.hash
    assert of(tmp_path, IDS).hash != of(tmp_path, IDS, IDS).hash


NAN_IN_A_SET = {"column": "id", "value_set": [1, float("nan")]}
TYPOS = {
    "a type": (
        {"expectations": [IDS, {**DELAYS, "type": "expect_column_values_to_be_betwen"}]},
        ["'expect_column_values_to_be_betwen'", "Did you mean 'expect_column_values_to_be_between'?", "expectation 2"],
    ),
    "an argument": (
        {"expectations": [{**IDS, "kwargs": {"colum": "id"}}]},
        ["'colum'", "Did you mean 'column'?", "expectation 1 (expect_column_values_to_be_unique), kwargs"],
    ),
    "a severity": (
        {"expectations": [{**IDS, "severity": "warn"}]},
        ["'warn' is no severity", "Did you mean 'warning'?", "expectation 1"],
    ),
    "a key of an expectation": ({"expectations": [{**IDS, "severty": "info"}]}, ["'severty'", "'severity'"]),
    "a key of the suite": ({"expectation": [IDS]}, ["'expectation'", "Did you mean 'expectations'?"]),
    "a suite without expectations": ({"name": "flights"}, ["'expectations' is missing"]),
    "an argument that is missing": ({"expectations": [{**IDS, "kwargs": {}}]}, ["column: field required"]),
    "an argument out of range": (
        {"expectations": [{**IDS, "kwargs": {"column": "id", "mostly": 95}}]},
        ["mostly", "less than or equal to 1"],
    ),
    "no bound": (
        {"expectations": [{**DELAYS, "kwargs": {"column": "delay"}}]},
        ["min_value and max_value cannot both be None"],
    ),
    "a minimum above the maximum": (
        {"expectations": [{**DELAYS, "kwargs": {"column": "delay", "min_value": 5, "max_value": 1}}]},
        ["can never hold: min_value=5.0 is greater than max_value=1.0", f"{DELAYS['type']} on 'delay'"],
    ),
    "a bound that is no number": (
        '{"expectations": [{"type": "expect_column_max_to_be_between", "kwargs": {"column": "x", "max_value": NaN}}]}',
        ["can never hold: max_value is NaN", "expect_column_max_to_be_between on 'x'"],
    ),
    "no number in a set": (
        {"expectations": [{**IDS, "type": "expect_column_values_to_be_in_set", "kwargs": NAN_IN_A_SET}]},
        ["can never hold: value_set holds a NaN"],
    ),
    "no kwargs": ({"expectations": [{"type": IDS["type"]}]}, ["'kwargs' is missing"]),
    "kwargs that are a list": ({"expectations": [{**IDS, "kwargs": []}]}, ["'kwargs' is a list"]),
    "a text for an expectation": ({"expectations": ["unique"]}, ["An expectation is a str"]),
    "an object of expectations": ({"expectations": {"a": IDS}}, ["'expectations' is a dict"]),
    "a list for a suite": ([IDS], ["holds a list"]),
    "a key twice": ('{"name": "a", "name": "b", "expectations": []}', ["'name' is there twice"]),
    "damaged": ('{"name": "a",\n "expectations": [', ["not valid JSON", "line 2"]),
    "empty": ("", ["not valid JSON"]),
}


@pytest.mark.parametrize(("content", "said"), TYPOS.values(), ids=TYPOS)
def test_a_typo_is_said_in_words_with_its_file(content, said, tmp_path):
    file = written(tmp_path, content)
    with pytest.raises(ConfigError) as refused:
        load_suite(file)
    words = str(refused.value)
    assert file in words
    for part in said:
        assert part in words
    assert "Traceback" not in words


def test_a_file_that_is_not_there(tmp_path):
    written(tmp_path, {"expectations": []})
    with pytest.raises(ConfigError, match=r"no suite 'flihgts\.json'\. Did you mean 'flights\.json'"):
        load_suite("flihgts.json", str(tmp_path))
    (tmp_path / "binary.json").write_bytes(b"\xff\xfe{")
    with pytest.raises(ConfigError, match="cannot be read"):
        load_suite("binary.json", str(tmp_path))


def test_the_library_comes_without_what_a_check_seldom_needs():
    """A third of its import's CPU time. What needs them finds them whole."""
    code = """
import sys
from airflow_mlops.engine.data.validation import library
library.prepare()
import great_expectations.expectations as gxe
assert {type(sys.modules[name]).__name__ for name in ("altair", "scipy.stats")} == {"_OnFirstUse"}
from scipy import stats
from scipy.stats import norm
import altair
assert round(stats.entropy([0.5, 0.5], [0.9, 0.1]), 4) == 0.5108 and norm.cdf(0) == 0.5
assert altair.Chart and sys.modules["altair"] is altair
assert {type(sys.modules[name]).__name__ for name in ("altair", "scipy.stats")} == {"module"}
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)
