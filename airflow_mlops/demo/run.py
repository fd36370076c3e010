"""What ``make demo`` does: from real flights to a served prediction, under a real Airflow.

Every step looks first at what is there, so that a second run is quick and an interrupted one goes on.
"""

from __future__ import annotations

import fcntl
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date, timedelta
from typing import Any

import httpx

from airflow_mlops.demo import processes
from airflow_mlops.demo.airflow_api import ACTIVE, AirflowApi
from airflow_mlops.demo.history import PROGRESS, History
from airflow_mlops.demo.stack import Stack
from airflow_mlops.demo.watch import Watcher
from airflow_mlops.exceptions import ConfigError, MlopsError

MODEL = "flight_delay"
SERVICE = "flight_delay_v1"
LAND, FEATURES, TRAIN, DEPLOY, RUNBOOK = (
    f"{MODEL}.{name}" for name in ("land", "features", "train", "deploy", "runbook")
)

FIRST_DAY = date(2013, 1, 1)
WEEK = (date(2013, 6, 1), date(2013, 6, 7))
"""The days that go through the scheduler, one by one; those before are landed in bulk."""


def run(stack: Stack) -> None:
    """Run the demo and print its summary.

    :raises MlopsError: what failed, with the end of its log.
    """
    with _only_one(stack):
        if not (stack.dags / f"{MODEL}.py").exists():
            raise ConfigError(
                "The example's DAGs are not here.",
                detail=f"no {MODEL}.py in {stack.dags}",
                hint="Run this in a clone of the repository, or pass --dags and --feature-repo.",
            )
        land_history_while_starting(stack, FIRST_DAY, WEEK[0] - timedelta(days=1))
        with AirflowApi(stack.airflow_url) as airflow:
            watcher = Watcher(airflow, stack)
            watcher.ready([LAND, FEATURES, TRAIN, DEPLOY, RUNBOOK])
            _run_week(watcher, stack)
            trained = train(watcher, stack, WEEK[1] + timedelta(days=1))
            deployed = deploy(watcher, stack, trained.version)
            _summarise(airflow, stack, trained, deployed)


@dataclass(frozen=True)
class Trained:
    """A successful run of the train DAG, and the version that it registered."""

    run_id: str
    version: int


def land_history_while_starting(stack: Stack, first: date, last: date) -> None:
    """Start the stack and, as soon as its database answers, land the days before in bulk beside it."""
    began = time.monotonic()
    bulk: list[_Bulk] = []
    try:
        started = stack.up(database_up=lambda: bulk.append(_Bulk(stack, first, last)))
        if started:
            stack.console.say(f"the stack is up: Airflow {stack.airflow_url}, MLflow {stack.mlflow_url}")
        else:
            stack.console.say("the stack runs already")
            bulk.append(_Bulk(stack, first, last))
        for work in bulk:
            work.finish()
    except BaseException:
        for work in bulk:
            work.stop()
        raise
    stack.console.say(f"history from {first} to {last} is sealed and has features ({time.monotonic() - began:.0f} s)")


class _Bulk:
    """The program that lands the history, unless all of it is there."""

    def __init__(self, stack: Stack, first: date, last: date) -> None:
        ledger_url = stack.database.url("mlops_ledger")
        history = History(stack.layout.home, stack.dags, stack.feature_repo, ledger_url, first, last)
        self._stack = stack
        self._log = stack.layout.log("history")
        self._process: subprocess.Popen[bytes] | None = None
        if not history.done:
            env = {**stack.environment, "AIRFLOW__LOGGING__LOGGING_LEVEL": "WARNING"}
            with self._log.open("wb") as output:
                # A session of its own, so that its workers can be ended with it.
                self._process = subprocess.Popen(
                    history.command,
                    env=env,
                    cwd=stack.layout.home,
                    stdout=output,
                    stderr=output,
                    start_new_session=True,
                )

    def finish(self) -> None:
        """Wait for it.

        :raises MlopsError: when it failed, with the end of its log.
        """
        while self._process is not None and self._process.poll() is None:
            self._stack.check()
            lines = self._log.read_text(errors="replace").splitlines()
            progress = [line.removeprefix(PROGRESS) for line in lines if line.startswith(PROGRESS)]
            self._stack.console.step("history in bulk", progress[-1] if progress else "starting")
            time.sleep(0.2)
        if self._process is not None and self._process.returncode != 0:
            lines = self._log.read_text(errors="replace").splitlines()[-20:]
            raise MlopsError(
                "Landing the history failed.",
                detail="\n".join([str(self._log), *lines]),
                hint="Correct what it says and start again.",
            )

    def stop(self) -> None:
        """End it, if it still works."""
        if self._process is not None and self._process.poll() is None:
            processes.stop([processes.record_of("history", self._process.pid)], grace=2)


