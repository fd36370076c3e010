"""What ``make demo`` does: from real flights to a served prediction, under a real Airflow.

Every step looks first at what is there, so that a second run is quick and an interrupted one goes on.
"""

from __future__ import annotations

import fcntl
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import date, timedelta

from airflow_mlops.bootstrap.train import BEFORE, deploy, took, train
from airflow_mlops.bootstrap.watch import Watcher
from airflow_mlops.demo.bulk import BulkLanding
from airflow_mlops.demo.example import DAGS, FEATURES, FIRST_DAY, LAND, LAST_DAYS, MODEL
from airflow_mlops.demo.history import History
from airflow_mlops.demo.summary import summary
from airflow_mlops.exceptions import ConfigError
from airflow_mlops.partitioning import DAILY
from airflow_mlops.stack.airflow_api import AirflowApi
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
            trained = train(watcher, MODEL, DAILY.after(LAST_DAYS[1]))
            deployed = deploy(watcher, MODEL, trained.version)
            stack.console.step("asking for a prediction")
            stack.console.text(summary(airflow, stack, trained.run_id, trained.version, deployed))


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
    stack.console.say(f"history, {first} to {last}: sealed, with features{took(began) if landed else BEFORE}")


def _run_last_days(watcher: Watcher, stack: Stack) -> None:
    """The features DAG first: its sensors are waiting when the upstream lands."""
    began = time.monotonic()
    watcher.partitions(*LAST_DAYS, [FEATURES, LAND])
    stack.console.say(f"last days, {LAST_DAYS[0]} to {LAST_DAYS[1]}: day by day through the scheduler{took(began)}")


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
