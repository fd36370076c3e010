"""The flights through the composed installation, and a `kill -9` of each container in the middle of work.

`make test-containers` runs it: it builds the images and takes a while.
"""

from __future__ import annotations

import re
import shutil
import time
from collections.abc import Iterator
from datetime import date, timedelta
from pathlib import Path
from typing import Any, cast

import pytest

from airflow_mlops.bootstrap.train import Trained, deploy, train
from airflow_mlops.bootstrap.watch import Watcher
from airflow_mlops.demo import example
from airflow_mlops.demo.prediction import ModelServer, flight_after
from airflow_mlops.exceptions import TransientError
from airflow_mlops.partitioning import DAILY
from airflow_mlops.stack.airflow_api import AirflowApi
from airflow_mlops.stack.ports import PUBLISHED, Ports, variable
from airflow_mlops.stack.stack import Stack
from tests.containers.compose import ROOT, SLOWER, Compose, build

pytestmark = pytest.mark.containers

IMAGES = ("serving", "train", "airflow", "postgres", "redis", "storage")
HISTORY = (date(2013, 1, 1), date(2013, 1, 19))
FIRST_DAY = HISTORY[1] + timedelta(days=1)
TRAINS, WORKS = "worker-gpu", "worker"
KILLED = (
    *(TRAINS, WORKS, "scheduler", "api-server", "dag-processor", "triggerer"),
    *("postgres", "redis", "mlflow", "storage", "serving"),
)
TAKEN_UP_WITHIN = 60 * SLOWER
LAND_HISTORY = """
import sys
from datetime import date, timedelta
from airflow_mlops.demo.flights import land
from airflow_mlops.operators.base import beneath, open_home

first, last = map(date.fromisoformat, sys.argv[1:])
for day in range((last - first).days + 1):
    for feed in ("departures", "arrivals", "weather"):
        land(beneath(open_home(), "lake"), first + timedelta(days=day), feed)
"""


class PatientApi(AirflowApi):
    """Asks again while the API server, or the database behind it, is killed and comes back."""

    def _call(self, method: str, path: str, **kwargs: Any) -> Any:
        deadline = time.monotonic() + 120 * SLOWER
        while True:
            try:
                return super()._call(method, path, **kwargs)
            except TransientError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(1)


@pytest.fixture(scope="module")
def ports() -> Ports:
    return Ports.free()


