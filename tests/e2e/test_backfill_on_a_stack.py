"""A backfill on a real Airflow: a person is asked in a browser and by REST, the scheduler is killed in the middle of
it, and Airflow's own backfill is held to the same.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from datetime import time as clock
from typing import TYPE_CHECKING, Any

import pytest

from airflow_mlops.bootstrap.watch import Watcher
from airflow_mlops.contracts import Deployment
from airflow_mlops.engine.backfill.plan import Plan, find
from airflow_mlops.engine.backfill.run import STEP, approved_by, outcomes, remaining
from airflow_mlops.engine.backfill.verify import told
from airflow_mlops.engine.data.partitions import PartitionStore
from airflow_mlops.engine.ledger import Ledger
from airflow_mlops.stack.airflow_api import AirflowApi
from airflow_mlops.stack.stack import Stack
from airflow_mlops.stack.watch import watch
from tests import rides
from tests.backfill_fixtures import LAST, SUITE
from tests.e2e.small_stack import small_stack
from tests.integration.test_backfill import DAG
from tests.rides import EVENT_TIMES, FIRST, MODEL, key_of

if TYPE_CHECKING:
    from playwright.sync_api import Page

pytestmark = [pytest.mark.e2e, pytest.mark.slow]
BACKFILL, FEATURES = f"{MODEL}.backfill", f"{MODEL}.features"
DAYS = 30
IN_A_HURRY = """# Airflow reads files that name it
from dataclasses import replace
from datetime import timedelta
from ride_pipeline import ride_delay