def _run_week(watcher: Watcher, stack: Stack) -> None:
    """The features DAG first: its sensors are waiting when the upstream lands."""
    began = time.monotonic()
    watcher.partitions(*WEEK, [FEATURES, LAND])
    stack.console.say(f"{WEEK[0]} to {WEEK[1]} went through the scheduler ({time.monotonic() - began:.0f} s)")


def train(watcher: Watcher, stack: Stack, as_of: date) -> Trained:
    """Train on what is known when a day begins; a run that did so already, or is about to, is used."""
    moment = f"{as_of}T00:00:00Z"
    airflow = watcher.airflow
    runs = [run for run in airflow.runs(TRAIN) if (run["conf"] or {}).get("as_of") == moment]
    run = runs[0] if runs else airflow.trigger(TRAIN, {"as_of": moment})
    if run["state"] == "failed":
        airflow.clear(TRAIN, run["dag_run_id"])
    if run["state"] != "success":
        run = watcher.finish(TRAIN, run["dag_run_id"])
    version = airflow.xcom(TRAIN, run["dag_run_id"], "register")["version"]
    stack.console.say(f"{TRAIN} made version {version}, which passed its gates ({run['duration']:.0f} s)")
    return Trained(run["dag_run_id"], version)


def deploy(watcher: Watcher, stack: Stack, version: int) -> str:
    """Wait until the version was deployed by the run that its asset event woke; return that run's id."""
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
    stack.console.say(f"{DEPLOY} put version {version} into service ({run['duration']:.0f} s)")
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


def _summarise(airflow: AirflowApi, stack: Stack, trained: Trained, deployed: str) -> None:
    """Ask what serves, ask it for one prediction, and print all of it."""
    from airflow_mlops.demo import prediction

    stack.console.step("asking for a prediction")
    server = prediction.ModelServer(stack.serving_url, MODEL)
    version = server.stable()
    registered = champion(stack)
    if version is None or version != registered:
        raise MlopsError(
            "Registry and model server do not agree on what serves.",
            detail=f"label stable on the server: version {version}; alias champion in MLflow: version {registered}",
            hint=f"Trigger {DEPLOY} with the version that should serve.",
        )
    flight = prediction.flight_after(WEEK[1])
    online = prediction.online_features(stack.feature_repo, stack.layout.home, SERVICE, flight.row)
    request = prediction.instance(server.inputs(), {**flight.row, **online})
    probability = server.predict([request])[0]
    lines = [
        "",
        f"{MODEL} version {version} serves.",
        *_metrics(airflow, trained if trained.version == version else None),
        "",
        f"A real prediction: will {flight.words}, arrive more than 15 minutes late?",
        "  Its features come from Feast's online store as it stood an hour before. Ask yourself:",
        "",
        prediction.curl(server, request),
        "",
        f"  answer: {probability:.3f}, by version {version}.  What happened: {flight.outcome()}.",
        "",
        f"Airflow  {stack.airflow_url}",
        f"         training    {airflow.run_page(TRAIN, trained.run_id)}",
        f"         deployment  {airflow.run_page(DEPLOY, deployed)}",
        f"MLflow   {stack.mlflow_url}",
        f"         version {version}   {stack.mlflow_url}/#/models/{MODEL}/versions/{version}",
        f"Serving  {server.url}",
        "",
        "Stop it with `make down`, remove it with `make clean`.",
    ]
    stack.console.text("\n".join(lines))


def _metrics(airflow: AirflowApi, trained: Trained | None) -> Iterator[str]:
    if trained is None:
        yield "  It is not the version that this demo trained: somebody deployed or rolled back since."
        return
    evaluated = airflow.xcom(TRAIN, trained.run_id, "evaluate")
    metrics = evaluated["metrics"]
    yield f"  {'test split, ' + format(evaluated['rows'], ',') + ' flights':30} {'model':>8} {'baseline':>9}"
    for name in metrics["challenger"]:
        yield f"  {name:30} {_figure(metrics['challenger'][name]):>8} {_figure(metrics['baseline'].get(name)):>9}"


def _figure(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def champion(stack: Stack) -> int | None:
    """Return the version that MLflow calls champion."""
    url = f"{stack.mlflow_url}/api/2.0/mlflow/registered-models/alias"
    response = httpx.get(url, params={"name": MODEL, "alias": "champion"}, timeout=10, trust_env=False)
    return int(response.json()["model_version"]["version"]) if response.is_success else None


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
