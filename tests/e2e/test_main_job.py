"""The main job under a real Airflow: land, features, train, deploy, predict, retrain, deploy, roll back.

One story, because every step stands on the one before. After each step the model server is asked, as a caller
would ask it, and compared with what Keras said at training time. The retraining is the scheduler's own.

When it is told, the trigger form of every DAG is opened in a browser and sent as it opens.
"""

from __future__ import annotations

import json
import math
import os
import re
import signal
import subprocess
import sys
import time
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import pyarrow.parquet as pq
import pytest
import yaml
from mlflow import MlflowClient

from airflow_mlops.bootstrap.train import Trained, deploy, train
from airflow_mlops.bootstrap.watch import TaskFailedError, Watcher
from airflow_mlops.demo import example
from airflow_mlops.demo import run as demo
from airflow_mlops.demo.prediction import ModelServer, flight_after, request_for
from airflow_mlops.demo.summary import champion
from airflow_mlops.engine.data.partitions import PartitionStore
from airflow_mlops.exceptions import TransientError
from airflow_mlops.partitioning import DAILY
from airflow_mlops.stack.airflow_api import AirflowApi
from airflow_mlops.stack.components import AIRFLOW
from airflow_mlops.stack.environment import FEAST_POOL
from airflow_mlops.stack.stack import Stack
from tests.e2e.conftest import LATER, SECRET, YESTERDAY
from tests.planted import OF_THE_DATA, databases, files, found

sys.path.append(str(Path(__file__).parent.parent.parent / "bench"))
import train_dag

if TYPE_CHECKING:
    from playwright.sync_api import Page

pytestmark = pytest.mark.e2e

DOCKER = Path(__file__).parent.parent.parent / "docker"
HISTORY = (date(2013, 1, 1) + LATER, date(2013, 1, 29) + LATER)
OWNER = "flights@example.com"
DAY_1, DAY_2, DAY_3 = (str(YESTERDAY - timedelta(days=days)) for days in (2, 1, 0))