found = replace(ride_delay, model="hurry").dags()
found["hurry_backfill"].get_task("approve").response_timeout = timedelta(seconds=5)
globals().update(found)
"""


class Rides:
    """The DAGs of a model on a stack, its ledger, and the questions that are asked."""

    def __init__(self, stack: Stack, airflow: AirflowApi, watcher: Watcher) -> None:
        self.stack, self.airflow, self.watcher = stack, airflow, watcher
        self.ledger = Ledger(stack.database.url("mlops_ledger"))
        self.store = PartitionStore.under(stack.layout.home, self.ledger)

    def asked(self, days: int) -> str:
        """Trigger the backfill of some days, and wait until it asks."""
        span = {"first": str(FIRST), "last": str(FIRST + timedelta(days=days - 1))}
        run: str = self.airflow.trigger(BACKFILL, conf=span)["dag_run_id"]
        self.watcher.until(lambda: self.states(run).get("approve") == {"awaiting_input"})
        time.sleep(3)  # as a person does: Airflow may fail a task that is answered in its first seconds
        return run

    def states(self, run: str) -> dict[str, set[str]]:
        found: dict[str, set[str]] = {}
        for task in self.airflow.tasks(BACKFILL, run):
            found.setdefault(task["task_id"], set()).add(task["state"])
        return found

    def answer(self, run: str, option: str) -> None:
        """Answer by REST."""
        path = f"/dags/{BACKFILL}/dagRuns/{run}/taskInstances/approve/-1/hitlDetails"
        shown: Any = self.airflow._call("GET", path)
        assert "missing" in shown["body"], "the plan is what is shown"
        self.airflow._call("PATCH", path, json={"chosen_options": [option], "params_input": {}})

    def sealed(self) -> Counter[str]:
        """Return how often each day was sealed, of all feeds together."""
        return Counter(
            fact.key for dataset in EVENT_TIMES for fact in self.ledger.facts("partition", dataset, limit=None)
        )

    def plan(self) -> Plan:
        """Return the latest plan."""
        return find(self.ledger, self.ledger.facts("backfill_plan", MODEL, limit=1)[0].key)


@pytest.fixture(scope="module")
def on_a_stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rides]:
    folder = tmp_path_factory.mktemp("stack")
    repo = folder / "repo"
    repo.mkdir()
    for name, text in (
        ("feature_store.yaml", rides.SETTINGS),
        ("definitions.py", rides.DEFINITIONS),
        ("ride_features.py", rides.FEATURES),
        ("ride_units.py", rides.UNITS),
    ):
        (repo / name).write_text(text)
    settings = {"MLOPS__BACKFILL_APPROVE_ABOVE": "2"}
    with (
        small_stack(folder, lambda _: settings, "repo", more=["triggerer"]) as stack,
        AirflowApi(stack.airflow_url) as airflow,
    ):
        for n in range(DAYS):
            for dataset in EVENT_TIMES:
                rides.land(stack.layout.home, dataset, n)
        (stack.dags / "backfill_suite.py").write_text(SUITE)
        end = f"{FIRST + timedelta(days=DAYS - 1):%Y, %-m, %-d}"
        (stack.dags / "ride_pipeline.py").write_text(DAG.replace(f"{LAST:%Y, %-m, %-d}", end))
        watcher = Watcher(airflow, stack, timeout=300)
        (stack.dags / "hurry.py").write_text(IN_A_HURRY)
        watcher.ready([BACKFILL, "hurry.backfill"])
        watching = threading.Thread(target=watch, args=(stack,))
        watching.start()
        stack.check = lambda: None  # type: ignore[method-assign]  # as of a stack that is watched
        try:
            yield Rides(stack, airflow, watcher)
        finally:
            stack.down(grace=3)
            watching.join(60)


def test_a_no_by_rest(on_a_stack: Rides) -> None:
    run = on_a_stack.asked(2)
    on_a_stack.answer(run, "Reject")
    on_a_stack.watcher.until(lambda: on_a_stack.airflow.run(BACKFILL, run)["state"] == "failed")
    assert on_a_stack.states(run)["begin"] == {"upstream_failed"}
    assert not on_a_stack.store.keys("rides")


def test_no_answer_in_time_is_a_no(on_a_stack: Rides) -> None:
    run = on_a_stack.airflow.trigger("hurry.backfill")["dag_run_id"]
    on_a_stack.watcher.until(lambda: on_a_stack.airflow.run("hurry.backfill", run)["state"] == "failed")
    states = {task["task_id"]: task["state"] for task in on_a_stack.airflow.tasks("hurry.backfill", run)}
    assert (states["approve"], states["begin"]) == ("failed", "upstream_failed")
    assert "nobody answered in time" in "\n".join(on_a_stack.airflow.log("hurry.backfill", run, "approve", 1))
    assert not on_a_stack.store.keys("rides")


def test_a_yes_in_a_browser_and_a_scheduler_that_is_killed(on_a_stack: Rides, page: Page) -> None:
    waiting = on_a_stack.asked(3)
    run = on_a_stack.asked(DAYS)
    plan, ledger = on_a_stack.plan(), on_a_stack.ledger
    assert on_a_stack.states(waiting)["approve"] == {"awaiting_input"}, "it holds no other up"
    address = on_a_stack.airflow.run_page(BACKFILL, run)
    page.goto(f"{address}/tasks/approve/required_actions")
    page.get_by_text("may it be executed?").first.wait_for()
    assert page.get_by_text("price in all").first.is_visible(), "the plan is what is shown"
    page.get_by_role("button", name="Approve").click()

    on_a_stack.watcher.until(lambda: len(outcomes(ledger, plan)) > 8)
    assert approved_by(ledger, plan)
    killed = on_a_stack.stack.status()["scheduler"]
    assert killed is not None
    os.kill(killed.pid, signal.SIGKILL)
    assert remaining(ledger, plan), "it is in the middle"

    on_a_stack.watcher.finish(BACKFILL, run)
    assert on_a_stack.states(run)["verify"] == {"success"}
    assert not remaining(ledger, plan)
    steps = ledger.facts(STEP, plan.id, limit=None)
    assert {fact.payload["refused"] for fact in steps} == {""}
    assert set(on_a_stack.sealed().values()) == {len(EVENT_TIMES)}, "no success is repeated"
    assert len(on_a_stack.store.keys("rides")) == DAYS
    assert not list((on_a_stack.stack.layout.home / "backfills").glob("*"))
    assert any(f"{2 * DAYS} partitions sealed as planned" in line for line in told(ledger, plan))
    on_a_stack.answer(waiting, "Approve")
    on_a_stack.watcher.finish(BACKFILL, waiting)
    assert set(on_a_stack.sealed().values()) == {len(EVENT_TIMES)}, "what was done meanwhile is not done again"


@pytest.mark.parametrize(("by", "day"), [("rest", 3), ("command", 4)])
def test_airflows_own_backfill_is_held_to_the_same(on_a_stack: Rides, by: str, day: int) -> None:
    """Other rows land for a day that a version was trained on which serves."""
    airflow, ledger = on_a_stack.airflow, on_a_stack.ledger
    key, home = key_of(day), on_a_stack.stack.layout.home
    rides.land(home, "rides", day)
    landed = home / "lake" / "rides" / key
    how = {"event_time": EVENT_TIMES["rides"], "batch_hash": None, "suite_hash": None}
    sealed = {key: on_a_stack.store.seal("rides", key, landed, **how).revision}
    ledger.record("snapshot", MODEL, {"partitions": {"rides": sealed}}, key=f"snap{day}")
    ledger.record("verdict", MODEL, {"version": day, "snapshot_id": f"snap{day}"})
    deployed = Deployment(server="s", model=MODEL, stable=day).model_dump(mode="json")
    ledger.swap(f"deployment:s:{MODEL}", deployed, ledger.pointer(f"deployment:s:{MODEL}"))
    rides.land(home, "rides", day, rides.rides_of(day)[1:])
    for dataset in EVENT_TIMES:  # long ago: who waits until it is still need not wait
        for file in (home / "lake" / dataset / key).iterdir():
            os.utime(file, (time.time() - 3600, time.time() - 3600))
    airflow.unpause(FEATURES)
    date = FIRST + timedelta(days=day)
    if by == "rest":
        on_a_stack.watcher.until(lambda: airflow.backfill(FEATURES, date, date) is not None)
    else:
        moment = datetime.combine(date, clock(), UTC).isoformat()
        command = ["airflow", "backfill", "create", "--dag-id", FEATURES, "--from-date", moment, "--to-date", moment]
        on_a_stack.watcher.until(
            lambda: (
                subprocess.run(
                    [sys.executable, "-m", *command], env=on_a_stack.stack.environment, capture_output=True, check=False
                ).returncode
                == 0
            )
        )
    on_a_stack.watcher.until(lambda: airflow.runs_by_key(FEATURES).get(key, {}).get("state") == "failed")
    run = airflow.runs_by_key(FEATURES)[key]
    assert run["run_type"] == "backfill"
    failed = {task["task_id"]: task for task in airflow.tasks(FEATURES, run["dag_run_id"]) if task["state"] == "failed"}
    assert [*failed] == ["rides.check"]
    log = airflow.log(FEATURES, run["dag_run_id"], "rides.check", failed["rides.check"]["try_number"])
    assert f"version {day} of {MODEL}, which serves on s, saw what is replaced" in "\n".join(log)
    assert on_a_stack.store.current("rides", key) == sealed[key]
