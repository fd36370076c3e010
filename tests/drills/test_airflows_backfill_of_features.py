"""Somebody lets Airflow's own backfill run the features DAG over days whose files landed anew.

A version that serves was trained on what they were. Airflow knows dates only: neither a plan, nor a price, nor whom it
touches, nor that one of our own backfills is at work on the same days.
"""

from __future__ import annotations

import json
from datetime import timedelta
from types import SimpleNamespace
from typing import Any

import pytest
from airflow.sdk import DAG
from airflow.sdk.exceptions import AirflowFailException

from airflow_mlops.contracts import Deployment
from airflow_mlops.engine.backfill import elsewhere
from airflow_mlops.engine.backfill.run import approve, begin, execute, finish
from airflow_mlops.engine.backfill.shares import steps_of
from airflow_mlops.engine.data.validation import load_suite, validate
from airflow_mlops.operators.data import CheckPartitionOperator
from tests.backfill_fixtures import PIPELINE, copied, land_other, landed, plan_of, site_of
from tests.rides import FIRST, MODEL, key_of

__all__ = ["landed"]
pytestmark = pytest.mark.drill


class Days:
    """Two days that are sealed, and a model on them that serves."""

    def __init__(self, world: Any) -> None:
        self.world, self.site = world, site_of(world)
        self.done(0, 1)
        ledger = self.site.ledger
        seen = {"rides": {key_of(n): self.site.store.current("rides", key_of(n)) for n in range(2)}}
        ledger.record("snapshot", MODEL, {"partitions": seen}, key="snap1")
        ledger.record("verdict", MODEL, {"version": 3, "snapshot_id": "snap1"})
        state = Deployment(server="s", model=MODEL, stable=3).model_dump(mode="json")
        ledger.swap(f"deployment:s:{MODEL}", state, None)

    def done(self, first: int, last: int) -> None:
        """Have days planned, approved and done as they should be."""
        plan = plan_of(self.site, first, last)
        approve(self.site.ledger, plan, plan.hash, "ann")
        begin(self.site, plan)
        execute(self.site, plan, steps_of(plan, "seal"))
        finish(self.site, plan)

    def check(self, n: int, run_type: str = "backfill", *, queued: int = 0) -> Any:
        """Run the task that checks a landed day, as a run of that type does."""
        folder = self.world.home / "lake" / "rides" / key_of(n)
        suite = load_suite("backfill_suite:suite", self.site.code_path)
        validation = validate([folder / "rows.parquet"], suite, batch=f"rides/{key_of(n)}").model_dump(mode="json")
        with DAG(f"{MODEL}.features") as dag:
            task = CheckPartitionOperator(
                task_id="check", dataset="rides", key=key_of(n), uri=str(folder), event_time="called_at",
                validation=validation, checks=dict(vars(PIPELINE.source.checks)), model=MODEL,
                home=str(self.world.home),
            )  # fmt: skip
        dag.fileloc = str(self.world.dags / "ride_pipeline.py")
        run = SimpleNamespace(run_type=run_type)
        ti = SimpleNamespace(
            dag_id=f"{MODEL}.features", run_id=f"backfill__{n}", get_dr_count=lambda *_, **__: queued,
            xcom_push=lambda **_: None,
        )  # fmt: skip
        return task.execute({"dag_run": run, "ti": ti})  # type: ignore[typeddict-item]


@pytest.fixture
def days(landed, tmp_path, monkeypatch) -> Days:
    days = Days(copied(landed, tmp_path))
    connection = {"conn_type": "mlops_ledger", "host": days.site.ledger.url}
    monkeypatch.setenv("AIRFLOW_CONN_MLOPS_LEDGER_DEFAULT", json.dumps(connection))
    land_other(days.world, "rides", 1)
    return days


def test_fault_guard_on(days: Days):
    says = rf"nobody approved it(.|\n)*version 3 of {MODEL}, which serves on s(.|\n)*Trigger {MODEL}.backfill"
    with pytest.raises(AirflowFailException, match=says):
        days.check(1)
    [fact] = days.site.ledger.facts(elsewhere.FACT, MODEL)
    assert (fact.key, fact.payload) == (key_of(1), {"run": f"{MODEL}.features backfill__1"})
    days.done(1, 1)
    assert days.check(1)["rows"], "what a plan has done is only looked at"


def test_fault_guard_off(days: Days, monkeypatch: pytest.MonkeyPatch):
    """Nobody asks who saw it: what a served model was trained on is replaced unseen."""
    monkeypatch.setattr(elsewhere, "who_saw", lambda *_: ())
    assert days.check(1)["rows"]


def test_no_fault(days: Days):
    """The schedule and a person go on as ever; a backfill too, of a day that is new, or the same as it was."""
    for run_type in ("scheduled", "manual"):
        assert days.check(1, run_type)["rows"]
    assert days.check(0)["rows"]
    assert days.check(2)["rows"]


def test_many_need_an_approved_plan_that_names_them(days: Days):
    with pytest.raises(AirflowFailException, match="41 partitions are more than 31"):
        days.check(2, queued=40)
    plan = plan_of(days.site, 2, 4)
    with pytest.raises(AirflowFailException, match="nobody approved it"):
        days.check(2, queued=40)
    approve(days.site.ledger, plan, plan.hash, "ann")
    assert days.check(2, queued=40)["rows"]
    with pytest.raises(AirflowFailException, match="43 partitions are more than 31"):
        days.check(5, queued=41)


def test_one_of_ours_at_work_on_the_day_is_not_disturbed(days: Days):
    plan = plan_of(days.site, 2, 3)
    begin(days.site, plan)
    with pytest.raises(AirflowFailException, match=rf"Backfill {plan.id} of '{MODEL}' is at work on rides"):
        days.check(2)
    assert days.check(4)["rows"]
    finish(days.site, plan)
    assert days.check(2)["rows"]
    assert FIRST + timedelta(days=2) == plan.first
