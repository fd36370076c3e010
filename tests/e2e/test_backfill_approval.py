"""A person is asked by a real Airflow whether a backfill may be executed, and answers by REST."""

from __future__ import annotations

import time
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from airflow_mlops.demo.watch import Watcher
from airflow_mlops.engine.backfill.plan import find
from airflow_mlops.engine.backfill.run import approved_by, outcomes
from airflow_mlops.engine.ledger import Ledger
from airflow_mlops.stack.airflow_api import AirflowApi
from tests import rides
from tests.backfill_fixtures import SUITE
from tests.e2e.small_stack import small_stack
from tests.integration.test_backfill import DAG
from tests.rides import EVENT_TIMES, FIRST, MODEL, key_of

pytestmark = [pytest.mark.e2e, pytest.mark.slow]
BACKFILL = f"{MODEL}.backfill"


class Asked:
    """The DAG on a stack, and the questions that it asks."""

    def __init__(self, airflow: AirflowApi, watcher: Watcher) -> None:
        self.airflow, self.watcher = airflow, watcher

    def trigger(self) -> str:
        """Trigger it for two days, and wait until it asks."""
        day = {"first": str(FIRST), "last": str(FIRST + timedelta(days=1))}
        run: str = self.airflow.trigger(BACKFILL, conf=day)["dag_run_id"]
        self.watcher.until(lambda: self.states(run).get("approve") == "awaiting_input")
        return run

    def states(self, run: str) -> dict[str, str]:
        return {task["task_id"]: task["state"] for task in self.airflow.tasks(BACKFILL, run)}

    def answer(self, run: str, option: str) -> None:
        time.sleep(3)  # as a person does: Airflow may fail a task that is answered in its first seconds
        path = f"/dags/{BACKFILL}/dagRuns/{run}/taskInstances/approve/-1/hitlDetails"
        shown: Any = self.airflow._call("GET", path)
        assert "missing" in shown["body"], "the plan is what is shown"
        self.airflow._call("PATCH", path, json={"chosen_options": [option], "params_input": {}})
        self.watcher.until(lambda: self.states(run)["approve"] in ("success", "failed"))


def test_yes_and_no(tmp_path: Path) -> None:
    def settings(_: Any) -> dict[str, str]:
        return {"MLOPS__BACKFILL_APPROVE_ABOVE": "2"}

    repo = tmp_path / "repo"
    repo.mkdir()
    for name, text in (
        ("feature_store.yaml", rides.SETTINGS),
        ("definitions.py", rides.DEFINITIONS),
        ("ride_features.py", rides.FEATURES),
        ("ride_units.py", rides.UNITS),
    ):
        (repo / name).write_text(text)
    with small_stack(tmp_path, settings, "repo") as stack, AirflowApi(stack.airflow_url) as airflow:
        home = stack.layout.home
        for n in range(2):
            for dataset in EVENT_TIMES:
                rides.land(home, dataset, n)
        (stack.dags / "backfill_suite.py").write_text(SUITE)
        (stack.dags / "ride_pipeline.py").write_text(DAG)
        watcher = Watcher(airflow, stack, timeout=300)
        watcher.ready([BACKFILL])
        asked = Asked(airflow, watcher)
        ledger = Ledger(stack.database.url("mlops_ledger"))

        no = asked.trigger()
        asked.answer(no, "Reject")
        watcher.until(lambda: airflow.run(BACKFILL, no)["state"] == "failed")
        assert asked.states(no)["begin"] == "upstream_failed"

        yes = asked.trigger()
        asked.answer(yes, "Approve")
        watcher.finish(BACKFILL, yes)
        [fact, _] = ledger.facts("backfill_plan", MODEL)
        plan = find(ledger, fact.key)
        assert approved_by(ledger, plan)
        assert {one.refused for one in outcomes(ledger, plan).values()} == {""}
        assert f"rides {key_of(1)}" in outcomes(ledger, plan)