def test_main_job(stack: Stack, watcher: Watcher) -> None:
    airflow = watcher.airflow
    server = ModelServer(stack.serving_url, example.MODEL)

    demo.land_history_while_starting(stack, *HISTORY)
    assert not stack.up(), "a second up must find everything running"
    watcher.ready(example.DAGS)
    assert server.stable() is None

    # Yesterday's features and this day's training are due: nobody triggers them. The training will wait for its data,
    # and keep nobody from training on what is there; the features would come before the days that they stand on.
    yesterday, scheduled = fired(watcher, example.FEATURES), fired(watcher, example.TRAIN)
    assert airflow.runs_by_key(example.FEATURES).keys() == {DAY_3}
    end(airflow, example.FEATURES, yesterday)
    watcher.until(lambda: state_of(airflow, scheduled, "wait_data") == "deferred")
    assert airflow.run(example.TRAIN, scheduled)["note"].startswith("cron: the schedule, due "), "why it started"

    # A day whose past is missing is refused in words; once the past is there, the cleared run converges.
    late = features(airflow, DAY_2)
    land(watcher, DAY_2)
    with pytest.raises(TaskFailedError) as refused:
        watcher.finish(example.FEATURES, late)
    assert_ends_with_headline_where_fix(refused.value, "compute_features", DAY_1)
    early = features(airflow, DAY_1)
    land(watcher, DAY_1)
    watcher.finish(example.FEATURES, early)
    airflow.clear(example.FEATURES, late)
    watcher.finish(example.FEATURES, late)
    assert all(sealed(stack, feed)[-2:] == [DAY_1, DAY_2] for feed in ("departures", "arrivals", "weather"))
    checked = airflow.xcom(example.FEATURES, late, "departures.check")
    assert checked["references"] >= 28, "the days before have profiles"
    assert len(list((stack.layout.home / "reports").glob("*.html"))) >= 12, "three feeds, two days, suite and history"
    assert_materialized(airflow, late)

    first = train(watcher, example.MODEL, DAILY.first(YESTERDAY))
    assert airflow.run(example.TRAIN, first.run_id)["note"].startswith("hand: ")
    deploy(watcher, example.MODEL, first.version)
    assert_serves(stack, server, first.version)

    # The label's upstream announces trouble: the training that waits holds, for all to see, until the all-clear; also
    # when its data is there. Then it goes on by itself, and what it made deploys by itself.
    announce(watcher, "degraded", "half of the gates do not report")
    airflow.clear(example.FEATURES, yesterday, only_failed=False)
    land(watcher, DAY_3)
    watcher.finish(example.FEATURES, yesterday)
    watcher.until(lambda: "half of the gates do not report" in log_of(airflow, scheduled, "wait_data"))
    assert state_of(airflow, scheduled, "wait_data") == "deferred"
    assert "Could not read served logs" not in log_of(airflow, scheduled, "wait_data")
    announce(watcher, "ok", "all gates report again")
    watcher.finish(example.TRAIN, scheduled)
    second = Trained(scheduled, airflow.xcom(example.TRAIN, scheduled, "register")["version"])
    assert second.version == first.version + 1
    assert rows(airflow, second) > rows(airflow, first)
    woken = airflow.run(example.DEPLOY, deploy(watcher, example.MODEL, second.version))
    assert woken["run_type"] == "asset_triggered"
    assert_serves(stack, server, second.version)
    assert golden_difference(stack, server, first.version, f"versions/{first.version}") < 1e-5, "kept warm"

    # A flight of tomorrow, as a caller would ask about it: nothing was ever computed for it.
    flight = flight_after(date.fromisoformat(DAY_3)).row
    request = request_for(stack, flight)
    assert math.isfinite(request["origin_dep_delay_mean_1h"])
    assert math.isfinite(request["weather_temp"])
    assert 0 < server.predict([request])[0] < 1
    unknown = {**flight, "tailnum": None}
    request = request_for(stack, unknown)
    assert math.isnan(request["aircraft_idle_minutes"])
    assert 0 < server.predict([request])[0] < 1

    # The model server is killed; the rollback waits for it, in words, and goes through when it is back.
    for name in ("watch", "serving"):  # the first would start the other again
        crashed = stack.status()[name]
        assert crashed is not None
        os.kill(crashed.pid, signal.SIGKILL)
    rollback = airflow.trigger(example.ROLLBACK, {"reason": "drill"})["dag_run_id"]
    wait_for_retry(airflow, rollback)
    assert_words_of_a_dead_server(airflow, rollback)
    with pytest.raises(TransientError, match="serving has ended"):
        stack.check()
    assert stack.up(), "only the model server and who watches it must be started again"
    # What it served before is in its config file; but the rollback may be as quick.
    watcher.until(lambda: server.stable() in (first.version, second.version))
    watcher.finish(example.ROLLBACK, rollback)
    assert_serves(stack, server, first.version)
    assert golden_difference(stack, server, second.version, f"versions/{second.version}") < 1e-5

    assert_somebody_was_told(watcher, stack)
    assert_owned(airflow, stack)
    assert_no_row_and_no_secret_left_the_data(stack)


def test_the_stack_answers_from_any_shell(stack: Stack, tmp_path: Path) -> None:
    home = ["--home", str(stack.layout.home)]
    repo = ["--repo", str(stack.feature_repo)]
    shell = {name: value for name, value in os.environ.items() if not name.startswith("AIRFLOW")}

    def told(*command: str) -> str:
        run = [sys.executable, "-m", "airflow_mlops.cli", *command]
        return subprocess.run(run, capture_output=True, text=True, env=shell, cwd=tmp_path, check=True).stdout

    def said(*command: str) -> str:
        return told("stack", *command)

    assert example.TRAIN in said("airflow", *home, "dags", "list")
    assert f"export AIRFLOW_HOME={stack.layout.airflow}" in said("env", *home).splitlines()
    assert stack.airflow_url in said("status", *home)
    assert "scheduler.log:\n" in said("logs", *home, "scheduler")
    flight = flight_after(date.fromisoformat(DAY_3)).row
    wants = told("ask", *home, *repo, example.MODEL)
    assert f"reads feature service {example.SERVICE}." in wants
    names = re.findall(r"(\w+)=", wants.splitlines()[-1])
    values = [f"{name}={flight[name] or ''}" for name in names]
    assert re.search(r"^probability: 0\.\d+", told("ask", *home, *repo, example.MODEL, *values), re.MULTILINE)
    assert list(tmp_path.iterdir()) == [], "no stray database, no stray settings"


