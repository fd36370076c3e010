"""The Airflow floor over a real Feast: what operators return, how they fail, and how the sensor waits."""

from __future__ import annotations

import json
import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from airflow.sdk import DAG
from airflow.sdk.exceptions import AirflowFailException, TaskDeferred

from airflow_mlops.engine.data.exclusions import exclude
from airflow_mlops.exceptions import ConfigError
from airflow_mlops.hooks.feast import FeastHook
from airflow_mlops.operators.feast import (
    FeastApplyOperator,
    FeastComputeFeaturesOperator,
    FeastGetTrainingDataOperator,
    FeastMaterializeOperator,
)
from airflow_mlops.operators.other_runs import PATIENCE
from airflow_mlops.sensors.feast import FeastFeatureFreshnessSensor
from tests.feast_fixtures import EVENT_TIMES, REPO, ledger_of, make_home

SERVICE = "flight_delay_v1"
VIEWS = {
    *("origin_traffic", "carrier_delays", "route_delays", "destination_delays"),
    *("aircraft_last_leg", "origin_weather"),
}


@pytest.fixture(scope="module")
def flights(tmp_path_factory) -> Path:
    return make_home(tmp_path_factory.mktemp("floor") / "home", 7)


@pytest.fixture
def own(flights, home, monkeypatch) -> Path:
    """A home of the test's own with seven days, nothing online, and the connections to it."""
    shutil.rmtree(home)
    shutil.copytree(flights, home, ignore=shutil.ignore_patterns("feast", "ledger.db*"))
    monkeypatch.setenv("AIRFLOW__MLOPS__HOME", str(home))
    monkeypatch.setenv("AIRFLOW_CONN_FEAST_DEFAULT", json.dumps({"conn_type": "feast", "host": str(REPO)}))
    ledger = {"conn_type": "mlops_ledger", "host": f"sqlite:///{home}/ledger.db"}
    monkeypatch.setenv("AIRFLOW_CONN_MLOPS_LEDGER_DEFAULT", json.dumps(ledger))
    return home


class TaskInstance:
    """As much of a running task as the operators look at."""

    def xcom_push(self, key: str, value: object) -> None:
        """Take the link that the task pushes."""

    def get_dr_count(self, dag_id: str, states: list[str]) -> int:
        """Return how many runs of the DAG are active: this one."""
        return 1


def execute(cls: type, **arguments):
    """Run an operator's execute, as a worker would after rendering."""
    with DAG("d", schedule=None):
        operator = cls(task_id="t", **arguments)
    result = operator.execute({"ti": TaskInstance()})
    assert json.loads(json.dumps(result)) == result, "an XCom is JSON"
    return result


class OneOfSeveral(TaskInstance):
    """A task whose run is one of so many that are active."""

    def __init__(self, active: int) -> None:
        self.active = active

    def get_dr_count(self, dag_id: str, states: list[str]) -> int:
        assert (dag_id, states) == ("d", ["queued", "running"])
        return self.active


def test_the_later_days_of_a_backfill_wait_for_the_earlier_ones(own):
    arguments = {
        "transform": "flight_features:compute",
        "datasets": list(EVENT_TIMES),
        "history": "8d",
        "start": "2013-01-01",
        "key": "2013-01-09",  # the days from the 8th are not sealed
    }
    with DAG("d", schedule=None):
        waiting = FeastComputeFeaturesOperator(task_id="t", **arguments)
    with pytest.raises(TaskDeferred) as deferred:
        waiting.execute({"ti": OneOfSeveral(2)})
    assert deferred.value.method_name == "execute_again"
    since = deferred.value.kwargs["since"]
    with pytest.raises(AirflowFailException, match="the first is 2013-01-08"):
        waiting.execute_again({"ti": OneOfSeveral(1)}, since=since)
    with pytest.raises(AirflowFailException, match="the first is 2013-01-08"):
        waiting.execute_again({"ti": OneOfSeveral(2)}, since=since - PATIENCE)


def compute(**changes):
    arguments = {
        "transform": "flight_features:compute",
        "datasets": list(EVENT_TIMES),
        "history": "8d",
        "start": "2013-01-01",
        "key": "2013-01-07",
    }
    return execute(FeastComputeFeaturesOperator, **{**arguments, **changes})


def training_data(**changes):
    arguments = {
        "model": "flight_delay",
        "entity": "flight_id",
        "source_dataset": "departures",
        "event_time": "sched_dep_utc",
        "keys": ["carrier", "origin", "dest"],
        "service": SERVICE,
        "label_dataset": "arrivals",
        "label_column": "late_15",
        "matures_after": "1d",
        "window": "60d",
        "validation": "1d",
        "test": "1d",
        "start": "2013-01-01",
        "as_of": "2013-01-08T03:00:00+00:00",
    }
    return execute(FeastGetTrainingDataOperator, **{**arguments, **changes})


