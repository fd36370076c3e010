"""What ``make demo`` does: from real flights to a served prediction, under a real Airflow.

Every step looks first at what is there, so that a second run is quick and an interrupted one goes on.
"""

from __future__ import annotations

import fcntl
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date, timedelta
from typing import Any

from airflow_mlops.demo.bulk import BulkLanding
from airflow_mlops.demo.example import DAGS, DEPLOY, FEATURES, FIRST_DAY, LAND, LAST_DAYS, MODEL, TRAIN
from airflow_mlops.demo.history import History
from airflow_mlops.demo.summary import summary
from airflow_mlops.demo.watch import Watcher
from airflow_mlops.exceptions import ConfigError
from airflow_mlops.stack.airflow_api import ACTIVE, AirflowApi
from airflow_mlops.stack.stack import Stack


def run(stack: Stack) -> None:
    """Run the demo and print its summary.

    :raises MlopsError: what failed, with the end of its log.
    """
    if not (stack.dags / f"{MODEL}.py").exists():
        raise ConfigError(
            "The example's DAGs are not here.",
            detail=f"no {MODEL}.py in {stack.dags}",
            hint="Run this in a clone of the repository, or pass --dags and --feature-repo.",
        )
    with _only_one(stack):
        land_history_while_starting(stack, FIRST_DAY, LAST_DAYS[0] - timedelta(days=1))
        with AirflowApi(stack.airflow_url) as airflow:
            watcher = Watcher(airflow, stack)
            watcher.ready(DAGS)
            _run_last_days(watcher, stack)
            trained = train(watcher, stack, LAST_DAYS[1] + timedelta(days=1))
            deployed = deploy(watcher, stack, trained.version)
            stack.console.step("asking for a prediction")
            stack.console.text(summary(airflow, stack, trained.run_id, trained.version, deployed))


@dataclass(frozen=True)
class Trained:
    """A successful run of the train DAG, and the version that it registered."""

    run_id: str
    version: int


def land_history_while_starting(stack: Stack, first: date, last: date) -> None:
    """Start the stack and, as soon as its database answers, land the days before in bulk beside it."""
    began = time.monotonic()
    landings: list[BulkLanding] = []

    def start() -> None:
        ledger_url = stack.database.url("mlops_ledger")
        history = History(stack.layout.home, stack.dags, stack.feature_repo, ledger_url, first, last)
        landings.append(BulkLanding(stack, history))

    try:
        if stack.up(database_up=start):
            stack.console.say(f"the stack is up: Airflow {stack.airflow_url}, MLflow {stack.mlflow_url}")
        else:
            stack.console.say(f"the stack runs already: Airflow {stack.airflow_url}, MLflow {stack.mlflow_url}")
            start()
        landed = all(landing.finish() for landing in landings)
    except BaseException:
        for landing in landings:
            landing.stop()
        raise
    stack.console.say(f"history, {first} to {last}: sealed, with features{_took(began) if landed else _BEFORE}")


def _run_last_days(watcher: Watcher, stack: Stack) -> None:
    """The features DAG first: its sensors are waiting when the upstream lands."""
    began = time.monotonic()
    watcher.partitions(*LAST_DAYS, [FEATURES, LAND])
    stack.console.say(f"last days, {LAST_DAYS[0]} to {LAST_DAYS[1]}: day by day through the scheduler{_took(began)}")


def train(watcher: Watcher, stack: Stack, as_of: date) -> Trained:
    """Train on what is known when a day begins; a run that did so already, or is about to, is used."""
    began = time.monotonic()
    moment = f"{as_of}T00:00:00Z"
    airflow = watcher.airflow
    runs = [run for run in airflow.runs(TRAIN) if (run["conf"] or {}).get("as_of") == moment]
    run = runs[0] if runs else airflow.trigger(TRAIN, {"as_of": moment})
    if run["state"] == "failed":
        airflow.clear(TRAIN, run["dag_run_id"])
    if run["state"] != "success":
        run = watcher.finish(TRAIN, run["dag_run_id"])
    version = airflow.xcom(TRAIN, run["dag_run_id"], "register")["version"]
    stack.console.say(f"{TRAIN}: version {version}, which passed its gates{_took(began)}")
    return Trained(run["dag_run_id"], version)


def deploy(watcher: Watcher, stack: Stack, version: int) -> str:
    """Wait until the version was deployed by the run that its asset event woke; return that run's id."""
    began = time.monotonic()
    airflow = watcher.airflow
    run = _deployment(airflow, version)
    if run is None:
        deadline = time.monotonic() + 60
        watcher.until(lambda: _newest_active(airflow) is not None or time.monotonic() > deadline, f"{DEPLOY} to wake")
        # Events can be lost; then the doorbell is rung by hand.
        run = _newest_active(airflow) or _deployment(airflow, version) or airflow.trigger(DEPLOY, {"version": version})
    if run["state"] == "failed":
        airflow.clear(DEPLOY, run["dag_run_id"])
    if run["state"] != "success":
        run = watcher.finish(DEPLOY, run["dag_run_id"])
    stack.console.say(f"{DEPLOY}: version {version} in service{_took(began)}")
    return str(run["dag_run_id"])


def _deployment(airflow: AirflowApi, version: int) -> dict[str, Any] | None:
    """Return the newest ended run that deployed a version, or tried to."""
    for run in airflow.runs(DEPLOY):
        fetched = any(
            task["task_id"] == "fetch" and task["state"] == "success"
            for task in airflow.tasks(DEPLOY, run["dag_run_id"])
        )
        if fetched and airflow.xcom(DEPLOY, run["dag_run_id"], "fetch")["version"] == version:
            return run
    return None


def _newest_active(airflow: AirflowApi) -> dict[str, Any] | None:
    return next((run for run in airflow.runs(DEPLOY) if run["state"] in ACTIVE), None)


def _took(began: float) -> str:
    seconds = time.monotonic() - began
    return f" ({seconds:.0f} s)" if seconds >= 2 else _BEFORE


_BEFORE = " (there already)"


@contextmanager
def _only_one(stack: Stack) -> Iterator[None]:
    """Let one demo at a time work in a home."""
    stack.layout.run.mkdir(parents=True, exist_ok=True)
    with (stack.layout.run / "demo.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ConfigError(
                "The demo runs already.", detail=f"home: {stack.layout.home}", hint="Wait until it is done."
            ) from None
        yield
