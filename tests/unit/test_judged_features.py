"""Computed rows that their suite, or the view's own history, refuses are not written: none of the day's views."""

from __future__ import annotations

import json
import sys
from datetime import timedelta

import pandas as pd
import pyarrow.parquet as pq
import pytest

from airflow_mlops import FeatureService, cli
from airflow_mlops.engine.features.project.schema import FeatureRepo, ViewSchema, feature_file
from airflow_mlops.exceptions import ConfigError, DataError
from airflow_mlops.parts import Checks, Rows
from tests.feast_fixtures import FIRST, compute_day, ledger_of, seal_days
from tests.unit.test_pipeline import pipeline

HOURS = ViewSchema(keys={"origin": "string"}, features={"delay": "double"}, ttl_seconds=86400)
REPO = FeatureRepo(project="p", hash="h", views={"traffic": HOURS, "calm": HOURS}, services={})
DAYS = 6
CODE = """
import great_expectations.expectations as gxe

def suite():
    return [gxe.ExpectColumnValuesToBeBetween(column="delay", min_value=0, max_value=60)]

def compute(day, data):
    return answer(day)
"""


@pytest.fixture(scope="module")
def sealed(tmp_path_factory):
    home = tmp_path_factory.mktemp("sealed")
    seal_days(home, DAYS)
    return home


@pytest.fixture
def compute(sealed, tmp_path, monkeypatch):
    """Compute the n-th day, from 0, of two views whose values and number of rows a test chooses."""
    (tmp_path / "judged.py").write_text(CODE)
    monkeypatch.syspath_prepend(str(tmp_path))
    sys.modules.pop("judged", None)
    for view in ("traffic", "calm"):
        for file in (sealed / "features" / view).glob("*.parquet"):
            file.unlink()

    def call(n, delay=20.0, rows=200, *, nulls=0, suites=None, checks=None, counted=(), show=None):
        import importlib

        def frame(delay):
            at = pd.Timestamp(FIRST, tz="UTC") + pd.Timedelta(days=n)
            values = [None] * nulls + [delay * (1 + i % 17 / 17) for i in range(rows - nulls)]
            keys = [f"O{i}" for i in range(rows)]
            return pd.DataFrame({"origin": keys, "delay": values, "event_timestamp": at, "created_timestamp": at})

        importlib.import_module("judged").answer = lambda day: {"traffic": frame(delay), "calm": frame(20.0)}
        key = str(FIRST + timedelta(days=n))
        suites = {"traffic": "judged:suite"} if suites is None else suites
        return compute_day(
            sealed, key, repo=REPO, transform="judged:compute", code_paths=[str(tmp_path)], datasets=["departures"],
            history=timedelta(0), suites=suites, checks=checks or {}, rows=counted, show=show,
        )  # fmt: skip

    yield call
    sys.modules.pop("judged", None)


def written(sealed, view: str) -> list[str]:
    return sorted(file.stem for file in (sealed / "features" / view).glob("*.parquet"))


def test_rows_that_break_the_views_suite_are_not_written_nor_those_of_other_views(sealed, compute):
    compute(0)
    with pytest.raises(DataError, match=r"(?s)1 of 1 expectations of .* do not hold.*traffic/2013-01-02.*delay"):
        compute(1, delay=-5.0)
    assert written(sealed, "traffic") == written(sealed, "calm") == ["2013-01-01"]
    [fact] = ledger_of(sealed).facts("validation", "features.traffic", key="2013-01-02", limit=2)[1:]
    assert [one["success"] for one in fact.payload["outcomes"]] == [False]


def test_a_refused_recomputation_leaves_what_was_written(sealed, compute):
    compute(0)
    before = pq.read_table(feature_file(sealed, "traffic", "2013-01-01"))
    with pytest.raises(DataError):
        compute(0, delay=500.0)
    assert pq.read_table(feature_file(sealed, "traffic", "2013-01-01")) == before


@pytest.mark.parametrize("change", [{"rows": 10}, {"nulls": 150}])
def test_rows_that_fit_the_suite_but_not_the_views_history_are_refused(sealed, compute, change):
    for n in range(DAYS - 1):
        compute(n)
    with pytest.raises(DataError, match="of 'history' do not hold"):
        compute(DAYS - 1, **change)
    assert len(written(sealed, "traffic")) == DAYS - 1
    compute(DAYS - 1)
    assert len(written(sealed, "traffic")) == DAYS


def test_days_computed_before_the_suite_was_declared_are_history_too(sealed, compute):
    for n in range(DAYS - 1):
        compute(n, suites={})
    with pytest.raises(DataError, match="of 'history' do not hold"):
        compute(DAYS - 1, rows=10)


