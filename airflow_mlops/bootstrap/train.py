"""A first training and its deployment, through Airflow. What was done is not done again."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from airflow_mlops.bootstrap.watch import Watcher
from airflow_mlops.exceptions import MlopsError
from airflow_mlops.stack.airflow_api import ACTIVE, AirflowApi

BEFORE = " (there already)"


@dataclass(frozen=True)
class Trained:
    """A successful run of a train DAG, and the version that it registered."""

    run_id: str
    version: int


def train(watcher: Watcher, model: str, as_of: datetime) -> Trained:
    """Train on what is known at a moment; a run that did so already, or is about to, is used.

    :param as_of: In UTC.
    :raises TaskFailedError: when the training failed, or its gates refuse what it made.
    :raises MlopsError: when there was nothing to train.
    """
    began, dag_id, airflow = time.monotonic(), f"{model}.train", watcher.airflow
    moment = f"{as_of:%Y-%m-%dT%H:%M:%SZ}"
    runs = [run for run in airflow.runs(dag_id) if (run["conf"] or {}).get("as_of") == moment]
    # After a failure a run of its own, which sees what was corrected in the code.
    run = runs[0] if runs and runs[0]["state"] != "failed" else airflow.trigger(dag_id, {"as_of": moment})
    if run["state"] != "success":
        run = _followed(watcher, dag_id, run)
    failed = next((one for one in runs if one["state"] == "failed"), None)
    if (version := _registered(airflow, dag_id, run)) is None and failed is not None:
        # Nothing differs from what was trained then, so it was not trained again: what failed behind it is tried again.
        airflow.clear(dag_id, failed["dag_run_id"])
        run = _followed(watcher, dag_id, failed)
        version = _registered(airflow, dag_id, run)
    if version is None:
        raise MlopsError(
            f"A run of {dag_id} trained nothing.",
            detail=airflow.run_page(dag_id, run["dag_run_id"]),
            hint="The log of its first task that was skipped says why.",
        )
    watcher.console.say(f"{dag_id}: version {version}, which passed its gates{took(began)}")
    return Trained(run["dag_run_id"], version)


def deploy(watcher: Watcher, model: str, version: int) -> str:
    """Wait until the version was deployed by the run that its asset event woke; return that run's id.

    :raises TaskFailedError: when it was not.
    """
    began, dag_id, airflow = time.monotonic(), f"{model}.deploy", watcher.airflow
    run = _deployment(airflow, dag_id, version)
    if run is None:
        deadline = time.monotonic() + 60
        watcher.until(
            lambda: _newest_active(airflow, dag_id) is not None or time.monotonic() > deadline, f"{dag_id} to wake"
        )
        # Events can be lost; then the doorbell is rung by hand.
        run = (
            _newest_active(airflow, dag_id)
            or _deployment(airflow, dag_id, version)
            or airflow.trigger(dag_id, {"version": version})
        )
    if run["state"] == "failed":
        airflow.clear(dag_id, run["dag_run_id"])
    if run["state"] != "success":
        run = _followed(watcher, dag_id, run)
    watcher.console.say(f"{dag_id}: version {version} in service{took(began)}")
    return str(run["dag_run_id"])


def took(began: float) -> str:
    """Return how long something took, in words; that it was there already, if no time at all.

    :param began: By the monotonic clock.
    """
    seconds = time.monotonic() - began
    return f" ({seconds:.0f} s)" if seconds >= 2 else BEFORE


def _followed(watcher: Watcher, dag_id: str, run: dict[str, Any]) -> dict[str, Any]:
    watcher.console.say(f"{dag_id} runs: {watcher.airflow.run_page(dag_id, run['dag_run_id'])}")
    return watcher.finish(dag_id, run["dag_run_id"])


def _registered(airflow: AirflowApi, dag_id: str, run: Mapping[str, Any]) -> int | None:
    """Return the version that a run registered, if it did."""
    states = {task["task_id"]: task["state"] for task in airflow.tasks(dag_id, run["dag_run_id"])}
    if states.get("register") != "success":
        return None
    return int(airflow.xcom(dag_id, run["dag_run_id"], "register")["version"])


def _deployment(airflow: AirflowApi, dag_id: str, version: int) -> dict[str, Any] | None:
    """Return the newest ended run that deployed a version, or tried to."""
    for run in airflow.runs(dag_id):
        fetched = any(
            task["task_id"] == "fetch" and task["state"] == "success"
            for task in airflow.tasks(dag_id, run["dag_run_id"])
        )
        if fetched and airflow.xcom(dag_id, run["dag_run_id"], "fetch")["version"] == version:
            return run
    return None


def _newest_active(airflow: AirflowApi, dag_id: str) -> dict[str, Any] | None:
    return next((run for run in airflow.runs(dag_id) if run["state"] in ACTIVE), None)
