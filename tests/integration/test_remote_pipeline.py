"""A DAG whose training runs elsewhere, by a process that stands for the cluster: with a result, and with an error."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient

from airflow_mlops.engine.data import shared
from airflow_mlops.operators import base
from tests.airflow_home import airflow_home
from tests.conftest import ROOT
from tests.integration.test_remote_training import HOME, Worker
from tests.integration.test_s3_partitions import client, connection, endpoint  # noqa: F401  fixtures
from tests.training_fixtures import mlflow_server

DAGS = """
import json, os, subprocess, sys
from datetime import timedelta
from pathlib import Path
from typing import ClassVar
from airflow.providers.standard.operators.python import PythonOperator
from airflow.sdk import DAG
from airflow_mlops.launchers import RemoteLauncher
from airflow_mlops.operators.tensorflow import TensorFlowEvaluateModelOperator
from airflow_mlops.operators.tensorflow_launch import training_tasks
from airflow_mlops.typed import part

def run(command):
    environment = json.loads(os.environ["OF_THE_JOB"])
    subprocess.run([sys.executable, *command[1:]], env=environment, check=True)

@part
class Elsewhere(RemoteLauncher):
    operator: ClassVar[str] = "airflow.providers.standard.operators.python.PythonOperator"

    def arguments(self, job):
        return {"python_callable": run, "op_args": [job.command]}

def made(dag_id, **what):
    with DAG(dag_id, schedule=None, default_args={"retries": 1, "retry_delay": timedelta(seconds=1)}) as dag:
        train = training_tasks(
            launcher=Elsewhere(image="train:1"), model="late", snapshot="snap1", epochs=1, ledger_conn_id=None, **what
        )
        TensorFlowEvaluateModelOperator(task_id="evaluate", model="late", training=train.output["training"])
    return dag

good = made("good", entrypoint="remote_code:build")
bad = made("bad", script="fails.py")

if __name__ == "__main__":
    found = {}
    for dag in good, bad:
        done = dag.test()
        instances = done.get_task_instances()
        tries = {one.task_id: one.try_number for one in instances}
        found[dag.dag_id] = {one.task_id: [str(one.state), tries[one.task_id]] for one in instances}
    Path(sys.argv[1]).write_text(json.dumps(found))
"""


@pytest.fixture
def runs(tmp_path: Path, connection: str, endpoint: str, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:  # noqa: F811
    monkeypatch.setenv("AIRFLOW__MLOPS__HOME", HOME)
    monkeypatch.setenv("AIRFLOW__MLOPS__CACHE", str(tmp_path / "cache"))
    shared._shares.clear()
    worker = Worker(tmp_path, endpoint)
    shutil.rmtree(base.cache_of(HOME))
    shared._shares.clear()
    (worker.dags / "fails.py").write_text("raise SystemExit(7)")
    file, told = worker.dags / "elsewhere.py", tmp_path / "found.json"
    file.write_text(textwrap.dedent(DAGS))
    mlflow = json.dumps({"conn_type": "mlflow", "host": mlflow_server()})
    environment = {
        **os.environ,
        "AIRFLOW_HOME": str(airflow_home(tmp_path / "airflow")),
        "AIRFLOW__CORE__DAGS_FOLDER": str(worker.dags),
        "AIRFLOW_CONN_MLFLOW_DEFAULT": mlflow,
        "AIRFLOW_CONN_MLOPS_LEDGER_DEFAULT": json.dumps(
            {"conn_type": "mlops_ledger", "host": f"sqlite:///{tmp_path}/ledger.db"}
        ),
        "OF_THE_JOB": json.dumps(worker.environment()),
        "PYTHONPATH": str(ROOT),
    }
    done = subprocess.run(
        [sys.executable, str(file), str(told)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=400,
        check=False,
    )
    assert told.exists(), done.stdout[-6000:] + done.stderr[-3000:]
    return {**json.loads(told.read_text()), "said": done.stdout + done.stderr}


def mlflow_runs() -> dict[str, Any]:
    """Return the runs that MLflow has of the two trainings, by how they ended."""
    registry = MlflowClient(mlflow_server())
    [experiment] = [one for one in registry.search_experiments() if one.name.endswith("late")]
    return {run.info.status: run for run in registry.search_runs([experiment.experiment_id])}


def test_what_comes_after_sees_no_difference_and_an_error_is_said_once(runs: dict[str, Any]):
    assert runs["good"] == {
        name: ["success", 1] for name in ("train.prepare", "train.run", "train.collect", "evaluate")
    }
    assert runs["bad"] == {
        "train.prepare": ["success", 1],
        "train.run": ["failed", 1],  # not tried again
        "train.collect": ["failed", 1],
        "evaluate": ["upstream_failed", 0],
    }
    assert "fails.py ended with status 7." in runs["said"]
    told = mlflow_runs()
    assert told.keys() == {"FINISHED", "FAILED"}
    assert "epoch/loss" in told["FINISHED"].data.metrics
    assert "ended with status 7" in told["FAILED"].data.tags["mlops.error"]
