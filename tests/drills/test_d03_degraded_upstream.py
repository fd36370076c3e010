"""D03: an upstream announces its data degraded. Training holds with the reason visible; serving goes on."""

from __future__ import annotations

import json
from datetime import date, timedelta
from pathlib import Path

import pytest
from airflow.sdk.exceptions import TaskDeferred

from airflow_mlops.engine.data import readiness
from airflow_mlops.engine.data.announcements import announce
from airflow_mlops.engine.data.partitions import PartitionStore
from airflow_mlops.sensors.readiness import TrainingDataSensor
from tests.small_days import START, ledger_of, seal_day, seal_days

pytestmark = pytest.mark.drill

DAYS = 30
WRONG = -999.0
POINTER = "deployment:tf_serving_default:flight_delay"
SERVING = {"stable": 3, "loaded": [2, 3]}


class Task:
    """Stands in for the task instance: keeps what a person sees of the task while it waits."""

    def __init__(self) -> None:
        self.xcoms: dict[str, object] = {}

    def xcom_push(self, key: str, value: object) -> None:
        self.xcoms[key] = value


@pytest.fixture
def world(home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A month of good days and a last one that the upstream got wrong; a model serves."""
    monkeypatch.setenv("AIRFLOW__MLOPS__HOME", str(home))
    connection = {"conn_type": "mlops_ledger", "host": ledger_of(home).url}
    monkeypatch.setenv("AIRFLOW_CONN_MLOPS_LEDGER_DEFAULT", json.dumps(connection))
    seal_days(home, "arrivals", DAYS)
    seal_days(home, "departures", DAYS - 1)
    seal_day(home, "departures", START + timedelta(days=DAYS - 1), [WRONG])
    ledger_of(home).swap(POINTER, SERVING, None)
    return home


def gate(after: int) -> TrainingDataSensor:
    """The first task of a training as of so many days after the start."""
    return TrainingDataSensor(
        task_id="wait_data",
        sources=[{"dataset": name, "start": START.isoformat()} for name in ("departures", "arrivals")],
        as_of=f"{START + timedelta(days=after)}T03:00:00+00:00",
        deferrable=True,
        poke_interval=0.05,
    )


async def test_fault_guard_on(world: Path):
    ledger, task = ledger_of(world), Task()
    announce(ledger, "departures", "degraded", "clock of half of the gates is wrong", "lake")
    with pytest.raises(TaskDeferred) as held:
        gate(DAYS).execute({"ti": task})
    [reason] = task.xcoms["holding"]
    assert reason.startswith("departures: degraded since ")
    assert reason.endswith(" by lake: clock of half of the gates is wrong")

    trigger = held.value.trigger
    assert trigger.poll() is None
    assert trigger.poll() is None
    announce(ledger, "departures", "ok", "clocks are set, the day was landed again", "lake")
    [event] = [event.payload async for event in trigger.run()]
    assert event["status"] == "success"
    assert gate(DAYS).execute_complete({"ti": task}, event)["watermarks"]["departures"].startswith("2013-01-31")

    assert ledger.pointer(POINTER).value == SERVING
    assert ledger.pointer(POINTER).revision == 1
    assert ledger.facts("deployment") == []


def test_fault_guard_off(world: Path, monkeypatch: pytest.MonkeyPatch):
    """Nobody listens to the upstream: the day is sealed and complete, and the training reads it."""
    announce(ledger_of(world), "departures", "degraded", "clock of half of the gates is wrong", "lake")
    monkeypatch.setattr(readiness, "announced", lambda ledger, dataset: None)
    ready = gate(DAYS).execute({"ti": Task()})
    store = PartitionStore.under(world)
    until = date.fromisoformat(ready["watermarks"]["departures"][:10]) - timedelta(days=1)
    assert WRONG in store.read(store.list("departures", START, until), ["value"])["value"].to_pylist()


def test_no_fault(home: Path, monkeypatch: pytest.MonkeyPatch):
    """A month of days, each trained on when it is complete; the upstream says now and then that all is well."""
    monkeypatch.setenv("AIRFLOW__MLOPS__HOME", str(home))
    connection = {"conn_type": "mlops_ledger", "host": ledger_of(home).url}
    monkeypatch.setenv("AIRFLOW_CONN_MLOPS_LEDGER_DEFAULT", json.dumps(connection))
    task = Task()
    for n in range(DAYS):
        for dataset in ("departures", "arrivals"):
            seal_day(home, dataset, START + timedelta(days=n))
        if n % 7 == 0:
            announce(ledger_of(home), "departures", "ok", f"weekly report {n}", "lake")
        assert gate(n + 1).execute({"ti": task})["as_of"].startswith((START + timedelta(days=n + 1)).isoformat())
    assert task.xcoms == {}
