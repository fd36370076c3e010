"""Computing a day of features: what a transform returns is checked before anything is written."""

from __future__ import annotations

import sys
from datetime import UTC, datetime, timedelta

import pandas as pd
import pyarrow.parquet as pq
import pytest

from airflow_mlops.engine.features.store import FeatureRepo, ServiceSchema, ViewSchema, feature_file
from airflow_mlops.exceptions import ConfigError, DataError
from tests.feast_fixtures import compute_day, seal_days

START = datetime(2013, 1, 2, tzinfo=UTC)
VIEW = ViewSchema(keys={"origin": "string"}, features={"delay": "double", "n": "int64"}, ttl_seconds=86400)
REPO = FeatureRepo(
    project="p", hash="h", views={"traffic": VIEW}, services={"s": ServiceSchema(views=("traffic",), features={})}
)


@pytest.fixture(scope="module")
def sealed(tmp_path_factory):
    home = tmp_path_factory.mktemp("sealed")
    seal_days(home, 2)
    return home


def rows(**changes) -> pd.DataFrame:
    columns = {
        "origin": ["JFK", "EWR"],
        "delay": [1.5, None],
        "n": [3, 4],
        "event_timestamp": pd.to_datetime([START, START]),
        "created_timestamp": pd.to_datetime([START, START]),
        "spare": [0, 0],
    }
    return pd.DataFrame({**columns, **changes})


@pytest.fixture
def compute(sealed, tmp_path, monkeypatch):
    """Compute 2 January with a transform that returns what it is told to."""
    (tmp_path / "returning.py").write_text("def compute(day, data):\n    return answer(day, data)\n")
    sys.modules.pop("returning", None)

    def call(answer, key="2013-01-02", **changes):
        import importlib

        monkeypatch.syspath_prepend(str(tmp_path))
        module = importlib.import_module("returning")
        module.answer = answer if callable(answer) else lambda day, data: answer
        return compute_day(sealed, key, repo=REPO, transform="returning:compute", code_path=str(tmp_path), **changes)

    yield call
    sys.modules.pop("returning", None)


def test_the_transform_gets_the_history_and_the_day_and_its_rows_are_written_in_order(sealed, compute):
    seen = {}

    def answer(day, data):
        seen["day"] = day
        seen["days"] = sorted({str(at.date()) for at in data["departures"]["sched_dep_utc"]})
        return {"traffic": rows()}

    assert compute(answer) == {"key": "2013-01-02", "views": {"traffic": 2}}
    assert seen == {"day": START.date(), "days": ["2013-01-01", "2013-01-02"]}
    written = pq.read_table(feature_file(sealed, "traffic", "2013-01-02"))
    assert written.column_names == ["origin", "delay", "n", "event_timestamp", "created_timestamp"]
    assert [str(kind) for kind in written.schema.types[:3]] == ["string", "double", "int64"]
    assert written["origin"].to_pylist() == ["EWR", "JFK"]
    assert written["delay"].to_pylist() == [None, 1.5]


def test_computing_again_gives_the_same_bytes(sealed, compute):
    compute({"traffic": rows()})
    first = feature_file(sealed, "traffic", "2013-01-02").read_bytes()
    compute({"traffic": rows().iloc[::-1]})
    assert feature_file(sealed, "traffic", "2013-01-02").read_bytes() == first


BAD = [
    (ConfigError, r"feature view 'trafic' that Feast does not know. Did you mean 'traffic'", {"trafic": rows()}),
    (
        ConfigError,
        r"lack the column 'delay'. Did you mean 'dealy'",
        {"traffic": rows().rename(columns={"delay": "dealy"})},
    ),
    (ConfigError, "returned DataFrame", rows()),
    (
        DataError,
        "1 of 2 rows(.|\n)*stamped outside",
        {"traffic": rows(event_timestamp=[START, START + timedelta(days=1)])},
    ),
    (
        DataError,
        "1 of 2 rows(.|\n)*stamped outside",
        {"traffic": rows(event_timestamp=[START, START - timedelta(hours=1)])},
    ),
    (DataError, "1 of 2 rows(.|\n)*duplicates", {"traffic": rows(origin=["JFK", "JFK"])}),
    (DataError, "'origin' is null in 1 of 2", {"traffic": rows(origin=["JFK", None])}),
    (DataError, "'created_timestamp' is null in 1 of 2", {"traffic": rows(created_timestamp=[START, pd.NaT])}),
    (DataError, "has no time zone", {"traffic": rows(event_timestamp=pd.to_datetime(["2013-01-02"] * 2))}),
    (DataError, "'delay'(.|\n)*not of type double", {"traffic": rows(delay=["much", "little"])}),
    (DataError, "'n'(.|\n)*not of type int64", {"traffic": rows(n=[1.5, 2.5])}),
]


@pytest.mark.parametrize(("error", "words", "answer"), BAD, ids=[words for _, words, _ in BAD])
def test_bad_rows_are_explained_and_nothing_is_written(sealed, compute, error, words, answer):
    compute({"traffic": rows()})
    before = feature_file(sealed, "traffic", "2013-01-02").read_bytes()
    with pytest.raises(error, match=f"{words}(.|\n)*fix:"):
        compute(answer)
    assert feature_file(sealed, "traffic", "2013-01-02").read_bytes() == before
    assert not (sealed / "features" / "trafic").exists()


def test_a_transform_that_raises_is_named(compute):
    def answer(day, data):
        return data["departures"]["no such column"]

    with pytest.raises(DataError, match=r"'returning:compute' raised KeyError(.|\n)*2013-01-02") as raised:
        compute(answer)
    assert isinstance(raised.value.__cause__, KeyError)


def test_a_missing_partition_within_the_history_is_named(compute):
    with pytest.raises(DataError, match=r"2 of 4 days of 'departures' are not sealed; the first is 2013-01-03"):
        compute({"traffic": rows()}, key="2013-01-04")


def test_days_before_the_start_are_not_missed(compute):
    assert compute({"traffic": rows()}, history=timedelta(days=30))["views"] == {"traffic": 2}


def test_a_transform_that_does_not_exist_is_explained(sealed):
    with pytest.raises(ConfigError, match=r"has no 'comptue'\. Did you mean 'compute'"):
        compute_day(sealed, "2013-01-02", repo=REPO, transform="flights.features:comptue")
