"""Trainings elsewhere: prepared by a worker, done by a process that shares nothing with it but a bucket, collected."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from airflow.sdk import DAG
from airflow.sdk.definitions.retry_policy import RetryAction
from airflow.sdk.exceptions import AirflowFailException

from airflow_mlops import GPU
from airflow_mlops.contracts import TrainingProgress
from airflow_mlops.engine.data import shared
from airflow_mlops.engine.training.jobs import Job
from airflow_mlops.engine.training.remote import open_bucket
from airflow_mlops.exceptions import ConfigError, DataError, TransientError
from airflow_mlops.operators import base
from airflow_mlops.operators.tensorflow_launch import (
    RetryJobWhileItGetsFurther,
    TensorFlowCollectTrainingOperator,
    TensorFlowPrepareTrainingOperator,
)
from tests.integration.test_s3_partitions import client, connection, endpoint, keys  # noqa: F401  fixtures
from tests.training_fixtures import make_snapshot
from tests.unit.test_training_tries import Store

HOME = "s3://aws_default@lake/mlops"
IMAGE = "train:1"

CODE = """
import os, time
import keras
from airflow_mlops.engine.training import checkpoints
from layers import head

def build(train, seed):
    if slow := float(os.environ.get("SLOW", 0)):
        checkpoints._OFTEN, checkpoints._SHARE, save = 0, 1e9, checkpoints.Checkpoints.save
        def slowly(*given):
            waits = time.monotonic() + slow
            while time.monotonic() < waits and not os.path.exists(os.path.expanduser("~/hurry")):
                time.sleep(0.1)
            return save(*given)
        checkpoints.Checkpoints.save = slowly
    inputs = {name: keras.Input((), name=name) for name in train}
    numbers = keras.ops.nan_to_num(keras.ops.stack(list(inputs.values()), axis=1))
    model = keras.Model(inputs, head(numbers))
    model.compile("sgd", "binary_crossentropy")
    return model
"""
LAYERS = """
import keras

def head(numbers):
    return keras.layers.Dense(1, activation="sigmoid")(numbers)
"""


class TaskInstance:
    """The little of a task instance that the operators use."""

    dag_id, run_id, max_tries = "m.train", "manual__1", 100

    def __init__(self, try_number: int = 1, **pulled: Any) -> None:
        self.try_number = try_number
        self.pushed: dict[str, Any] = {}
        self.pulled = pulled

    def xcom_push(self, key: str, value: Any) -> None:
        self.pushed[key] = value

    def xcom_pull(self, task_ids: str, key: str) -> Any:
        return self.pulled[key]


class Worker:
    """A worker with a cache of its own, and a cluster's machine that has no Airflow."""

    def __init__(self, folder: Path, endpoint: str) -> None:  # noqa: F811
        self.folder, self.endpoint = folder, endpoint
        self.dags = folder / "dags"
        self.dags.mkdir()
        (self.dags / "remote_code.py").write_text(CODE)
        (self.dags / "layers.py").write_text(LAYERS)
        self.dag = DAG("m.train", schedule=None)
        self.dag.fileloc = str(self.dags / "dag.py")
        snapshot = make_snapshot(folder, rows=2000)
        floats = {name: kind for name, kind in snapshot.features.items() if kind == "double"}
        home = base.open_home()
        manifest = snapshot.model_copy(update={"features": floats})
        shutil.copytree(folder / "snapshots", home / "snapshots")
        (home / "snapshots" / snapshot.id / "manifest.json").write_text(manifest.to_json())
        shared.send(home / "snapshots" / snapshot.id)

    def task(self, cls: type, **arguments: Any) -> Any:
        """Return a task on a worker that has never worked."""
        shutil.rmtree(base.cache_of(HOME), ignore_errors=True)
        shared._shares.clear()
        return cls(task_id=f"t{len(self.dag.task_ids)}", dag=self.dag, ledger_conn_id=None, **arguments)

    def run(self, cls: type, **arguments: Any) -> Any:
        task = self.task(cls, **arguments)
        return json.loads(json.dumps(task.execute({"ti": TaskInstance(), "outlet_events": {}, "dag_run": None})))

    def prepare(self, **changes: Any) -> dict[str, Any]:
        told = {"entrypoint": "remote_code:build", "epochs": 8, "batch_size": 100, **changes}
        told = {"model": "late", "snapshot": "snap1", "image": IMAGE, "mlflow_conn_id": None, **told}
        return self.run(TensorFlowPrepareTrainingOperator, **told)

    def environment(self, **more: str) -> dict[str, str]:
        """Return a clean environment, in which nothing of Airflow can be imported."""
        blocked = self.folder / "blocked" / "airflow"
        blocked.mkdir(parents=True, exist_ok=True)
        (blocked / "__init__.py").write_text("raise ImportError('there is no Airflow here')")
        credentials = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_DEFAULT_REGION": "us-east-1"}
        path = os.pathsep.join([str(blocked.parent), str(Path(__file__).parents[2])])
        told = {"PATH": os.environ["PATH"], "HOME": str(self.folder), "PYTHONPATH": path}
        return {**told, **credentials, "AWS_ENDPOINT_URL": self.endpoint, **more}

    def job(self, prepared: dict[str, Any], **more: str) -> subprocess.Popen[str]:
        """Do as the cluster does."""
        command = [sys.executable, *prepared["command"][1:]]
        kept = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
        return subprocess.Popen(command, env=self.environment(**more), cwd=self.folder, **kept)

    def collect(self, prepared: dict[str, Any], **more: Any) -> dict[str, Any]:
        told = {"model": "late", "job": prepared["job"], "mlflow_conn_id": None, **more}
        return self.run(TensorFlowCollectTrainingOperator, **told)