def test_an_invariant_of_computed_rows_blocks(sealed, compute):
    checks = {"calm": Checks(invariants={"delays are late": "delay > 100"})}
    with pytest.raises(DataError, match="delays are late"):
        compute(0, suites={}, checks=checks)


def test_a_view_without_checks_is_not_looked_at(sealed, compute):
    compute(0, delay=-5.0, suites={})
    assert written(sealed, "traffic") == ["2013-01-01"]


def test_a_shifted_level_only_warns(sealed, compute):
    """A mean of the last days moves as a whole: that is no other unit."""
    for n in range(DAYS - 1):
        compute(n, delay=20.0 + n % 3, suites={}, checks={"traffic": Checks()})
    compute(DAYS - 1, delay=1260.0, suites={}, checks={"traffic": Checks()})  # sixty times as much: minutes → seconds
    [fact, *_] = ledger_of(sealed).facts("validation", "features.traffic", key="2013-01-06")
    warned = [one for one in fact.payload["outcomes"] if not one["success"]]
    assert {one["severity"] for one in warned} == {"warn"}


def test_a_day_that_a_person_accepts_is_written(sealed, compute, capsys):
    for n in range(DAYS - 1):
        compute(n)
    with pytest.raises(DataError, match="of 'history' do not hold"):
        compute(DAYS - 1, rows=10)
    arguments = [
        "accept",
        "features.traffic",
        "2013-01-06",
        "--ledger",
        f"sqlite:///{sealed}/ledger.db",
        "--reason",
        "a storm",
    ]
    assert cli.main(arguments) in (None, 0)
    assert "Clear its task `compute_features`" in capsys.readouterr().out
    compute(DAYS - 1, rows=10)
    assert len(written(sealed, "traffic")) == DAYS
    with pytest.raises(DataError, match="of 'history' do not hold"):
        compute(DAYS - 1, rows=11)


@pytest.mark.parametrize(
    ("rejected", "tolerance", "says"),
    [
        ({"not from JFK": "origin <> 'JFK'"}, 0.0, None),
        ({}, 0.0, r"rows are missing without a reason"),
        ({"not from JFK": "origin <> 'JFK'", "nor from there": "origin <> 'JFK' AND true"}, 0.0, None),
        ({"cheap": "prize < 3"}, 0.0, r"there is no column 'prize'"),
        ({"two": "true); SELECT (1"}, 0.0, "(?i)parser"),
    ],
)
def test_rows_that_a_transform_lost_without_a_reason_block(sealed, compute, rejected, tolerance, says):
    departures = pq.read_table(sorted((sealed / "partitions/departures/2013-01-01").glob("*/*.parquet"))[0])
    kept = sum(origin == "JFK" for origin in departures["origin"].to_pylist())
    how = [Rows("traffic", "departures", rejected=rejected, tolerance=tolerance)]
    if says is None:
        compute(0, rows=kept, suites={}, counted=how)
        assert written(sealed, "traffic") == ["2013-01-01"]
    else:
        with pytest.raises(DataError, match=says):
            compute(0, rows=kept, suites={}, counted=how)
        assert written(sealed, "traffic") == []


def test_what_was_found_is_shown_what_blocks_last(sealed, compute):
    shown = []
    with pytest.raises(DataError):
        compute(0, delay=-5.0, counted=[Rows("calm", "departures", ratio=0.5)], show=shown.append)
    assert [result.blocked for result in shown] == [True, True]


def test_a_misspelt_view_is_refused_with_the_nearest_name(compute):
    with pytest.raises(ConfigError, match=r"'trafic' that the transform does not compute\. Did you mean 'traffic'"):
        compute(0, suites={"trafic": "judged:suite"})


def test_computed_rows_have_no_label():
    with pytest.raises(ConfigError, match="name a label or a contract"):
        FeatureService(
            name="s", transform="m:f", suite="m:s", view_checks={"traffic": Checks(label="late")}
        )  # fmt: skip


def test_the_features_dag_hands_them_over():
    features = FeatureService(
        name="s", transform="m:f", suite="m:s", view_suites={"traffic": "m:t"},
        view_checks={"calm": Checks(volatile=["delay"])},
    )  # fmt: skip
    task = pipeline(features=features).dags()["m_features"].get_task("compute_features")
    assert task.suites == {"traffic": "m:t"}
    assert Checks(**json.loads(json.dumps(task.checks["calm"]))).volatile == ["delay"]
