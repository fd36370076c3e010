"""Splits: by time, or so that all rows of a value are on one side, everywhere and always the same one."""

from __future__ import annotations

import subprocess
import sys
from datetime import UTC, datetime, timedelta

import pyarrow as pa
import pyarrow.compute as pc
import pytest

from airflow_mlops.contracts import Exclusion, SplitRule
from airflow_mlops.engine.data.splits import by_entity, by_time, without
from airflow_mlops.exceptions import ConfigError

START = datetime(2013, 1, 1, tzinfo=UTC)
RULE = SplitRule(kind="entity", column="tail", validation=0.1, test=0.2)


def rows(n: int = 5000) -> pa.Table:
    times = [START + timedelta(minutes=i) for i in range(n)]
    return pa.table({"at": pa.array(times, pa.timestamp("us", "UTC")), "tail": [f"N{i % 1000}" for i in range(n)]})


def split(table: pa.Table, rule: SplitRule = RULE) -> dict:
    return by_entity(table, rule, START, START + timedelta(days=4))


def test_by_time_the_last_part_is_for_testing():
    end = START + timedelta(minutes=5000)
    splits = by_time(rows(), "at", START, end, validation=timedelta(minutes=10), test=timedelta(minutes=5))
    assert {name: found.rows.num_rows for name, found in splits.items()} == {"train": 4985, "validation": 10, "test": 5}
    assert pc.min(splits["test"].rows["at"]).as_py() == splits["test"].start == splits["validation"].end


def test_by_entity_no_value_is_on_two_sides_and_the_shares_are_met():
    splits = split(rows())
    values = {name: set(found.rows["tail"].to_pylist()) for name, found in splits.items()}
    assert sum(map(len, values.values())) == 1000
    assert sum(found.rows.num_rows for found in splits.values()) == 5000
    assert 160 < len(values["test"]) < 240
    assert 70 < len(values["validation"]) < 130


def test_the_side_depends_on_value_and_salt_only():
    whole, part = split(rows()), split(rows().slice(100, 900))
    assert set(part["test"].rows["tail"].to_pylist()) <= set(whole["test"].rows["tail"].to_pylist())
    salted = split(rows(), RULE.model_copy(update={"salt": "other"}))
    assert set(salted["test"].rows["tail"].to_pylist()) != set(whole["test"].rows["tail"].to_pylist())
    numbers = split(pa.table({"tail": pa.array(range(1000))}))
    as_text = split(pa.table({"tail": [str(i) for i in range(1000)]}))
    assert numbers["test"].rows["tail"].cast(pa.string()).equals(as_text["test"].rows["tail"])


def test_another_process_decides_alike():
    """Python's own hash of text differs from process to process; a split must not."""
    code = (
        "import pyarrow as pa; from datetime import datetime as d;"
        "from airflow_mlops.contracts import SplitRule; from airflow_mlops.engine.data.splits import by_entity;"
        "r = SplitRule(kind='entity', column='tail', validation=.1, test=.2);"
        "t = pa.table({'tail': [f'N{i}' for i in range(40)]});"
        "print(','.join(by_entity(t, r, d.min, d.max)['test'].rows['tail'].to_pylist()))"
    )
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    here = split(pa.table({"tail": [f"N{i}" for i in range(40)]}))
    assert answer.stdout.strip().split(",") == here["test"].rows["tail"].to_pylist()


def test_rows_without_a_value_stay_together():
    splits = split(pa.table({"tail": pa.nulls(50, pa.string())}))
    assert sorted(found.rows.num_rows for found in splits.values()) == [0, 0, 50]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"column": None}, "needs a column"),
        ({"test": 0.95}, "leave a split empty"),
        ({"validation": 0.0}, "leave a split empty"),
        ({"test": None}, "needs a column and the shares"),
    ],
)
def test_a_rule_that_cannot_work_is_explained(change, words):
    with pytest.raises(ConfigError, match=f"{words}(.|\n)*fix:"):
        split(rows(10), RULE.model_copy(update=change))


def test_excluded_windows_are_half_open():
    def window(first: int, last: int) -> Exclusion:
        bounds = {"start": START + timedelta(minutes=first), "end": START + timedelta(minutes=last)}
        return Exclusion(id="e", dataset="d", reason="r", who="w", **bounds)

    left = without(rows(10), "at", [window(2, 4), window(3, 5)])
    assert [time.minute for time in left["at"].to_pylist()] == [0, 1, 5, 6, 7, 8, 9]