@pytest.fixture
def worker(tmp_path, connection, endpoint, monkeypatch) -> Iterator[Worker]:  # noqa: F811
    monkeypatch.setenv("AIRFLOW__MLOPS__HOME", HOME)
    monkeypatch.setenv("AIRFLOW__MLOPS__CACHE", str(tmp_path / "cache"))
    shared._shares.clear()
    yield Worker(tmp_path, endpoint)
    shared._shares.clear()


def wait_until(done: Callable[[], object], process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 300
    while not done():
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_a_job_that_is_killed_goes_on_and_is_never_done_twice(worker, client):  # noqa: F811
    prepared = worker.prepare()
    assert prepared["name"] == f"late-{prepared['job']}"
    assert worker.prepare() == prepared
    kept = f"mlops/checkpoints/{prepared['job']}/"

    # The machine is lost: nothing says why.
    process = worker.job(prepared, SLOW="3")
    wait_until(lambda: keys(client, kept), process)
    process.kill()
    process.communicate()
    with pytest.raises(TransientError, match="neither a result nor an error"):
        worker.collect(prepared)

    # A pod is deleted: it saves.
    process = worker.job(prepared, SLOW="3")
    assert process.stdout is not None
    assert any("Going on from a checkpoint" in line for line in process.stdout)
    process.send_signal(signal.SIGTERM)
    said = process.communicate(timeout=300)[0]
    assert process.returncode == 143, said
    assert "the next try goes on" in said
    with pytest.raises(TransientError, match="SIGTERM"):
        worker.collect(prepared)

    process = worker.job(prepared)
    said = process.communicate(timeout=300)[0]
    assert process.returncode == 0, said
    assert "Going on from a checkpoint" in said
    assert "there is no Airflow here" not in said
    assert keys(client, kept) == []

    process = worker.job(prepared)
    said = process.communicate(timeout=300)[0]
    assert "Already trained" in said
    assert process.returncode == 0

    trained = worker.collect(prepared)
    assert trained["spec_hash"].startswith(prepared["job"])
    assert (trained["epochs"], trained["snapshot"]) == (8, "snap1")
    spec = (Path(trained["training"]) / "spec.json").read_text()
    assert json.loads(spec)["environment"] == {"image": IMAGE}


def test_an_error_of_the_user_fails_once_and_in_words(worker, client):  # noqa: F811
    (worker.dags / "scripts").mkdir()
    (worker.dags / "scripts" / "train.py").write_text("import beside; raise SystemExit(beside.STATUS)")
    (worker.dags / "scripts" / "beside.py").write_text("STATUS = 7")
    mine = {"entrypoint": "", "script": "scripts/train.py"}
    prepared = worker.prepare(**mine)
    process = worker.job(prepared)
    said = process.communicate(timeout=300)[0]
    assert process.returncode == 1, said
    assert "scripts/train.py ended with status 7." in said.splitlines()[-3:][0]
    with pytest.raises(AirflowFailException, match="ended with status 7"):
        worker.collect(prepared)
    policy = RetryJobWhileItGetsFurther("train.prepare", None, retries=2)
    context: Any = {"ti": TaskInstance(job=prepared["job"]), "task_state_store": Store()}
    assert policy.evaluate(RuntimeError("pod failed"), 1, 2, context).action is RetryAction.FAIL
    worker.prepare(**mine)  # whoever clears it all has mended something
    assert policy.evaluate(RuntimeError("pod failed"), 1, 2, context).action is RetryAction.DEFAULT


def test_a_job_is_tried_again_as_long_as_it_gets_further(worker, client):  # noqa: F811
    prepared = worker.prepare()
    job = Job(base.open_home(), prepared["job"])
    policy = RetryJobWhileItGetsFurther("train.prepare", None, retries=1)
    context: Any = {"ti": TaskInstance(job=prepared["job"]), "task_state_store": Store()}

    def preempted(examples: int) -> RetryAction:
        told = dict.fromkeys(("epoch", "epochs", "step", "examples_left", "examples_per_second"), 1)
        told |= dict.fromkeys(("seconds_left", "oldest_event_time", "newest_event_time"), None)
        told |= {"at": datetime.now(UTC), "spec_hash": "", "metrics": {}, "history": {}, "times": ()}
        job.say_progress(TrainingProgress(examples=examples, **told))
        context["ti"].try_number += 1
        return policy.evaluate(RuntimeError("pod evicted"), 1, 100, context).action

    assert {preempted(examples) for examples in range(10, 60, 10)} == {RetryAction.DEFAULT}
    assert preempted(50) is RetryAction.FAIL


def test_what_a_job_cannot_do_is_said(worker, client, tmp_path):  # noqa: F811
    prepared = worker.prepare()
    other = {**prepared, "command": [*prepared["command"][:4], "0" * 16]}
    process = worker.job(other)
    said = process.communicate(timeout=300)[0]
    assert process.returncode == 1
    assert "There is no training 0000000000000000 to do." in said
    with pytest.raises(DataError, match="There is no training"):
        Job(base.open_home(), "0" * 16).spec()
    with pytest.raises(ConfigError, match="cannot be opened"):
        open_bucket("nowhere://lake/mlops")
    with pytest.raises(AirflowFailException, match="a folder of this machine"):
        worker.prepare(home=str(tmp_path))


def test_gpus_timeouts_and_the_image_are_in_the_command(worker):
    command = worker.prepare(gpu=GPU(2, free_within="1m"), timeout=60.0, stall_timeout=5.0)["command"]
    assert command[:3] == ["python", "-m", "airflow_mlops.engine.training.remote"]
    told = dict(zip(command[5::2], command[6::2], strict=True))
    assert told == {
        "--image": IMAGE,
        "--timeout": "60.0",
        "--stall-timeout": "5.0",
        "--gpu": '{"count": 2, "free_within": "1m"}',
    }
    assert max(map(len, command)) < 256  # what SageMaker takes of one
    # Another image is another training.
    assert worker.prepare(image="train:2")["job"] != worker.prepare()["job"]