@pytest.fixture(scope="module")
def dags(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The example's DAG folder, with a pipeline that a month of data is enough for."""
    folder = tmp_path_factory.mktemp("containers") / "dags"
    shutil.copytree(ROOT / "dags", folder, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(ROOT / "tests" / "e2e" / "dags", folder, dirs_exist_ok=True)
    return folder


@pytest.fixture(scope="module")
def compose(ports: Ports, dags: Path) -> Iterator[Compose]:
    """The composed installation, healthy; nothing of it is left."""
    env = {variable(name): str(ports.as_dict()[name]) for name in PUBLISHED}
    compose = Compose({**env, "COMPOSE_PROFILES": "cpu,storage", "DAGS": str(dags)})
    build(IMAGES, compose.console.say)
    compose.down()
    began = time.monotonic()
    try:
        compose.up()
        compose.wait_until_healthy(KILLED)
        compose.console.say(f"cold start to healthy: {time.monotonic() - began:.0f} s")
        compose.console.text(compose.memory())
        yield compose
    finally:
        compose.down()


@pytest.fixture(scope="module")
def watcher(compose: Compose, ports: Ports) -> Iterator[Watcher]:
    password = compose.exec("api-server", "cat", "/secrets/airflow/admin_password")
    with PatientApi(f"http://127.0.0.1:{ports.airflow}", ("admin", password)) as airflow:
        yield Watcher(airflow, cast(Stack, compose), timeout=600 * SLOWER)


@pytest.mark.skipif((ROOT / "docker" / ".env").exists(), reason="there is a docker/.env")
def test_without_settings_it_says_how_to_make_them() -> None:
    with pytest.raises(
        RuntimeError, match=r"there is no docker/\.env\. Make one - cp docker/\.env\.example docker/\.env"
    ):
        Compose({}, project="airflow-mlops-none").up()


def test_the_flights_and_whatever_is_killed(compose: Compose, watcher: Watcher, ports: Ports) -> None:
    airflow = watcher.airflow
    server = ModelServer(f"http://127.0.0.1:{ports.serving_rest}", example.MODEL)
    watcher.ready([*example.DAGS, "flight_delay.history"])
    doctor(compose)

    # Land, features, train, deploy, predict.
    compose.exec(WORKS, "python", "-c", LAND_HISTORY, *map(str, HISTORY))
    span = {"first": str(HISTORY[0]), "last": str(HISTORY[1])}
    watcher.finish("flight_delay.history", airflow.trigger("flight_delay.history", span)["dag_run_id"])
    features(watcher, FIRST_DAY)
    first = train(watcher, example.MODEL, DAILY.first(FIRST_DAY))
    deploy(watcher, example.MODEL, first.version)
    assert server.stable() == first.version
    assert 0 < predict(compose, FIRST_DAY) < 1

    # Retrain, day by day; each time another container is killed while a day is made and a model is trained.
    for number, service in enumerate(KILLED, start=1):
        survive(compose, watcher, service, FIRST_DAY + timedelta(days=number))
    last = max(trained.version for trained in trainings(airflow))
    deploy(watcher, example.MODEL, last)
    watcher.until(lambda: server.stable() == last, "the last version to serve")
    assert_trained_only_where_it_should(compose, airflow)

    # Roll back.
    rollback = airflow.trigger(example.ROLLBACK, {"reason": "drill"})["dag_run_id"]
    watcher.finish(example.ROLLBACK, rollback)
    assert server.stable() not in (None, last)
    assert 0 < predict(compose, FIRST_DAY) < 1
    doctor(compose)


# --- steps --------------------------------------------------------------------------------------------------------


def features(watcher: Watcher, day: date) -> None:
    """The upstream lands a day, and the day's features are made."""
    for dag in (example.LAND, example.FEATURES):
        watcher.finish(dag, watcher.airflow.trigger(dag, partition_key=str(day))["dag_run_id"])


def survive(compose: Compose, watcher: Watcher, service: str, day: date) -> None:
    """Kill a container while a day is made and a model is trained on the days before: both end well."""
    airflow, began = watcher.airflow, time.monotonic()
    land = airflow.trigger(example.LAND, partition_key=str(day))["dag_run_id"]
    watcher.finish(example.LAND, land)
    training = airflow.trigger(example.TRAIN, {"as_of": f"{day}T00:00:00Z"})["dag_run_id"]
    watcher.until(lambda: state(airflow, example.TRAIN, training, "train") == "running", f"{service}: to train")
    making = airflow.trigger(example.FEATURES, partition_key=str(day))["dag_run_id"]
    watcher.until(lambda: bool(running(airflow, example.FEATURES, making)), f"{service}: to make features")
    mine = (example.TRAIN, training) if service == TRAINS else (example.FEATURES, making)
    struck = {which(task): task["state"] for task in airflow.tasks(*mine) if task["state"] in ("queued", "running")}
    workers = (TRAINS, WORKS)
    assert struck or service not in workers, f"{service} had nothing to do when it was to be killed"
    compose.kill(service)
    killed = time.monotonic()
    back = compose.wait_until_healthy([service])
    said = f"{service} killed: healthy again after {back:.0f} s"

    # What a killed worker was at is tried again, by the one that comes back; what it had not begun is handed out again.
    if service in workers:

        def taken_up() -> bool:
            tasks = {which(task): task for task in airflow.tasks(*mine)}
            anew = {one for one, was in struck.items() if was == "queued" or tasks[one]["try_number"] > 1}
            # One that had just ended is not lost.
            return all(
                tasks[one]["state"] in (["running", "success"] if one in anew else ["success"]) for one in struck
            )

        watcher.until(taken_up, f"{service}: to be taken up again")
        seconds = time.monotonic() - killed
        said += f", its tasks taken up again after {seconds:.0f} s"
        assert seconds <= TAKEN_UP_WITHIN, said
    watcher.finish(example.FEATURES, making)
    watcher.finish(example.TRAIN, training)
    compose.console.say(f"{said}, all done {time.monotonic() - began:.0f} s after the day began")


def doctor(compose: Compose) -> None:
    """The installation says of itself that nothing is wrong."""
    said = compose.exec("api-server", "airflow-mlops", "doctor", check=False)
    assert said.rstrip().endswith("Nothing is wrong."), said


def predict(compose: Compose, day: date) -> float:
    """Ask about a flight of the day after, in a worker, as anybody with the model's keys would."""
    flight = flight_after(day).row
    wants = compose.exec(WORKS, "airflow-mlops", "ask", example.MODEL)
    names = re.findall(r"(\w+)=", wants.splitlines()[-1])
    said = compose.exec(
        WORKS, "airflow-mlops", "ask", example.MODEL, *(f"{name}={flight[name] or ''}" for name in names)
    )
    [probability] = re.findall(r"^probability: (\S+)", said, re.MULTILINE)
    return float(probability)


# --- what is asked ------------------------------------------------------------------------------------------------


def trainings(airflow: AirflowApi) -> list[Trained]:
    """The trainings that succeeded."""
    runs = [run["dag_run_id"] for run in airflow.runs(example.TRAIN) if run["state"] == "success"]
    return [Trained(run, airflow.xcom(example.TRAIN, run, "register")["version"]) for run in runs]


def running(airflow: AirflowApi, dag: str, run: str) -> list[dict[str, Any]]:
    return [task for task in airflow.tasks(dag, run) if task["state"] == "running"]


def which(task: dict[str, Any]) -> tuple[str, int]:
    """Name a task of a run; its id is another at each try."""
    return task["task_id"], task["map_index"]


def state(airflow: AirflowApi, dag: str, run: str, task_id: str) -> str | None:
    return next((task["state"] for task in airflow.tasks(dag, run) if task["task_id"] == task_id), None)


def assert_trained_only_where_it_should(compose: Compose, airflow: AirflowApi) -> None:
    """All trainings ran on the worker of the queue `gpu`, and nothing else did."""
    trains, works = (compose.exec(service, "hostname").strip() for service in (TRAINS, WORKS))
    for dag in (example.FEATURES, example.TRAIN, example.DEPLOY):
        for run in airflow.runs(dag):
            for task in airflow.tasks(dag, run["dag_run_id"]):
                if task["hostname"]:
                    on = trains if task["task_id"] == "train" else works
                    assert (task["task_id"], task["hostname"]) == (task["task_id"], on)
