"""D31: training never runs, for whatever reason. What serves gets old, and something else than the trainer says so."""

from __future__ import annotations

import json
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from airflow.sdk.exceptions import AirflowFailException

from airflow_mlops.engine.ledger import Ledger
from airflow_mlops.engine.retraining import looking
from airflow_mlops.operators import retraining
from airflow_mlops.operators.retraining import CheckServedAgeOperator
from tests.retraining_fixtures import TRAINED, World, at

pytestmark = pytest.mark.drill

DAY = timedelta(days=1)
TOLD: list[str] = []


class TaskInstance:
    dag_id, task_id, run_id = "m.retrain", "check_served_age", "scheduled__1"

    def xcom_push(self, key: str, value: Any) -> None:
        """Take what the task pushes."""


def tell(context: Any) -> None:
    TOLD.append(context["notice"]["headline"])


@pytest.fixture
def world(home: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    TOLD.clear()
    world = World(home, Ledger(f"sqlite:///{home}/ledger.db"))
    world.seal(0)
    connection = {"conn_type": "mlops_ledger", "host": world.ledger.url}
    monkeypatch.setenv("AIRFLOW_CONN_MLOPS_LEDGER_DEFAULT", json.dumps(connection))
    monkeypatch.setenv("AIRFLOW__MLOPS__HOME", str(home))
    world.train(1)
    return world


def check(monkeypatch: pytest.MonkeyPatch, day: float, notify=(tell,), max_age: str = "14d") -> bool:
    """Let the check look on a day, and return whether it finds what serves too old."""

    class Clock(datetime):
        @classmethod
        def now(cls, tz: Any = None) -> datetime:
            return at(0) + day * DAY

    monkeypatch.setattr(retraining, "datetime", Clock)
    task = CheckServedAgeOperator(task_id="check_served_age", model="m", max_age=max_age, notify=notify)
    return task.execute({"ti": TaskInstance()})["too_old"]


def test_fault_guard_on(world: World, monkeypatch: pytest.MonkeyPatch):
    """The train DAG is paused: it leaves no trace at all. Told once a day, by what serves."""
    assert [check(monkeypatch, TRAINED + day) for day in (1, 13)] == [False, False]
    for hour in range(0, 48, 6):
        assert check(monkeypatch, TRAINED + 14.5 + hour / 24)
    assert len(TOLD) == 3, "three days were begun"
    assert TOLD[0] == "What serves of 'm' is too old: its newest labels are 14 days old."


def test_fault_nobody_notified(world: World, monkeypatch: pytest.MonkeyPatch):
    with pytest.raises(AirflowFailException, match="airflow-mlops why m"):
        check(monkeypatch, TRAINED + 15, notify=())


def test_fault_guard_off(world: World, monkeypatch: pytest.MonkeyPatch):
    """Nothing else says it: the version of then answers still, and no task has failed."""
    version, age = looking.served_age(world.ledger, "tf_serving_default", "m", at(TRAINED) + 60 * DAY)
    assert (version, age) == (1, 60 * DAY)
    assert TOLD == []


def test_no_fault_half_a_year_of_weekly_trainings(world: World, monkeypatch: pytest.MonkeyPatch):
    for week in range(1, 27):
        day = TRAINED + 7 * week
        assert not check(monkeypatch, day - 0.01)
        world.train(week + 1, day - 1)
        assert not check(monkeypatch, day)
    assert TOLD == []