def test_a_day_runs_on_a_fresh_installation_and_again(own):
    """Nobody applied the repository: the first operator that needs it does."""
    computed = compute()
    assert set(computed["views"]) == VIEWS
    first = execute(FeastMaterializeOperator, service=SERVICE, key="2013-01-07")
    assert first["until"] == "2013-01-08T00:00:00+00:00"
    assert all(view["online"] for view in first["views"].values())
    ages = execute(FeastFeatureFreshnessSensor, service=SERVICE, key="2013-01-07", max_age="24h", deferrable=True)
    assert set(ages) == VIEWS
    assert ages["origin_traffic"] == 3600
    assert compute() == computed
    again = execute(FeastMaterializeOperator, service=SERVICE, key="2013-01-07")
    assert {view["start"] for view in again["views"].values()} == {None}


def test_apply_says_what_it_registered(own):
    applied = execute(FeastApplyOperator)
    assert applied["project"] == "flight_delay"
    assert applied["services"] == [SERVICE]
    assert applied["views"] == sorted(VIEWS)


def test_training_data_is_a_small_manifest_and_repeats_itself(own):
    execute(FeastApplyOperator)
    manifest = training_data()
    assert manifest["label_cut"] == "2013-01-07T00:00:00+00:00"
    assert set(manifest["rows"]) == {"train", "validation", "test"}
    assert manifest["excluded_rows"] == 0
    assert sorted(path.suffix for path in Path(manifest["uri"]).iterdir()) == [".json", *[".parquet"] * 3]
    assert training_data() == manifest


def test_training_data_honours_the_ledger_and_is_written_down_there(own):
    execute(FeastApplyOperator)
    ledger = ledger_of(own)
    start = datetime(2013, 1, 7, tzinfo=UTC) - timedelta(hours=6)
    exclude(ledger, "departures", start, start + timedelta(hours=3), "test data", "ann")
    with pytest.raises(AirflowFailException, match="features of 1 days were computed from other data"):
        training_data()
    assert compute(key="2013-01-06")["recomputed"] == ["2013-01-07"], "the day after looks back on it"
    assert compute(key="2013-01-06")["recomputed"] == []
    manifest = training_data()
    assert manifest["excluded_rows"] > 0
    assert [fact.key for fact in ledger.facts("snapshot", "flight_delay")] == [manifest["id"]]


def test_training_data_split_by_a_column(own):
    execute(FeastApplyOperator)
    manifest = training_data(split="entity", split_column="tailnum", validation="12d", test="12d")
    assert 0.7 < manifest["rows"]["test"] / manifest["rows"]["validation"] < 1.4
    assert manifest["rows"]["train"] > 2 * manifest["rows"]["test"]
    assert training_data(split_column="None")["id"] == training_data(split_column="")["id"], "as a template renders it"


def test_the_hook_answers_the_test_button(own):
    execute(FeastApplyOperator)
    assert FeastHook().test_connection() == (
        True,
        "Feast project 'flight_delay': 6 feature views, 1 feature services; the online store answers",
    )


def test_a_connection_without_a_repository_is_explained(own, monkeypatch):
    monkeypatch.setenv("AIRFLOW_CONN_FEAST_DEFAULT", json.dumps({"conn_type": "feast"}))
    with pytest.raises(ConfigError, match=r"has no feature repository(.|\n)*fix:"):
        _ = FeastHook().repo_path


@pytest.mark.parametrize(
    ("run", "words"),
    [
        (lambda: compute(key="None"), "no partition key(.|\n)*partition_key"),
        (lambda: compute(key="2013-1-7"), "not a partition key"),
        (lambda: compute(start="January"), "start='January' is not a day"),
        (lambda: compute(history="a week"), "not a duration"),
        (lambda: compute(key="2013-01-09"), "not sealed; the first is 2013-01-08"),
        (lambda: execute(FeastMaterializeOperator, service="flight_delay_v2", key="2013-01-07"), "Did you mean"),
        (lambda: execute(FeastMaterializeOperator, service=SERVICE, key="None"), "This run has no partition key"),
        (lambda: training_data(as_of="2013-01-08T03:00:00"), "Write it with its time zone"),
        (lambda: training_data(as_of="soon"), "is not a moment"),
        (lambda: training_data(service="other"), "no feature service 'other'"),
        (lambda: training_data(split="entiti"), "split='entiti' is no way to split. Did you mean 'entity'"),
        (lambda: training_data(split="entity"), "Name the column to split by"),
        (lambda: training_data(split_column="tailnum"), "and none with 'time'"),
    ],
)
def test_what_cannot_work_fails_at_once_in_words(own, run, words):
    with pytest.raises(AirflowFailException, match=words) as raised:
        run()
    assert "fix:" in str(raised.value)
