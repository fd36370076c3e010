"""One member first and then all, and a week of partitions: by a real scheduler, which is killed in the middle."""

from __future__ import annotations

import os
import shutil
import signal
import time
from collections.abc import Iterator
from datetime import timedelta
from typing import NamedTuple

import pytest

from airflow_mlops.bootstrap.watch import Watcher
from airflow_mlops.contracts import Deployment
from airflow_mlops.engine.ledger import Ledger
from airflow_mlops.engine.retraining.registered import FACT
from airflow_mlops.engine.retraining.requests import requests
from airflow_mlops.engine.serving.deployments import pointer_name
from airflow_mlops.stack.airflow_api import AirflowApi
from airflow_mlops.stack.stack import Stack
from tests.e2e.small_stack import HERE, small_stack
from tests.retraining_fixtures import START, World

pytestmark = [pytest.mark.e2e, pytest.mark.slow]
ROLLOUT, SERVER = "m.rollout", "tf_serving_default"


class Running(NamedTuple):
    """A stack with the DAGs of both."""

    stack: Stack
    airflow: AirflowApi
    watcher: Watcher
    ledger: Ledger


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    folder = tmp_path_factory.mktemp("fleet")
    with small_stack(folder, lambda _: {}, more=["triggerer"]) as stack, AirflowApi(stack.airflow_url) as airflow:
        for name in ("fleet_dag.py", "rollup_dag.py"):
            shutil.copy(HERE / name, stack.dags / name)
        watcher = Watcher(airflow, stack, timeout=300)
        watcher.ready([ROLLOUT, "m_de.train", "m_it.train", "m_pl.train", "w.rollup", "fresh"])
        yield Running(stack, airflow, watcher, Ledger(stack.database.url("mlops_ledger")))


def test_the_others_follow_when_the_first_serves(running: Running) -> None:
    stack, airflow, watcher, ledger = running
    home = stack.layout.home
    run = airflow.trigger(ROLLOUT, {"reason": "new code"})["dag_run_id"]

    def states() -> dict[str, str]:
        return {task["task_id"]: task["state"] for task in airflow.tasks(ROLLOUT, run)}

    watcher.until(lambda: bool(airflow.runs("m_de.train")))
    scheduler = stack.status()["scheduler"]
    assert scheduler is not None
    os.kill(scheduler.pid, signal.SIGKILL)
    while "scheduler" not in stack.dead():
        time.sleep(0.1)
    for model, how in (("m_de", ""), ("m_it", "fail"), ("m_pl", "")):
        (home / f"{model}.go").write_text(how)
    assert stack.up(), "the scheduler is started again"
    watcher.until(lambda: states().get("first.serves") == "deferred")
    assert not airflow.runs("m_it.train"), "the first has a version, but it does not serve yet"
    [training] = airflow.runs("m_de.train")
    assert training["note"] == "m.rollout: new code"

    serving = Deployment(server=SERVER, model="m_de", stable=1).model_dump()
    ledger.move(pointer_name(SERVER, "m_de"), lambda _: serving)
    watcher.until(lambda: airflow.run(ROLLOUT, run)["state"] == "failed")
    found = states()
    assert found["others.pl.serves"] == "success"
    assert "failed" in (found["others.it.train"], found["others.it.serves"]), "one that fails stops no other"
    assert [len(airflow.runs(f"m_{one}.train")) for one in ("de", "it", "pl")] == [1, 1, 1]
    assert len(ledger.facts(FACT, "m_de")) == 1

    # Mended: its run is cleared, and its tasks in the rollout.
    (home / "m_it.go").write_text("")
    [failed] = airflow.runs("m_it.train")
    airflow.clear("m_it.train", failed["dag_run_id"])
    watcher.finish("m_it.train", failed["dag_run_id"])
    airflow.clear(ROLLOUT, run)
    watcher.finish(ROLLOUT, run)

    # A first that fails keeps the others from beginning.
    (home / "m_de.go").write_text("fail")
    bad = airflow.trigger(ROLLOUT)["dag_run_id"]
    watcher.until(lambda: airflow.run(ROLLOUT, bad)["state"] == "failed")
    assert [len(airflow.runs(f"m_{one}.train")) for one in ("de", "it", "pl")] == [2, 1, 1]


def test_a_training_starts_when_the_days_of_a_week_are_there(running: Running) -> None:
    stack, airflow, watcher, ledger = running
    World(stack.layout.home, ledger).seal_days(0, 7)
    days = [str(START + timedelta(days=day)) for day in range(7)]

    def tell(some: list[str]) -> None:
        watcher.finish("fresh", airflow.trigger("fresh", {"days": some})["dag_run_id"])

    tell(days[:6])
    tell(days[:1])  # a doubled event counts once
    assert not airflow.runs("w.rollup")
    tell(days[6:])
    watcher.until(lambda: bool(airflow.runs("w.rollup")))
    [looked] = airflow.runs("w.rollup")
    assert looked["partition_key"] == str(START)
    watcher.finish("w.rollup", looked["dag_run_id"])
    [training] = airflow.runs("w.train")
    assert training["note"].startswith("rollup: 7 of 7 partitions of the period from 2026-01-05")

    tell(days)  # all of it again
    watcher.until(lambda: len(airflow.runs("w.rollup")) == 2)
    watcher.finish("w.rollup", airflow.runs("w.rollup")[0]["dag_run_id"])
    assert len(airflow.runs("w.train")) == len(requests(ledger, "w")) == 1