def test_the_health_checks_of_the_containers_find_the_stack_well(stack: Stack) -> None:
    addresses = {"AIRFLOW_API": stack.airflow_url, "MLFLOW_API": stack.mlflow_url}
    for name in (*AIRFLOW, "mlflow"):
        check = [sys.executable, str(DOCKER / "healthy.py"), name]
        done = subprocess.run(check, env={**os.environ, **addresses}, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
    serving = yaml.safe_load((DOCKER / "compose.yaml").read_text())["services"]["serving"]
    _, *bash, script = serving["healthcheck"]["test"]
    for port, well in ((stack.ports.serving_rest, True), (1, False)):
        asked = subprocess.run([*bash, script.replace("8501", str(port))], capture_output=True, check=False)
        assert (asked.returncode == 0) == well, asked.stderr


def test_the_event_of_an_asset_tells_that_a_partition_is_complete(stack: Stack, watcher: Watcher) -> None:
    airflow, folder = watcher.airflow, stack.layout.home / "lake" / "told" / "2024-03-05"
    folder.mkdir(parents=True)
    (folder / "rows.csv").write_text("at,x\n2024-03-05,1\n")
    watcher.ready(["told", "tells"])
    waiting = airflow.trigger("told")["dag_run_id"]
    watcher.until(lambda: any(task["state"] == "up_for_reschedule" for task in airflow.tasks("told", waiting)))
    assert "has no event of 2024-03-05" in "".join(airflow.log("told", waiting, "wait", 1))
    watcher.finish("tells", airflow.trigger("tells", partition_key="2024-03-04")["dag_run_id"])
    watcher.finish("tells", airflow.trigger("tells", partition_key="2024-03-05")["dag_run_id"])
    watcher.finish("told", waiting)
    assert airflow.xcom("told", waiting, "wait")["files"] == 1


def test_a_training_from_its_form_is_halted_in_the_middle_and_resumed(
    stack: Stack, watcher: Watcher, page: Page, capsys: pytest.CaptureFixture[str]
) -> None:
    """As it opens, the form trains on the newest day for which all data is there. Halted, it registers nothing."""
    airflow = watcher.airflow
    run = send_form(stack, watcher, page, example.TRAIN)
    watcher.until(lambda: state_of(airflow, run, "snapshot") in {"running", "success"})
    versions = registered(stack)
    intervene(watcher, "halt")
    watcher.finish(example.TRAIN, run)
    held = {task for task in ("train", "evaluate", "register", "judge") if state_of(airflow, run, task) == "skipped"}
    assert {"register", "judge"} <= held
    assert registered(stack) == versions
    intervene(watcher, "resume")
    airflow.clear(example.TRAIN, run, only_failed=False)
    watcher.finish(example.TRAIN, run)
    today = datetime.combine(YESTERDAY + timedelta(days=1), datetime.min.time(), UTC)
    assert airflow.xcom(example.TRAIN, run, "snapshot")["as_of"] == today.isoformat()
    assert registered(stack) >= versions

    # The small setting of the bench that needs a stack.
    train_dag.against_one_script(train_dag.Figures(small=True), airflow, stack, run, today)
    assert "the train DAG / one plain script: " in capsys.readouterr().out


@pytest.mark.parametrize("name", ["land", "features", "deploy", "runbook", "rollback", "exclude", "sources", "history"])
def test_every_form_can_be_sent_as_it_opens(stack: Stack, watcher: Watcher, page: Page, name: str) -> None:
    dag_id = f"{example.MODEL}.{name}"
    run = send_form(stack, watcher, page, dag_id)
    assert watcher.airflow.run(dag_id, run)["run_type"] == "manual"
    if name == "features":
        states: dict[str, str] = {}

        def begun() -> bool:
            states.update({task["task_id"]: task["state"] for task in watcher.airflow.tasks(dag_id, run)})
            return states["departures.wait"] in ("success", "failed")

        watcher.until(begun)
        assert states["departures.wait"] == "success", "it takes the last partition that has ended"
    end(watcher.airflow, dag_id, run)  # that it began is enough: what it does others have shown


# --- steps ------------------------------------------------------------------------------------------------


def land(watcher: Watcher, day: str) -> None:
    """The upstream lands a day, through the scheduler."""
    watcher.finish(example.LAND, watcher.airflow.trigger(example.LAND, partition_key=day)["dag_run_id"])


def fired(watcher: Watcher, dag_id: str) -> str:
    """Wait for the one run that the scheduler fires by itself."""
    scheduled: list[dict[str, Any]] = []

    def is_there() -> bool:
        scheduled[:] = [run for run in watcher.airflow.runs(dag_id) if run["run_type"] == "scheduled"]
        return bool(scheduled)

    watcher.until(is_there)
    [run] = scheduled
    return str(run["dag_run_id"])


def end(airflow: AirflowApi, dag_id: str, run_id: str) -> None:
    """Mark a run as failed, which ends its tasks."""
    airflow._call("PATCH", f"/dags/{dag_id}/dagRuns/{quote(run_id, safe='')}", json={"state": "failed"})


def send_form(stack: Stack, watcher: Watcher, page: Page, dag_id: str) -> str:
    """Open a DAG's trigger form in the browser, and send it as it opens."""
    airflow = watcher.airflow
    before = {run["dag_run_id"] for run in airflow.runs(dag_id)}
    page.goto(f"{stack.airflow_url}/dags/{dag_id}")
    page.get_by_test_id("trigger-dag-button").click()
    page.get_by_test_id("trigger-dag-submit").click()
    watcher.until(lambda: {run["dag_run_id"] for run in airflow.runs(dag_id)} > before)
    [run] = {run["dag_run_id"] for run in airflow.runs(dag_id)} - before
    return str(run)


def intervene(watcher: Watcher, action: str) -> None:
    """What somebody on call does."""
    run = watcher.airflow.trigger(example.RUNBOOK, {"action": action, "reason": "a drill"})
    watcher.finish(example.RUNBOOK, run["dag_run_id"])


def registered(stack: Stack) -> set[str]:
    """The versions in the registry."""
    found = MlflowClient(stack.mlflow_url).search_model_versions(f"name='{example.MODEL}'")
    return {str(version.version) for version in found}


def features(airflow: AirflowApi, day: str) -> str:
    """Start the features of a day that did not land yet: its sensors wait."""
    return str(airflow.trigger(example.FEATURES, partition_key=day)["dag_run_id"])


def announce(watcher: Watcher, state: str, reason: str) -> None:
    """The upstream of the label posts an asset event, and the event's run writes it down."""
    airflow = watcher.airflow
    before = {run["dag_run_id"] for run in airflow.runs(example.SOURCES)}
    airflow.post_event("arrivals.announcements", {"state": state, "reason": reason})
    watcher.until(lambda: {run["dag_run_id"] for run in airflow.runs(example.SOURCES)} > before)
    [run] = {run["dag_run_id"] for run in airflow.runs(example.SOURCES)} - before
    watcher.finish(example.SOURCES, run)


def state_of(airflow: AirflowApi, run_id: str, task_id: str) -> str | None:
    states = {task["task_id"]: task["state"] for task in airflow.tasks(example.TRAIN, run_id)}
    return states.get(task_id)


def log_of(airflow: AirflowApi, run_id: str, task_id: str) -> str:
    return "\n".join(airflow.log(example.TRAIN, run_id, task_id, 1))


def wait_for_retry(airflow: AirflowApi, run_id: str, seconds: float = 180) -> None:
    """Wait until a task failed and will be tried again. The watcher would rightly complain of the dead server."""
    deadline = time.monotonic() + seconds
    while all(task["state"] != "up_for_retry" for task in airflow.tasks(example.ROLLBACK, run_id)):
        assert time.monotonic() < deadline
        time.sleep(0.5)


# --- what must hold ---------------------------------------------------------------------------------------


def assert_serves(stack: Stack, server: ModelServer, version: int) -> None:
    """The label, the registry's alias and the predictions agree on the version."""
    assert server.stable() == version
    assert champion(stack) == version
    assert golden_difference(stack, server, version, "labels/stable") < 1e-5


def golden_difference(stack: Stack, server: ModelServer, version: int, target: str) -> float:
    """Return the largest difference between the server's answers and Keras' at training time."""
    folder = stack.layout.models / example.MODEL / str(version)
    golden = json.loads((folder / "assets.extra" / "golden.json").read_text())
    names = list(golden["inputs"])
    instances = [dict(zip(names, row, strict=True)) for row in zip(*golden["inputs"].values(), strict=True)]
    answers = server.predict(instances, target)
    expected = golden["outputs"]["probability"]
    assert len(answers) == len(expected) >= 16
    return max(abs(answer - value) for answer, value in zip(answers, expected, strict=True))


def assert_materialized(airflow: AirflowApi, run_id: str) -> None:
    """The repository was applied in its own pool, and each feature view was written by a task of its own."""
    tasks = airflow.tasks(example.FEATURES, run_id)
    [applied] = [task for task in tasks if task["task_id"] == "apply"]
    assert applied["pool"] == FEAST_POOL
    written = [task for task in tasks if task["task_id"] == "materialize"]
    assert len(written) >= 6, "six stored feature views"
    assert {task["state"] for task in written} == {"success"}


def assert_ends_with_headline_where_fix(error: TaskFailedError, task: str, word: str) -> None:
    """The last lines of the failed task's log are headline, detail and hint."""
    assert task in error.headline
    lines = [line.removeprefix("  | ").strip() for line in error.detail.splitlines()]
    assert lines[-1].startswith("fix:")
    assert lines[-2].startswith("where:")
    assert word in " ".join(lines[-3:])


def assert_words_of_a_dead_server(airflow: AirflowApi, run_id: str) -> None:
    log = "\n".join(airflow.log(example.ROLLBACK, run_id, "rollback", 1))
    assert "where:" in log
    assert "fix:" in log


def assert_somebody_was_told(watcher: Watcher, stack: Stack) -> None:
    """The pipeline's notifier was called by the task that failed, and by the triggerer for the run that was late."""

    def told() -> dict[str, dict[str, str]]:
        lines = (stack.layout.home / "told.jsonl").read_text().splitlines()
        return {notice["event"]: notice for notice in map(json.loads, lines)}

    watcher.until(lambda: {"task_failed", "deadline_missed"} <= told().keys())
    failed, missed = told()["task_failed"], told()["deadline_missed"]
    assert f"task {example.FEATURES}.compute_features, run " in failed["detail"]
    assert DAY_1 in failed["text"] + failed["detail"]
    assert missed["headline"] == f"{example.ROLLBACK} is not done 1s after it was queued."
    assert missed["headline"] in missed["text"], "its template was rendered"
    assert "run manual__" in missed["detail"]


def assert_owned(airflow: AirflowApi, stack: Stack) -> None:
    """Everyone sees who answers for the model: in Airflow, and in MLflow."""
    assert airflow._call("GET", f"/dags/{example.TRAIN}")["owners"] == [OWNER]
    asset = next(one for one in airflow._all("/assets", "assets") if one["name"] == f"{example.MODEL}.champion")
    assert asset["extra"] == {"owner": OWNER}
    client = MlflowClient(stack.mlflow_url)
    assert client.get_registered_model(example.MODEL).tags["mlops.owner"] == OWNER


def assert_no_row_and_no_secret_left_the_data(stack: Stack) -> None:
    """In no XCom, rendered field or log, not in MLflow, the ledger, reports and the model store."""
    landed = pq.read_table(stack.layout.home / "lake" / "arrivals" / DAY_2)
    planted = [SECRET, *landed["flight_id"].to_pylist()[:200], *landed["tailnum"].to_pylist()[:200]]
    said = [*databases(stack.database.url("postgres")), *files(stack.layout.home, {*OF_THE_DATA, "postgres", "run"})]
    searched = {name for name, _ in found([DAY_2], said)}  # the day itself is everywhere
    assert {"airflow.xcom", "airflow.rendered_task_instance_fields", "mlops_ledger.mlops_fact"} <= searched
    assert any("/airflow/logs/" in name for name in searched)
    assert any("/mlflow/artifacts/" in name for name, _ in said)
    assert found(filter(None, planted), said) == []


def sealed(stack: Stack, dataset: str) -> list[str]:
    return PartitionStore.under(stack.layout.home).keys(dataset)


def rows(airflow: AirflowApi, trained: Trained) -> int:
    """Rows of the training's snapshot, all splits together."""
    snapshot = airflow.xcom(example.TRAIN, trained.run_id, "snapshot")
    manifest = json.loads((Path(snapshot["uri"]) / "manifest.json").read_text())
    return sum(split["rows"] for split in manifest["splits"].values())
